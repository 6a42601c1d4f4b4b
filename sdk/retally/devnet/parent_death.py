"""Run a program that ends with its parent: `python parent_death.py PARENT_PID PROGRAM ARGUMENTS…` (Linux).

Stands alone and imports nothing of retally, so that it costs one bare interpreter start before it becomes the program.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for SIGTERM at the parent's death, then become the program."""
    parent = int(sys.argv[1])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("parent_death: the parent died before the program could start")
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()

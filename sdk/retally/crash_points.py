"""Named instants at which a test may kill this process, inert unless RETALLY_CRASH_AT names one."""

from __future__ import annotations

import os
import signal

VARIABLE = "RETALLY_CRASH_AT"


def crash_point(name: str) -> None:
    """Die by SIGKILL here when the environment names this point, as a power cut would."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)

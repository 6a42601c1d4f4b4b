"""Named instants at which a test may kill this process, inert unless RETALLY_CRASH_AT names one."""

from __future__ import annotations

import os
import signal

VARIABLE = "RETALLY_CRASH_AT"
# Looked up once: a job passes many of them.
_armed = os.environ.get(VARIABLE)


def arm(name: str) -> None:
    """From now on this process dies there, and what it starts."""
    global _armed
    os.environ[VARIABLE] = _armed = name


def crash_point(name: str) -> None:
    """Die by SIGKILL here when the environment names this point, as a power cut would."""
    if _armed == name:
        os.kill(os.getpid(), signal.SIGKILL)

"""Files for their owner alone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def make_private(path: Path) -> None:
    """Creates a file that only its owner may read, with its folder, unless it is there.

    One that is there is not even opened: closing it would take from this process the locks that SQLite holds on it
    through another connection (POSIX), and the next process would then clear away what that one still uses.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

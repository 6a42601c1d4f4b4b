"""One process at a time: a lock beside a file, which the system takes back from whoever dies."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from retally.errors import UpstreamTimeout
from retally.private_files import make_private

POLL_SECONDS = 0.05


@asynccontextmanager
async def locked(file: Path | None, seconds: float) -> AsyncIterator[None]:
    """Holds the lock of a file that need not be there; nothing is locked for no file."""
    if file is None:
        yield
        return
    beside = file.with_suffix(".lock")
    make_private(beside)
    handle = os.open(beside, os.O_RDWR)
    try:
        await _take(handle, beside, seconds)
        yield
    finally:
        os.close(handle)


async def _take(handle: int, path: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise UpstreamTimeout(f"another process holds {path}", code="locked") from error
        await asyncio.sleep(POLL_SECONDS)

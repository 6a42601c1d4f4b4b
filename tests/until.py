"""Waiting in tests for what happens in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(met: Callable[[], bool], seconds: float = 10.0) -> None:
    """Returns once that is so; fails if it is not by then."""
    for _ in range(int(seconds * 100)):
        if met():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not within {seconds:g} seconds")

"""Whether a task was told to stop, also where that was swallowed."""

from __future__ import annotations

import asyncio


def is_told_to_stop() -> bool:
    """Whether this task was cancelled and something else came instead: an error of a store, a result just then.

    Whoever cancelled it waits for its end, so that a loop which goes on after that makes two tasks hang.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

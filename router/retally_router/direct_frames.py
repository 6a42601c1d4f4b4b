"""Passes a node's plain frames on as they arrive: checked and counted as any, without waking the job's task.

Most frames of a stream are of tokens alone. What is anything more, or needs somebody to wait, is left to the task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from retally.errors import RetallyError
from retally_router.frames import Frame
from retally_router.sink import DirectOut
from retally_router.sse import is_one_object, payload_of

if TYPE_CHECKING:
    from retally_router.serve_job import ServeJob


class DirectFrames:
    """One job's, while its task waits for its node and nothing that came before is left."""

    def __init__(self, job: ServeJob, out: DirectOut) -> None:
        self._job = job
        self._out = out

    def __call__(self, data: bytes) -> bool:
        """Whether what the node sent was passed on; if not, nothing has happened."""
        placement = self._job.placement
        if placement is None or not self._out.has_room or not is_one_object(data) or not placement.is_next(data):
            return False
        try:
            frame = Frame(data, payload_of(data) or b"")
            if not frame.is_plain:
                return False
            taken = placement.checker.take(frame)
        except RetallyError:
            # The task finds it again, and tells.
            return False
        placement.received += len(data)
        self._job.count(placement, taken)
        self._job.last = frame
        self._out.put(data)
        return True

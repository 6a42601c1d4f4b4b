"""Server-sent events, split into their JSON objects as the bytes pass by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


class FrameReader:
    """Takes bytes in any cut and gives back whole frames; `[DONE]` and comments are left out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """The frames that these bytes complete."""
        self._rest += piece.replace(b"\r\n", b"\n")
        while (end := self._rest.find(b"\n\n")) >= 0:
            event, self._rest = self._rest[:end], self._rest[end + 2 :]
            frame = _json_of(event)
            if frame is not None:
                yield frame


def _json_of(event: bytes) -> dict[str, Any] | None:
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    data = b"\n".join(lines)
    if not data or data == b"[DONE]":
        return None
    try:
        frame = json.loads(data)
    except ValueError:
        return None
    return frame if isinstance(frame, dict) else None

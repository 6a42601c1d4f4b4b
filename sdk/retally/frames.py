"""Server-sent events, split into their JSON objects as the bytes pass by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from retally.errors import PayloadTooLarge

#: No honest frame is as long; what has no end must not fill the memory.
MOST_BYTES = 16 << 20


class FrameReader:
    """Takes bytes in any cut and gives back whole frames; `[DONE]` and comments are left out."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._held = b""

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """The frames that these bytes complete; raises PayloadTooLarge for one without an end."""
        # Only what is new is searched, and the newline before it.
        start = max(0, len(self._rest) - 1)
        piece = self._held + piece
        # The other half of a line's end may be in the next piece.
        self._held = b"\r" if piece.endswith(b"\r") else b""
        self._rest += piece.removesuffix(b"\r").replace(b"\r\n", b"\n")
        while (end := self._rest.find(b"\n\n", start)) >= 0:
            event, start = bytes(self._rest[:end]), 0
            del self._rest[: end + 2]
            frame = _json_of(event)
            if frame is not None:
                yield frame
        if len(self._rest) > MOST_BYTES:
            raise PayloadTooLarge(MOST_BYTES)


def _json_of(event: bytes) -> dict[str, Any] | None:
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    data = b"\n".join(lines)
    if not data or data == b"[DONE]":
        return None
    try:
        frame = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return frame if isinstance(frame, dict) else None

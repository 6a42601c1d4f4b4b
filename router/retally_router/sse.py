"""Server-sent events: cutting a byte stream at frames, without touching the bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from retally.errors import NodeUnavailable

DONE = b"data: [DONE]\n\n"
_DATA = b"data:"


MOST_FRAME_BYTES = 4 * 1024 * 1024
_OBJECT = b"data: {"


class FrameCutter:
    """Gives out whole frames; keeps the incomplete rest, up to a limit."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def is_between(self) -> bool:
        """Whether no part of a frame waits for the rest of it."""
        return not self._rest

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that the data completes, each with its blank line."""
        buffered = self._rest + data if self._rest else data
        *frames, self._rest = buffered.split(b"\n\n")
        if len(self._rest) > MOST_FRAME_BYTES:
            raise NodeUnavailable(f"the node sent a frame of more than {MOST_FRAME_BYTES} bytes")
        return [frame + b"\n\n" for frame in frames]


def is_one_object(data: bytes) -> bool:
    """Whether it is one whole frame that carries a JSON object, by its ends: most reads of a slow stream are."""
    return data.startswith(_OBJECT) and data.find(b"\n\n") == len(data) - 2


def payload_of(frame: bytes) -> bytes | None:
    """The data of a frame, if it has any (comments and blank frames have none)."""
    if frame.startswith(_OBJECT):
        return frame[len(_DATA) + 1 : -2]
    text = frame.strip()
    return text[len(_DATA) :].strip() if text.startswith(_DATA) else None


def frame_of(value: Any) -> bytes:
    """A frame that carries a JSON value."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"

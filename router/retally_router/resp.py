"""Redis' protocol: commands as bytes, replies out of a stream of bytes."""

from __future__ import annotations

from typing import Any

from retally_router.store_errors import ScriptUnknown, StoreRefused

Part = bytes | str | int


class Incomplete(Exception):
    """The reply has not come whole yet."""


def command_of(*parts: Part) -> bytes:
    """One command."""
    raws = [part if isinstance(part, bytes) else _raw(part) for part in parts]
    return b"*%d\r\n" % len(raws) + b"".join([b"$%d\r\n%b\r\n" % (len(raw), raw) for raw in raws])


def _raw(part: str | int) -> bytes:
    return part.encode() if isinstance(part, str) else str(part).encode()


class Replies:
    """Cuts replies out of what comes."""

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0

    def feed(self, data: bytes) -> list[Any]:
        """The replies that the data completes; an error is a reply, too."""
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at, found = 0, []
        while self._at < len(self._buffer):
            start = self._at
            try:
                found.append(self._reply())
            except Incomplete:
                self._at = start
                break
        return found

    def _line(self) -> bytes:
        end = self._buffer.find(b"\r\n", self._at)
        if end < 0:
            raise Incomplete
        line, self._at = self._buffer[self._at : end], end + 2
        return line

    def _reply(self) -> Any:
        line = self._line()
        kind = line[:1]
        if kind == b"+":
            return line[1:]
        if kind == b":":
            return int(line[1:])
        if kind == b"$":
            return self._bulk(int(line[1:]))
        if kind == b"*":
            count = int(line[1:])
            return None if count < 0 else [self._reply() for _ in range(count)]
        if kind == b"-":
            text = line[1:].decode("utf-8", "replace")
            return ScriptUnknown(text) if text.startswith("NOSCRIPT") else StoreRefused(text)
        raise ValueError(f"no reply of Redis starts with {line[:20]!r}")

    def _bulk(self, size: int) -> bytes | None:
        if size < 0:
            return None
        end = self._at + size
        if len(self._buffer) < end + 2:
            raise Incomplete
        value, self._at = self._buffer[self._at : end], end + 2
        return value

"""Server-sent events in any cut of the bytes."""

from __future__ import annotations

import pytest

from retally import frames
from retally.errors import PayloadTooLarge
from retally.frames import FrameReader


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_any_cut_gives_the_same_frames(end: bytes) -> None:
    data = b'data: {"a":1}' + end + end + b": comment" + end + end + b'data: {"a":2}' + end + end
    for cut in range(len(data) + 1):
        reader = FrameReader()
        assert [frame["a"] for part in (data[:cut], data[cut:]) for frame in reader.feed(part)] == [1, 2], cut
    reader = FrameReader()
    assert [frame["a"] for byte in data for frame in reader.feed(bytes([byte]))] == [1, 2]


def test_a_frame_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST_BYTES", 1000)
    reader = FrameReader()
    assert list(reader.feed(b"x" * 1000)) == []
    with pytest.raises(PayloadTooLarge):
        list(reader.feed(b"x"))


def test_what_was_searched_is_not_searched_again() -> None:
    class Counting(bytearray):
        looked_at = 0

        def find(self, sub: bytes, start: int = 0) -> int:  # type: ignore[override]
            self.looked_at += len(self) - start
            return super().find(sub, start)

    reader = FrameReader()
    reader._rest = counting = Counting()
    for _ in range(1000):
        list(reader.feed(b"x" * 100))
    assert counting.looked_at < 2 * 1000 * 101


def test_a_deep_frame_is_none() -> None:
    assert list(FrameReader().feed(b"data: " + b"[" * 3000 + b"\n\n")) == []

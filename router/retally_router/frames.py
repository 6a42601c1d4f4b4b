"""What the router reads of a node's frames: as little as it checks; the bytes themselves go on untouched."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from retally.errors import NodeUnavailable, error_of_envelope
from retally.protocol.merkle import MAX_Q
from retally_router.sse import payload_of

TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Quantised = Annotated[int, msgspec.Meta(ge=0, le=MAX_Q)]
NOTHING = msgspec.Raw()


class Extra(msgspec.Struct, rename="camel", gc=False):
    """The `retally` part of a frame."""

    choice: int | None = None
    prompt_tokens: int | None = None
    output_from: int | None = None
    ids: list[TokenId] = []
    q: list[Quantised] = []
    chunk: dict[str, Any] | None = None
    chunk_signature: str | None = None
    receipt: dict[str, Any] | None = None
    receipt_signature: str | None = None


class View(msgspec.Struct, gc=False):
    """A frame whose answer is forwarded as bytes."""

    retally: Extra | None = None
    error: msgspec.Raw = NOTHING
    usage: msgspec.Raw = NOTHING


class Delta(msgspec.Struct, gc=False):
    """The text of a chat frame, and its calls of tools."""

    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChoiceView(msgspec.Struct, gc=False):
    """One choice of a frame."""

    index: int
    delta: Delta | None = None
    text: str | None = None
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None


class WholeView(View, gc=False):
    """A frame that is to be put together with others."""

    id: str | None = None
    created: int | None = None
    model: str | None = None
    choices: list[ChoiceView] = []


_VIEW, _WHOLE = msgspec.json.Decoder(View), msgspec.json.Decoder(WholeView)


class Frame:
    """One frame: its bytes, what is checked of it, and on demand all that it says."""

    __slots__ = ("_value", "extra", "has_usage", "raw", "view")

    def __init__(self, raw: bytes, payload: bytes, *, whole: bool = False) -> None:
        self.raw = raw
        self._value: dict[str, Any] | None = None
        self.view: View | None
        try:
            self.view = view = (_WHOLE if whole else _VIEW).decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.view, self.extra, self.has_usage = None, None, False
            self._refuse_errors()
            return
        self.extra = view.retally
        self.has_usage = view.usage is not NOTHING and bytes(view.usage) != b"null"
        if view.error is not NOTHING and bytes(view.error) != b"null":
            self._refuse_errors()

    @property
    def has_receipt(self) -> bool:
        """Whether it carries one."""
        return self.extra is not None and self.extra.receipt is not None

    @property
    def is_plain(self) -> bool:
        """Whether it is of tokens, and perhaps their chunk, and of nothing that has to be put on record."""
        extra = self.extra
        return extra is not None and bool(extra.ids) and extra.receipt is None and not self.has_usage

    @property
    def payload(self) -> bytes:
        """The data in it: cut out anew, since a worker that lags behind holds many frames and reads few of them."""
        return payload_of(self.raw) or b""

    @property
    def value(self) -> dict[str, Any]:
        """The JSON object; raises NodeUnavailable when it is none."""
        if self._value is None:
            try:
                value = msgspec.json.decode(self.payload)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise NodeUnavailable("the node sent a frame that is no JSON") from error
            if not isinstance(value, dict):
                raise NodeUnavailable("the node sent a frame that is no object")
            self._value = value
        return self._value

    @property
    def shown(self) -> dict[str, Any]:
        """What goes on record of it: its object, or its bytes where a node hid them behind what is no JSON."""
        try:
            return self.value
        except NodeUnavailable:
            return {"raw": self.payload.hex()}

    def _refuse_errors(self) -> None:
        if self.value.get("error"):
            raise error_of_envelope(503, self.value)


def made_frame(value: dict[str, Any], *, whole: bool) -> Frame:
    """A frame that the router itself puts into a stream."""
    payload = msgspec.json.encode(value)
    return Frame(b"data: " + payload + b"\n\n", payload, whole=whole)

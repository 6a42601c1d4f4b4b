"""From growing token ids to text, in a time that grows as they do, whatever the ids are."""

from __future__ import annotations

import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
#: Up to so many tokens since the last complete text are decoded anew at each: it costs less than to look first.
FEW_TOKENS = 8
#: A character has at most so many bytes, and a token that says anything at least one.
CHARACTER_BYTES = 4
#: Steps of decoding that may stand before and behind that of single bytes and leave alone what it makes of them.
_BLANKS = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
_JOINING = frozenset({"Fuse", "Strip"})
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenTexts:
    """What detokenizers know of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder().values()
        self._special = frozenset(token.content for token in added if token.special)
        steps = _decoder_steps(tokenizer)
        kinds = [step.get("type") for step in steps]
        #: Whether the text of ids is what their bytes come to, whatever stands before and behind.
        self.joins_bytes = kinds == ["ByteLevel"]
        #: Whether some tokens are single bytes, of which one wrong one makes all next to it unreadable.
        self.falls_back_to_bytes = False
        if "ByteFallback" in kinds:
            at = kinds.index("ByteFallback")
            self.falls_back_to_bytes = all(step == _BLANKS for step in steps[:at]) and _JOINING.issuperset(
                kinds[at + 1 :]
            )

    def text_of(self, token_id: int) -> str | None:
        """A token as the vocabulary spells it; None where decoding leaves it out."""
        token: str | None = self.tokenizer.id_to_token(token_id)
        is_silent = token is None or token in self._special or (self.joins_bytes and not token)
        return None if is_silent else token

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


class Detokenizer:
    """Text of a growing list of ids; a character whose bytes are not complete is held back."""

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._ids: list[int] = []
        self._begin = 0
        self._read = 0
        self._run = _ByteRun()

    def push(self, ids: Sequence[int]) -> str:
        """Take new ids and return the text that they complete."""
        if self._texts.joins_bytes and len(ids) > 1:
            return self._push_bytes(ids)
        return "".join(self._push_one(token_id) for token_id in ids)

    def finish(self) -> str:
        """Return what was held back, at the end."""
        before, after = self._around()
        self._begin = self._read = len(self._ids)
        return after[len(before) :]

    def _push_one(self, token_id: int) -> str:
        token = self._texts.text_of(token_id)
        if token is None:
            return ""
        self._ids.append(token_id)
        if not self._may_complete(token):
            return ""
        before, after = self._around()
        if len(after) <= len(before) or after.endswith(REPLACEMENT):
            return ""
        # Decoding goes on from the last complete text, since tokenizers may join a token with the one before it.
        self._begin, self._read = self._read, len(self._ids)
        return after[len(before) :]

    def _push_bytes(self, ids: Iterable[int]) -> str:
        """All at once, which comes to the same where the tokens before do not matter."""
        self._ids += [token_id for token_id in ids if self._texts.text_of(token_id) is not None]
        end = len(self._ids)
        while end > self._read and not self._ends_readable(end):
            end -= 1
        text = self._texts.decode(self._ids[self._read : end])
        if end > self._read:
            self._begin = self._read = end
        return text

    def _may_complete(self, token: str) -> bool:
        """Whether decoding all since the last complete text may come to text.

        Tokens that come to none would be decoded again and again, all of them at each.
        """
        is_sound = not self._texts.falls_back_to_bytes or self._run.take(token)
        if len(self._ids) - self._read <= FEW_TOKENS:
            return True
        return self._ends_readable(len(self._ids)) if self._texts.joins_bytes else is_sound

    def _ends_readable(self, end: int) -> bool:
        """Whether joined bytes end in a whole character, which their last few tell."""
        tail = self._texts.decode(self._ids[max(0, end - CHARACTER_BYTES) : end])
        return not tail.endswith(REPLACEMENT)

    def _around(self) -> tuple[str, str]:
        decode = self._texts.decode
        return decode(self._ids[self._begin : self._read]), decode(self._ids[self._begin :])


class _ByteRun:
    """The tokens at the end that are single bytes: text once all of them together are whole characters."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")()
        self._is_spoiled = False

    def take(self, token: str) -> bool:
        """Take a token, and tell whether text may end with it."""
        byte = _BYTE_TOKEN.fullmatch(token)
        if byte is None:
            self._decoder.reset()
            self._is_spoiled = False
            return not token.endswith(REPLACEMENT)
        if self._is_spoiled:
            return False
        try:
            return self._decoder.decode(bytes.fromhex(byte[1])) not in ("", REPLACEMENT)
        except UnicodeDecodeError:
            self._is_spoiled = True
            return False


def _decoder_steps(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    if tokenizer.decoder is None:
        return []
    written = json.loads(tokenizer.decoder.__getstate__())
    steps: list[dict[str, Any]] = written.get("decoders", [written])
    return steps

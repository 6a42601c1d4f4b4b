"""Text of growing ids: what decoding all of them anew at each token comes to, at a cost that grows as they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes_node import tiny_format
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from retally.inference.chat_format import ChatFormat
from retally.inference.detokenizer import FEW_TOKENS, Detokenizer, TokenTexts
from retally.inference.tool_calls import ToolCall
from retally.protocol.params import JobParams
from retally.protocol.structure import ToolChoice
from retally_node.decode import SaidByTokens

MODEL = Path(__file__).parents[2] / "sdk/retally/devnet/model"
#: Characters of one to four bytes, a whole replacement character, and bytes that are part of none.
PARTS = [
    b"a",
    b" b",
    "\u00e9".encode(),
    "\u20ac".encode(),
    "\U0001f600".encode(),
    "\ufffd".encode(),
    b"\xe2",
    b"\x82\x82",
    b"\xf0\x9f",
    b"\xff",
    b"\xed\xa0\x80",
]


class Anew:
    """The plain rule: all since the last two complete texts, decoded at each token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._ids, self._begin, self._read = tokenizer, list[int](), 0, 0

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        before, after = self._around()
        if len(after) <= len(before) or after.endswith("\ufffd"):
            return ""
        self._begin, self._read = self._read, len(self._ids)
        return after[len(before) :]

    def finish(self) -> str:
        before, after = self._around()
        return after[len(before) :]

    def _around(self) -> tuple[str, str]:
        parts = (self._ids[self._begin : self._read], self._ids[self._begin :])
        before, after = (self._tokenizer.decode(part, skip_special_tokens=True) for part in parts)
        return before, after


def byte_level() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["", "\u0120the", "\u00e2\u0124\u00ac", "a\u00e2", "\u0124\u00ac", "<tool>", "\u00ff", "a b"]
    vocab = {word: n for n, word in enumerate([*words[:-2], *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>", "<tool>"])
    tokenizer.add_tokens(["a b", "caf\u00e9"])
    return tokenizer


def byte_fallback(*, strips: bool) -> Tokenizer:
    words = ["\u2581", "\u2581the", "a", "b", "\ufffd", "x\ufffd", "\u20ac", "<0xE2>x"]
    vocab = {word: n for n, word in enumerate([*(f"<0x{byte:02X}>" for byte in range(256)), *words])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strips else steps)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def other(decoder: decoders.Decoder | None) -> Tokenizer:
    vocab = {word: n for n, word in enumerate(["\u2581", "\u2581a", "a", "##b", "b", "\ufffd", "", "<0xE2>", "<0x82>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "the devnet's": lambda: Tokenizer.from_file(str(MODEL / "tokenizer.json")),
    "byte fallback": lambda: byte_fallback(strips=False),
    "byte fallback that strips": lambda: byte_fallback(strips=True),
    "byte fallback behind fused": lambda: other(decoders.Sequence([decoders.Fuse(), decoders.ByteFallback()])),
    "metaspace": lambda: other(decoders.Metaspace()),
    "word pieces": lambda: other(decoders.WordPiece()),
    "none": lambda: other(None),
}
MADE = {name: make() for name, make in TOKENIZERS.items()}


def byte_ids(tokenizer: Tokenizer) -> dict[int, int]:
    """The tokens that are single bytes, by byte."""
    symbols = dict(zip(sorted(pre_tokenizers.ByteLevel.alphabet()), range(256), strict=True))
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    spelled = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(rest)}
    assert set(spelled.values()) == set(symbols)
    found = {}
    for byte in range(256):
        for spelling in (f"<0x{byte:02X}>", spelled[byte]):
            token_id = tokenizer.token_to_id(spelling)
            if token_id is not None:
                found.setdefault(byte, token_id)
    return found


def answers(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Ids at random, runs of one id, and characters and scraps of them, a byte a token."""
    size, known = tokenizer.get_vocab_size(), byte_ids(tokenizer)
    one = st.integers(0, size).map(lambda token_id: [token_id])
    run = st.tuples(st.integers(0, size), st.integers(1, 3 * FEW_TOKENS)).map(lambda drawn: [drawn[0]] * drawn[1])
    part = st.tuples(st.sampled_from(PARTS), st.integers(1, 2 * FEW_TOKENS)).map(
        lambda drawn: [known[byte] for byte in drawn[0] if byte in known] * drawn[1]
    )
    special = st.sampled_from(sorted(tokenizer.get_added_tokens_decoder())).map(lambda token_id: [token_id])
    return st.lists(st.one_of(one, run, part, special), max_size=8).map(lambda drawn: [*chain(*drawn)])


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_each_token_shows_what_decoding_anew_shows(name: str, data: st.DataObject) -> None:
    tokenizer = MADE[name]
    ids = data.draw(answers(tokenizer))
    plain, reader = Anew(tokenizer), Detokenizer(TokenTexts(tokenizer))
    pieces = [plain.push(token_id) for token_id in ids]
    assert [reader.push((token_id,)) for token_id in ids] == pieces
    assert reader.finish() == plain.finish()


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_a_prefix_at_once_comes_to_the_same_as_token_by_token(name: str, data: st.DataObject) -> None:
    tokenizer = MADE[name]
    ids = data.draw(answers(tokenizer))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), min_size=2, max_size=2)))
    plain, reader = Anew(tokenizer), Detokenizer(TokenTexts(tokenizer))
    pieces = [plain.push(token_id) for token_id in ids]
    for begin, end in ((0, cuts[0]), (cuts[0], cuts[1])):
        assert reader.push(ids[begin:end]) == "".join(pieces[begin:end])
    assert [reader.push((token_id,)) for token_id in ids[cuts[1] :]] == pieces[cuts[1] :]
    assert reader.finish() == plain.finish()


@pytest.mark.parametrize("name", ["byte level", "the devnet's"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_all_of_a_byte_level_answer_is_its_decoding(name: str, data: st.DataObject) -> None:
    tokenizer = MADE[name]
    ids = data.draw(answers(tokenizer))
    reader = Detokenizer(TokenTexts(tokenizer))
    assert reader.push(ids) + reader.finish() == tokenizer.decode(ids, skip_special_tokens=True)


SAID = ["<tool_call>", "</tool_call>", '{"name": "f", "arguments": {}}', "{}", " ", "\n", "word", "sto", "p!", "\u20ac"]


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.sampled_from(SAID), max_size=10),
    cut=st.floats(0, 1),
    has_tools=st.booleans(),
    stop=st.sampled_from([(), ("stop",), ("p!w", "d ")]),
)
def test_what_is_said_does_not_depend_on_how_tokens_come(
    tiny: ChatFormat, parts: list[str], cut: float, has_tools: bool, stop: tuple[str, ...]
) -> None:
    params = JobParams(
        max_tokens=8,
        template_date="2026-11-21",
        stop=stop,
        tool_choice=ToolChoice("auto") if has_tools else ToolChoice(),
    )
    ids = tiny.render({"prompt": "".join(parts)}, "2026-11-21") if any(parts) else []
    at = round(cut * len(ids))
    slow, fast = SaidByTokens(tiny, params), SaidByTokens(tiny, params, ids[:at])
    for token_id in ids[:at]:
        slow.push(token_id)
    assert (fast.stopped, fast.has_calls) == (slow.stopped, slow.has_calls)
    assert [fast.push(token_id) for token_id in ids[at:]] == [slow.push(token_id) for token_id in ids[at:]]
    assert fast.finish() == slow.finish()
    assert shown(tiny, params, [[token_id] for token_id in ids]) == shown(tiny, params, [ids])


def shown(tiny: ChatFormat, params: JobParams, pushes: Sequence[Sequence[int]]) -> tuple[str, list[ToolCall]]:
    reader = SaidByTokens(tiny, params)
    said = [*(reader.push_all(ids) for ids in pushes), reader.finish()]
    return "".join(part.text for part in said), [call for part in said for call in part.calls]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    return tiny_format(tmp_path_factory.mktemp("tiny"))


class Counting(TokenTexts):
    """Counts the tokens that are decoded."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self.decoded = 0

    def decode(self, ids: Sequence[int]) -> str:
        self.decoded += len(ids)
        return super().decode(ids)


class TestCost:
    """A token is decoded a few times at most, not once for each that comes behind it."""

    @pytest.mark.parametrize("name", ["byte level", "byte fallback"])
    @pytest.mark.parametrize("kind", ["special", "lone byte", "replacement"])
    @pytest.mark.parametrize("at_once", [False, True])
    def test_tokens_without_text_cost_no_more_than_others(self, name: str, kind: str, at_once: bool) -> None:
        tokenizer = MADE[name]
        texts, known = Counting(tokenizer), byte_ids(tokenizer)
        special = next(i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special)
        pattern = {"special": [special], "lone byte": [known[0xE2]], "replacement": [known[b] for b in b"\xef\xbf\xbd"]}
        ids = [known[0xFF]] + pattern[kind] * (1_000 // len(pattern[kind]))
        reader = Detokenizer(texts)
        for part in [ids] if at_once else [(token_id,) for token_id in ids]:
            reader.push(part)
        assert texts.decoded <= 2 * FEW_TOKENS * len(ids)

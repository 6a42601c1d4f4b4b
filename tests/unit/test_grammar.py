"""Grammar masks: which tokens they allow, what the sampler makes of them, and what a replay does (R-28, R-34, R-70)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fakes_node import tiny_format
from tests.sampler_cases import VOCABULARY, params

from retally.devnet.tools import devnet_model_dir
from retally.errors import BadRequest
from retally.inference.engine import Scores
from retally.inference.grammar import GrammarBook
from retally.inference.sampler_grammar import Reading
from retally.inference.sampler_rows import Row
from retally.inference.torch_sampler import choose
from retally.protocol.grammar import AnswerMasks, Words
from retally.protocol.margins import CLIP, MaskedScores, Replayed, token_margins
from retally.protocol.params import JobParams
from retally.protocol.sampler import log_softmax, sample_token
from retally.protocol.structure import ResponseFormat, grammar_of

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "grammar.json").read_text(encoding="utf-8"))["cases"]
FORM = ResponseFormat("json_object")


@pytest.fixture(scope="module")
def book() -> GrammarBook:
    return GrammarBook.load(devnet_model_dir())


def ids_of(words: Words | None, size: int = 4096) -> list[int]:
    assert words is not None
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")[:size]).tolist()


def words_of(ids: Sequence[int], size: int) -> Words:
    bits = np.zeros((size + 31) // 32 * 32, dtype=np.uint8)
    bits[list(ids)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


class TestVectors:
    @pytest.mark.parametrize("case", VECTORS, ids=range(len(VECTORS)))
    def test_allow_the_same_tokens(self, book: GrammarBook, case: dict[str, Any]) -> None:
        rows = book.masks(case["grammar"], case["eos"], [], case["ids"])
        for row, expected in zip(rows, case["allowed"], strict=True):
            assert ids_of(row) == [first + n for first, count in expected for n in range(count)]

    @pytest.mark.parametrize("case", VECTORS, ids=range(len(VECTORS)))
    def test_an_answer_goes_on_anywhere(self, book: GrammarBook, case: dict[str, Any]) -> None:
        ids, whole = case["ids"], book.masks(case["grammar"], case["eos"], [], case["ids"])
        for cut in range(1, len(ids), 5):
            assert all(
                np.array_equal(one, other)
                for one, other in zip(
                    book.masks(case["grammar"], case["eos"], ids[:cut], ids[cut:]), whole[cut:], strict=True
                )
            )

    @pytest.mark.parametrize("case", VECTORS, ids=range(len(VECTORS)))
    def test_tell_where_an_answer_goes_astray(self, book: GrammarBook, case: dict[str, Any]) -> None:
        masks = AnswerMasks(book.masks(case["grammar"], case["eos"], [], case["ids"]))
        assert masks.first_forbidden(case["ids"]) == (None if case["isWhole"] else len(case["ids"]) - 1)


class TestWalk:
    def test_is_free_after_a_token_that_was_not_allowed(self, book: GrammarBook) -> None:
        case = VECTORS[0]
        astray = [*case["ids"][:3], case["ids"][0], 1, 10**6]
        assert [row is None for row in book.masks(case["grammar"], [1], [], astray)] == [False] * 4 + [True] * 2

    def test_is_free_in_a_dead_end(self, book: GrammarBook) -> None:
        loop = {"$ref": "#/$defs/a"}
        endless = json.dumps({"type": "object", "properties": {"x": loop}, "required": ["x"], "$defs": {"a": loop}})
        grammar = grammar_of(params(response_format=ResponseFormat("json_schema", endless)), {})
        walk = book.start(grammar, [1])
        for _ in range(40):
            row = walk.mask()
            if row is None:
                break
            walk.push(ids_of(row)[-1])
        assert walk.mask() is None

    @pytest.mark.parametrize("schema", ['{"$ref":"#/$defs/q"}', '{"type":"string","pattern":"((("}', '{"$ref":"#"}'])
    def test_what_can_not_be_compiled_is_refused(self, book: GrammarBook, schema: str) -> None:
        grammar = grammar_of(params(response_format=ResponseFormat("json_schema", schema)), {})
        with pytest.raises(BadRequest) as caught:
            book.check(grammar, [1])
        assert caught.value.code == "unsupported_schema"

    def test_a_reading_follows_the_engine(self, book: GrammarBook) -> None:
        case = VECTORS[0]
        reading = Reading(lambda: book.start(case["grammar"], [1]))
        output: list[int] = []
        for token, expected in zip(case["ids"], book.masks(case["grammar"], [1], [], case["ids"]), strict=True):
            assert np.array_equal(reading.mask([*output, -1]), expected)
            output.append(token)
        # Tokens that the engine took back are unread.
        assert np.array_equal(reading.mask(output[:2]), book.masks(case["grammar"], [1], [], output)[2])


@dataclass
class Fixed:
    """A reading that always gives one mask."""

    words: Words

    def mask(self, output_ids: Sequence[int]) -> Words:
        return self.words


RULES: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"temperature": 0, "frequency_penalty": 500_000},
    {"top_k": 50},
    {"top_k": 5, "top_p": 900_000},
    {"top_p": 500_000, "temperature": 400_000},
    {"min_p": 50_000, "repetition_penalty": 1_200_000},
    {"logit_bias": ((5, 90_000_000),), "top_k": 3},
]


class TestSampler:
    @pytest.mark.parametrize("allowed", [1, 3, 40, 400, VOCABULARY])
    def test_names_what_its_numpy_twin_names(self, allowed: int) -> None:
        source = np.random.default_rng(allowed)
        logits = source.normal(0, 3, (len(RULES), VOCABULARY)).astype(np.float32)
        rows, expected = [], []
        for rule, row in zip(RULES, logits, strict=True):
            ids = sorted(source.choice(VOCABULARY, allowed, replace=False).tolist())
            words, seed, answer = words_of(ids, VOCABULARY), source.bytes(32), source.integers(0, 99, 7).tolist()
            rows.append(Row(params(**rule), seed, (1,), [3], [], answer, Fixed(words)))  # type: ignore[arg-type]
            expected.append(sample_token(row, params(**rule), seed, 7, [3], answer, [1], words))
            assert expected[-1] in ids
        assert choose(torch.tensor(logits), rows).tolist() == expected

    def test_logits_beyond_the_tokenizer_are_forbidden(self) -> None:
        logits = torch.zeros(1, 100)
        logits[0, 80] = 50.0
        row = Row(params(temperature=0), bytes(32), (1,), [], [], [], Fixed(words_of([7], 64)))  # type: ignore[arg-type]
        assert choose(logits, [row]).tolist() == [7]


class Replay:
    """Answers of a toy model under a mask, with the scores of a replay."""

    def __init__(self, rule: JobParams, allowed: int, number: int) -> None:
        source = np.random.default_rng(number)
        self.rule, self.seed = replace(rule, response_format=FORM), source.bytes(32)
        logits = source.normal(0, 3, (24, 600)).astype(np.float32)
        self.rows = [words_of(source.choice(600, allowed, replace=False).tolist(), 600) for _ in range(24)]
        self.answer: list[int] = []
        for row, words in zip(logits, self.rows, strict=True):
            self.answer.append(
                sample_token(row, self.rule, self.seed, len(self.answer), [3], self.answer, [], words)
            )  # fmt: skip
        raw = np.stack([log_softmax(row) for row in logits])
        top = np.argsort(-raw, axis=1, kind="stable")[:, :64]
        self.scores = Scores(0, top.astype(np.int32), np.take_along_axis(raw, top, 1), raw[:, 0])

    def margins(self, claimed: Sequence[int], rows: Sequence[Words | None] | None = None) -> list[float]:
        masked = MaskedScores(self.scores, AnswerMasks(self.rows if rows is None else rows))
        replayed = Replayed(self.rule, self.seed, [3], [], claimed, [])
        return [token.margin for token in token_margins(replayed, masked)]


class TestMargins:
    @pytest.mark.parametrize("rule", RULES, ids=range(len(RULES)))
    @pytest.mark.parametrize("allowed", [1, 2, 30, 550])
    def test_an_honest_answer_has_none(self, rule: dict[str, Any], allowed: int) -> None:
        for number in range(3):
            replay = Replay(params(**rule), allowed, number)
            assert replay.margins(replay.answer) == [0.0] * 24

    def test_a_forbidden_token_is_as_far_off_as_can_be(self) -> None:
        replay = Replay(params(), 30, 1)
        claimed = [next(i for i in range(600) if i not in ids_of(row, 600)) for row in replay.rows]
        assert replay.margins(claimed) == [CLIP] * 24

    def test_another_seed_shows_under_a_mask(self) -> None:
        replay = Replay(params(), 300, 2)
        other = Replay(params(), 300, 2)
        replay.seed = bytes(32)
        assert sum(margin > 0.5 for margin in replay.margins(other.answer)) > 8

    def test_one_allowed_candidate_counts_nothing(self) -> None:
        replay = Replay(params(), 300, 3)
        assert replay.margins(replay.answer, [words_of([token], 600) for token in replay.answer]) == [0.0] * 24

    def test_without_masks_nothing_is_judged(self) -> None:
        replay = Replay(params(), 30, 4)
        with pytest.raises(ValueError, match="masks"):
            token_margins(Replayed(replay.rule, replay.seed, [3], [], replay.answer, []), replay.scores)


class TestTokenizer:
    def test_special_tokens_have_no_text(self, tmp_path: Path) -> None:
        chat = tiny_format(tmp_path)
        [row] = chat.grammars.masks(grammar_of(params(response_format=FORM), {}), [1], [], [2])
        assert chat.decode(ids_of(row, chat.vocab_size)) == "{"

    def test_a_folder_without_a_tokenizer_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(BadRequest, match=r"tokenizer\.json"):
            GrammarBook.load(tmp_path).check("{}", [1])

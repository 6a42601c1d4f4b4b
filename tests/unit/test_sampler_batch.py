"""The plugin in a changing batch: each row keeps its rule, and greedy rows do no work of the vocabulary's size."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.sampler_cases import RULES, VOCABULARY, params
from tests.sampler_plugin import new_sampler
from torch.utils._python_dispatch import TorchDispatchMode
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from retally.inference.engine import EngineSampling
from retally.inference.sampler_order import best_in_order
from retally.inference.sampler_rows import Row, Tally
from retally.inference.torch_sampler import SHORTLIST, choose
from retally.inference.vllm_engine import sampler_argument
from retally.inference.vllm_flags import SAMPLER_ARGUMENT
from retally.inference.vllm_sampler import RetallySampler
from retally.protocol.params import JobParams
from retally.protocol.sampler import sample_token

EOS = (1, 2)
STEPS = 40
SLOTS = 12
TIED = 2
Move = tuple[int, int, MoveDirectionality]


@dataclass
class Request:
    """A request as the engine knows it, and what it should say."""

    params: JobParams
    seed: bytes
    prompt: list[int]
    prefix: list[int]
    #: The engine's own list, which grows while the request runs.
    output: list[int] = field(default_factory=list)

    @classmethod
    def random(cls, source: random.Random) -> Request:
        def ids(most: int) -> list[int]:
            return [source.randrange(VOCABULARY) for _ in range(source.randrange(most))]

        return cls(params(**source.choice(RULES)), source.randbytes(32), [5, *ids(30)], ids(20))

    def added(self, index: int) -> tuple[int, SamplingParams, list[int], list[int]]:
        sampling = EngineSampling(
            params=self.params, seed=self.seed, position=len(self.prefix), eos_ids=EOS, max_new_tokens=64
        )
        arguments = {SAMPLER_ARGUMENT: sampler_argument(sampling)}
        return index, SamplingParams(temperature=0, extra_args=arguments), [*self.prompt, *self.prefix], self.output

    def expected(self, logits: NDArray[np.float32]) -> int:
        answer = [*self.prefix, *self.output]
        return sample_token(logits, self.params, self.seed, len(answer), self.prompt, answer, EOS)


class Batch:
    """An engine's batch: requests come, end, are preempted, come back, move up and swap."""

    def __init__(self, source: random.Random) -> None:
        self.source = source
        self.sampler = new_sampler()
        self.rows: list[Request] = []
        self.waiting: list[Request] = []
        self.preemptions = 0

    def change(self) -> None:
        """One update in the order of the engine: removed, added in their places, moved."""
        rows: list[Request | None] = list(self.rows)
        removed = self.source.sample(range(len(rows)), min(3, len(rows)))
        added = []
        for index in removed:
            if self.source.random() < 0.7:
                self.waiting.append(self.rows[index])
            rows[index] = None
        free = [*removed, *range(len(rows), SLOTS)]
        for index in free[: self.source.randrange(len(free) + 1)]:
            rows += [None] * (index + 1 - len(rows))
            rows[index] = self._next()
            added.append(rows[index].added(index))
        moved = self._condense(rows)
        self.rows = [row for row in rows if row is not None]
        if len(self.rows) > 1:
            a, b = self.source.sample(range(len(self.rows)), 2)
            self.rows[a], self.rows[b] = self.rows[b], self.rows[a]
            moved.append((a, b, MoveDirectionality.SWAP))
        taken = {index for index, *_ in added}
        gone = [index for index in removed if index not in taken]
        self.sampler.update_state(BatchUpdate(batch_size=len(self.rows), added=added, removed=gone, moved=moved))

    def _next(self) -> Request:
        if not self.waiting:
            return Request.random(self.source)
        back = self.waiting.pop(0)
        self.preemptions += 1
        # The engine gives a resumed request a new list.
        back.output = list(back.output)
        return back

    @staticmethod
    def _condense(rows: list[Request | None]) -> list[Move]:
        """Fill each gap with the last row."""
        moved = []
        while None in rows:
            gap, last = rows.index(None), rows.pop()
            if last is not None:
                rows[gap] = last
                moved.append((len(rows), gap, MoveDirectionality.UNIDIRECTIONAL))
        return moved


class Operations(TorchDispatchMode):
    """Which operations of torch ran, with the largest tensor that each made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        is_new = isinstance(result, torch.Tensor) and not any(result is each for each in args)
        self.made.append((func.overloadpacket.__name__, result.numel() if is_new else 0))
        return result


def sampler_with(*rules: Mapping[str, Any]) -> tuple[RetallySampler, list[Request]]:
    requests = [Request(params(**rule), bytes([n] * 32), [5], []) for n, rule in enumerate(rules)]
    sampler = new_sampler()
    added = [request.added(n) for n, request in enumerate(requests)]
    sampler.update_state(BatchUpdate(batch_size=len(requests), added=added, removed=[], moved=[]))
    return sampler, requests


def random_logits(source: np.random.Generator, rows: int, *, has_ties: bool = False) -> torch.Tensor:
    logits = source.normal(0, 3, (rows, VOCABULARY)).astype(np.float32)
    return torch.tensor(np.round(logits * TIED) / TIED if has_ties else logits)


@pytest.fixture(scope="module")
def engine_choice() -> Callable[[torch.Tensor], list[int]]:
    """What vLLM itself takes at temperature 0."""
    with warnings.catch_warnings():
        # vLLM's import of torch.jit.
        warnings.simplefilter("ignore")
        from vllm.v1.sample.sampler import Sampler
    return lambda logits: [int(token) for token in Sampler.greedy_sample(logits).flatten()]


class TestChangingBatch:
    @pytest.mark.parametrize("seed", range(4))
    def test_every_row_keeps_its_rule(self, engine_choice: Callable[[torch.Tensor], list[int]], seed: int) -> None:
        source, numbers = random.Random(seed), np.random.default_rng(seed)
        batch = Batch(source)
        for step in range(STEPS):
            if step % 3 == 0:
                batch.change()
            else:
                batch.sampler.update_state(None)
            logits = random_logits(numbers, len(batch.rows), has_ties=step % 2 == 0)
            expected = [row.expected(each.numpy()) for row, each in zip(batch.rows, logits, strict=True)]
            if batch.rows:
                assert engine_choice(batch.sampler.apply(logits.clone())) == expected
            for row, token in zip(batch.rows, expected, strict=True):
                row.output.append(token)
        assert batch.preemptions > 5

    def test_ties_of_a_greedy_row_go_to_the_smallest_id(
        self, engine_choice: Callable[[torch.Tensor], list[int]]
    ) -> None:
        sampler, _ = sampler_with({"temperature": 0}, {"temperature": 0, "frequency_penalty": 1})
        logits = torch.zeros(2, VOCABULARY)
        logits[:, [700, 90, 1400]] = 7.0
        assert engine_choice(sampler.apply(logits)) == [90, 90]

    def test_a_neighbour_with_the_engines_own_noise_changes_nothing(self) -> None:
        # The engine then draws for all rows, and must meet no infinity in those that it drops.
        sampler, _ = sampler_with({})
        logits = sampler.apply(random_logits(np.random.default_rng(1), 1))
        weights = (logits / 1.0).softmax(dim=-1, dtype=torch.float32)
        assert bool(torch.isfinite(weights).all())

    def test_a_list_that_the_engine_cut_is_counted_anew(self) -> None:
        sampler, (request,) = sampler_with({"frequency_penalty": 2_000_000, "temperature": 0})
        numbers = np.random.default_rng(2)
        request.output += [7, 7, 9]
        sampler.apply(random_logits(numbers, 1))
        del request.output[1:]
        logits = random_logits(numbers, 1)
        assert int(sampler.apply(logits.clone()).argmax()) == request.expected(logits[0].numpy())


class TestWork:
    def test_greedy_rows_cost_nothing(self) -> None:
        sampler, _ = sampler_with(*[{"temperature": 0}] * 8)
        logits = random_logits(np.random.default_rng(3), 8)
        sampler.apply(logits)
        with Operations() as operations:
            sampler.apply(logits)
        assert operations.made == []

    def test_a_held_open_greedy_row_costs_its_ends_alone(self) -> None:
        sampler, _ = sampler_with({"temperature": 0, "min_tokens": 9})
        logits = random_logits(np.random.default_rng(3), 1)
        with Operations() as operations:
            out = sampler.apply(logits)
        assert max(size for _, size in operations.made) <= len(EOS)
        assert torch.isinf(out[0]).nonzero().flatten().tolist() == list(EOS)

    def test_only_rows_that_need_it_are_scored(self) -> None:
        sampler, _ = sampler_with({"temperature": 0}, {"top_p": 900_000}, {"temperature": 0})
        logits = random_logits(np.random.default_rng(3), 3)
        with Operations() as operations:
            sampler.apply(logits)
        assert max(size for _, size in operations.made) <= VOCABULARY

    def test_more_rows_take_no_more_operations(self) -> None:
        counts = []
        for rows in (2, 16):
            sampler, _ = sampler_with(*[{"top_p": 900_000, "temperature": 700_000, "frequency_penalty": 5}] * rows)
            logits = random_logits(np.random.default_rng(3), rows)
            with Operations() as operations:
                sampler.apply(logits)
            counts.append(len(operations.made))
        assert counts[0] == counts[1]


class TestParts:
    @pytest.mark.parametrize("fields", [{"top_p": 999_999}, {"top_k": 700, "top_p": 990_000}, {"top_k": SHORTLIST}])
    def test_flat_rows_are_looked_at_whole(self, fields: dict[str, int]) -> None:
        for seed in range(5):
            logits = np.random.default_rng(seed).normal(0, 0.01, VOCABULARY).astype(np.float32)
            row = Row(params(**fields), bytes([seed] * 32), EOS, [5], [])
            named = choose(torch.tensor(logits)[None], [row])
            assert int(named) == sample_token(logits, row.params, row.seed, 0, [5], [], EOS)

    def test_order_is_by_falling_score_then_rising_id(self) -> None:
        numbers = np.random.default_rng(4)
        scores = np.round(numbers.normal(0, 2, (6, 400)) * 4).astype(np.float32) / 4
        scores[0, :9] = [-0.0, 0.0, -np.inf, -np.inf, 3e38, -3e38, 1e-40, -1e-40, 0.0]
        values, ids = best_in_order(torch.tensor(scores), 400)
        for row, (got, order) in enumerate(zip(values.numpy(), ids.numpy(), strict=True)):
            wanted = np.lexsort((np.arange(400), -scores[row]))
            assert order.tolist() == wanted.tolist()
            assert np.array_equal(got, scores[row][wanted])
        short, _ = best_in_order(torch.tensor(scores), 50)
        assert torch.equal(short, values[:, :50])

    def test_a_tally_grows_and_waits_for_placeholders(self) -> None:
        tally = Tally(range(100), [7, 7, 200])
        output = [7, 300, -1]
        assert tally.follow(output)
        assert len(tally.ids) == 102
        assert (tally.counts[7], tally.counts[100], tally.counts[101], tally.counts[8]) == (3, 1, 1, 0)
        output[2] = 8
        assert tally.follow(output)
        assert tally.counts[8] == 1
        assert not tally.follow(output[:1])

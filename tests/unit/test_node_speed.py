"""What a node says of its engine's speed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
from tests.fakes import FakeEngine

from retally.inference.engine import EngineChunk, EngineSampling
from retally_node.speed import STREAMS, Speed, measure
from retally_router.directory import read_capacity
from retally_router.predict import Capacity


class Clocked(FakeEngine):
    """Moves a clock instead of taking time; its streams do not wait for each other."""

    def __init__(self, *, prefill: float, decode: float) -> None:
        super().__init__()
        self.prefill, self.decode = prefill, decode
        self.time = 0.0
        self.together = 1.0
        self.prompts: list[tuple[int, ...]] = []

    async def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        self.prompts.append(tuple(prompt_ids))
        share = STREAMS if len(self.prompts) > 3 else 1
        self.time += len(prompt_ids) / self.prefill / share
        first = True
        async for chunk in super().generate(prompt_ids, sampling):
            self.time += 0.0 if first else 1 / self.decode / share
            first = False
            yield chunk


async def test_measures_prefill_decode_and_what_several_streams_get() -> None:
    engine = Clocked(prefill=4000.0, decode=40.0)
    speed = await measure(engine, 1024, lambda: engine.time)
    assert speed is not None
    assert speed.prefill == pytest.approx(4000, rel=0.02)
    assert speed.decode == pytest.approx(40, rel=0.02)
    assert speed.batch == pytest.approx(STREAMS * 40, rel=0.1)


async def test_no_prompt_is_another_ones_beginning() -> None:
    engine = Clocked(prefill=4000.0, decode=40.0)
    await measure(engine, 1024, lambda: engine.time)
    assert len({prompt[:4] for prompt in engine.prompts}) == len(engine.prompts) == 3 + STREAMS


async def test_prompts_fit_a_small_context() -> None:
    engine = Clocked(prefill=4000.0, decode=40.0)
    assert await measure(engine, 128, lambda: engine.time) is not None
    assert max(map(len, engine.prompts)) <= 128 - 24


async def test_an_engine_that_fails_is_not_measured() -> None:
    engine = FakeEngine()
    engine.fails_after = 30
    assert await measure(engine, 1024) is None


def test_what_a_node_shows_a_router_reads() -> None:
    assert read_capacity(Speed(4000, 40, 200).to_wire()) == Capacity(4000.0, 40.0, 200.0)

"""How quick this node's engine is, measured once at start: what routers begin their predictions with."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from retally.errors import RetallyError
from retally.inference.engine import Engine, EngineSampling
from retally.inference.sampler_check import PROBES

log = logging.getLogger(__name__)

SHORT_TOKENS, LONG_TOKENS = 16, 384
OUTPUT_TOKENS, STREAMS = 24, 6
#: Ids that every vocabulary has.
FIRST_ID, LAST_ID = 10, 200
LEAST_SECONDS = 1e-4


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second: of a prompt, of one stream alone, of several streams together."""

    prefill: int
    decode: int
    batch: int

    def to_wire(self) -> dict[str, int]:
        """As the node's info shows it."""
        return {"prefill": self.prefill, "decode": self.decode, "batch": self.batch}


async def measure(engine: Engine, max_context: int, clock: Callable[[], float] = time.monotonic) -> Speed | None:
    """Some short runs, a second or two on a small machine; None when the engine fails at them."""
    probe = _Probe(engine, clock, Random(1))
    long = min(LONG_TOKENS, max_context - OUTPUT_TOKENS)
    try:
        await probe.run(SHORT_TOKENS, 2)
        first_short, _ = await probe.run(SHORT_TOKENS, OUTPUT_TOKENS)
        first_long, seconds = await probe.run(long, OUTPUT_TOKENS)
        began = clock()
        await asyncio.gather(*(probe.run(SHORT_TOKENS, OUTPUT_TOKENS) for _ in range(STREAMS)))
        together = max(LEAST_SECONDS, clock() - began)
    except RetallyError as error:
        log.warning("the engine's speed could not be measured: %s", error)
        return None
    prefill = (long - SHORT_TOKENS) / max(LEAST_SECONDS, first_long - first_short)
    decode = (OUTPUT_TOKENS - 1) / max(LEAST_SECONDS, seconds - first_long)
    batch = max(decode, STREAMS * OUTPUT_TOKENS / together)
    return Speed(max(1, round(prefill)), max(1, round(decode)), max(1, round(batch)))


@dataclass(frozen=True, slots=True)
class _Probe:
    engine: Engine
    clock: Callable[[], float]
    random: Random

    async def run(self, prompt_tokens: int, output_tokens: int) -> tuple[float, float]:
        """Seconds to the first token and to the last, of a prompt that no cache holds."""
        ids = [self.random.randrange(FIRST_ID, LAST_ID) for _ in range(prompt_tokens)]
        sampling = EngineSampling(params=PROBES["greedy"], seed=bytes(32), max_new_tokens=output_tokens)
        began, first = self.clock(), None
        async for chunk in self.engine.generate(ids, sampling):
            if first is None and chunk.ids:
                first = self.clock() - began
        return first or 0.0, self.clock() - began

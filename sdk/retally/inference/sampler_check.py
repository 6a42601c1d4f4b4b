"""Does an engine really sample by the protocol? Ask it for a seeded answer and replay that in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retally.inference.engine import Engine, EngineSampling, Scores
from retally.protocol.params import JobParams
from retally.protocol.sampler import choose

TOKENS = 12
#: A near tie may fall the other way once between decoding and prefill.
TOLERATED = 1


def replayed(
    scores: Scores,
    params: JobParams,
    seed: bytes,
    prompt_ids: Sequence[int],
    answer: Sequence[int],
    eos_ids: Sequence[int],
) -> list[int]:
    """Return the token that the sampler names at each scored position; the scores begin with the answer."""
    return [
        choose(row, ids.astype(np.int64), params, seed, n, prompt_ids, answer[:n], eos_ids)
        for n, (row, ids) in enumerate(zip(scores.top_logprobs, scores.top_ids, strict=True))
    ]


async def sampler_problem(engine: Engine) -> str | None:
    """Return why the engine's sampler is not ours, or None."""
    # Hot and cut to 40 tokens: an engine that ignores the plugin would be greedy and differ at once.
    params = JobParams(
        max_tokens=TOKENS, min_tokens=TOKENS, template_date="2026-01-01", temperature=2_000_000, top_k=40
    )
    seed, prompt = b"\x5a" * 32, [5, 6, 7, 8]
    sampling = EngineSampling(params=params, seed=seed, max_new_tokens=TOKENS)
    answer: list[int] = []
    async for chunk in engine.generate(prompt, sampling):
        answer.extend(chunk.ids)
    scores = await engine.score([*prompt, *answer], len(prompt))
    named = replayed(scores, params, seed, prompt, answer, ())
    differences = sum(a != b for a, b in zip(named, answer, strict=True))
    if differences <= TOLERATED:
        return None
    return (
        f"{differences} of {len(answer)} tokens are not what the sampler names: start vLLM with "
        "retally.inference.vllm_flags.engine_arguments and VLLM_USE_V2_MODEL_RUNNER=0"
    )

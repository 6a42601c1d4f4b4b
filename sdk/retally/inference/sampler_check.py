"""Does an engine really sample by the protocol? Ask it for seeded answers and replay these in numpy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from retally.errors import BadRequest, EngineUnavailable
from retally.inference.engine import Engine, EngineSampling, Scores
from retally.inference.grammar import LIBRARY, LIBRARY_VERSION
from retally.protocol.params import JobParams
from retally.protocol.sampler import choose
from retally.protocol.structure import ResponseFormat, grammar_of

TOKENS = 12
#: A near tie may fall the other way once between decoding and prefill.
TOLERATED = 1
_PLAIN = JobParams(max_tokens=TOKENS, min_tokens=TOKENS, template_date="2026-01-01")
#: Asked for at once, so that they share a batch. Hot and cut to 40 tokens: an engine without the plugin would be greedy
#: and differ at once. Penalised: one that hides earlier tokens from the plugin. Greedy: one with penalties of its own.
PROBES: Mapping[str, JobParams] = {
    "seeded": replace(_PLAIN, temperature=2_000_000, top_k=40),
    "penalised": replace(_PLAIN, top_k=20, frequency_penalty=1_500_000, repetition_penalty=1_300_000),
    "greedy": replace(_PLAIN, temperature=0),
}
#: One answer fits it.
FORM_TEXT = '"retally"'
FORM = ResponseFormat("json_schema", '{"const":"retally"}')
FORM_TOKENS = 16
REMEDY = (
    "start vLLM with the flags of retally.inference.vllm_flags.engine_arguments and, in its environment, "
    "VLLM_USE_V2_MODEL_RUNNER=0"
)
_SEED, _PROMPT = b"\x5a" * 32, [5, 6, 7, 8]


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
    """Return why the engine's sampler is not ours and what to do about it, or None."""
    try:
        found = await asyncio.gather(*(_differences(engine, params) for params in PROBES.values()))
    except BadRequest as error:
        return f"it refuses the sampler's argument ({error}): {REMEDY}"
    wrong = [f"{count} {kind}" for kind, count in zip(PROBES, found, strict=True) if count > TOLERATED]
    if not wrong:
        return None
    return f"of {TOKENS} tokens each, {', '.join(wrong)} ones are not what the sampler names: {REMEDY}"


async def form_problem(engine: Engine, text_of: Callable[[Sequence[int]], Awaitable[str]]) -> str | None:
    """Return why the engine would not hold answers to a form, or None: it is asked for the only answer of one."""
    params = JobParams(max_tokens=FORM_TOKENS, template_date=_PLAIN.template_date, temperature=0, response_format=FORM)
    # Any token will do for an end.
    ends: dict[str, Any] = {"eos_ids": (0,), "max_new_tokens": FORM_TOKENS}
    sampling = EngineSampling(params=params, seed=_SEED, grammar=grammar_of(params, {}), **ends)
    answer: list[int] = []
    try:
        async for chunk in engine.generate(_PROMPT, sampling):
            answer.extend(chunk.ids)
        text = await text_of(answer)
    except (BadRequest, EngineUnavailable) as error:
        return f"it can't hold answers to a form ({error}): install {LIBRARY} {LIBRARY_VERSION} beside it"
    return None if text.startswith(FORM_TEXT) else f"it does not hold answers to a form ({text[:40]!r}): {REMEDY}"


async def _differences(engine: Engine, params: JobParams) -> int:
    """How many tokens of one probe's answer its replay does not name; the model may end its answer early."""
    sampling = EngineSampling(params=params, seed=_SEED, max_new_tokens=TOKENS)
    answer: list[int] = []
    async for chunk in engine.generate(_PROMPT, sampling):
        answer.extend(chunk.ids)
    scores = await engine.score([*_PROMPT, *answer], len(_PROMPT))
    named = replayed(scores, params, _SEED, _PROMPT, answer, ())
    return sum(a != b for a, b in zip(named, answer, strict=True)) if answer else TOKENS

"""The sampler of R-26 to R-31 in numpy: what the engine's plugin does, replayable anywhere.

Fractions are divided by one million in fp64 and rounded once to fp32; scores are fp32, nucleus masses fp64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from retally.protocol.encoding import keccak, u32
from retally.protocol.grammar import Words, are_allowed
from retally.protocol.params import ONE, JobParams

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def fraction(value: int) -> np.float32:
    """Return a parameter given in 1e-6 as fp32."""
    return np.float32(value / ONE)


def noise_key(seed: bytes, position: int) -> int:
    """Return the 64-bit key of a position's noise (R-27)."""
    return int.from_bytes(keccak(seed + u32(position))[:8], "big")


def uniforms(key: int | NDArray[np.uint64], ids: Sequence[int] | Ids) -> NDArray[np.float64]:
    """Return the uniforms in (0, 1) of token ids under a key, bit-exact on every machine (R-27)."""
    x = np.asarray(ids, dtype=np.uint64) + np.uint64(1)
    x = np.asarray(key, dtype=np.uint64) + x * _GOLDEN
    z = (x ^ (x >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    z = z ^ (z >> np.uint64(31))
    return np.asarray(((z >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53, dtype=np.float64)


def noise(seed: bytes, position: int, ids: Sequence[int] | Ids) -> Floats:
    """Return the Gumbel noise of token ids at a position of the answer (R-27)."""
    return np.asarray(-np.log(-np.log(uniforms(noise_key(seed, position), ids))), dtype=np.float32)


def noise_rows(seed: bytes, positions: Iterable[int], ids: Ids) -> Floats:
    """Return the same for many positions, one row of ids each."""
    keys = np.array([[noise_key(seed, position)] for position in positions], dtype=np.uint64)
    return np.asarray(-np.log(-np.log(uniforms(keys, ids))), dtype=np.float32)


def log_softmax(logits: Floats) -> Floats:
    """Return the log-probabilities from which R-28 starts."""
    shifted = logits.astype(np.float32) - np.float32(logits.max())
    return np.asarray(shifted - np.log(np.exp(shifted).sum(dtype=np.float32)), dtype=np.float32)


def adjusted(
    logprobs: Floats,
    ids: Ids,
    params: JobParams,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    eos_ids: Sequence[int],
    mask: Words | None = None,
) -> Floats:
    """Return raw log-probabilities of `ids` after mask, bias, penalties and min_tokens (R-28)."""
    scores = logprobs.astype(np.float32).copy()
    if mask is not None:
        scores[~are_allowed(mask, ids)] = -np.inf
    if params.logit_bias:
        bias = params.bias
        scores += np.array([fraction(bias.get(int(token), 0)) for token in ids], dtype=np.float32)
    if params.repetition_penalty != ONE:
        seen = np.isin(ids, np.asarray([*prompt_ids, *output_ids], dtype=np.int64))
        penalty = fraction(params.repetition_penalty)
        scores = np.where(seen, np.where(scores > 0, scores / penalty, scores * penalty), scores)
    if (params.frequency_penalty or params.presence_penalty) and output_ids:
        counted, counts = np.unique(np.asarray(output_ids, dtype=np.int64), return_counts=True)
        times = dict(zip(counted.tolist(), counts.tolist(), strict=True))
        count = np.array([times.get(int(token), 0) for token in ids], dtype=np.float32)
        scores -= fraction(params.frequency_penalty) * count
        scores -= fraction(params.presence_penalty) * (count > 0).astype(np.float32)
    if len(output_ids) < params.min_tokens:
        scores[np.isin(ids, np.asarray(eos_ids, dtype=np.int64))] = -np.inf
    return scores


def allowed(scores: Floats, ids: Ids, params: JobParams) -> Mask:
    """Return which tokens top-k, top-p and min-p keep (R-29), given scores divided by the temperature."""
    keep = np.ones(len(scores), dtype=np.bool_)
    order = np.lexsort((ids, -scores))
    if params.top_k and params.top_k < len(scores):
        keep[order[params.top_k :]] = False
    if params.top_p < ONE:
        ranked = order[keep[order]]
        weights = np.exp(scores[ranked].astype(np.float64) - np.float64(scores[ranked[0]]))
        before = np.concatenate(([0.0], np.cumsum(weights)[:-1]))
        keep[ranked[before >= params.top_p / ONE * weights.sum()]] = False
    if params.min_p:
        distance = scores.astype(np.float64) - np.float64(scores[order[0]])
        keep &= np.exp(distance) >= params.min_p / ONE
    keep[order[0]] = True
    return keep


def best(scores: Floats, ids: Ids) -> int:
    """Return the id of the largest score, the smallest id among equals."""
    return int(ids[scores == scores.max()].min())


def sample_token(
    logits: Floats,
    params: JobParams,
    seed: bytes,
    position: int,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    eos_ids: Sequence[int],
    mask: Words | None = None,
) -> int:
    """Return the token that the sampler names for a full row of raw logits.

    `output_ids` is the whole answer so far, whichever segment it came from, so `position` is its length.
    """
    ids = np.arange(len(logits), dtype=np.int64)
    return choose(log_softmax(logits), ids, params, seed, position, prompt_ids, output_ids, eos_ids, mask)


def choose(
    logprobs: Floats,
    ids: Ids,
    params: JobParams,
    seed: bytes,
    position: int,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    eos_ids: Sequence[int],
    mask: Words | None = None,
) -> int:
    """Return the token named among `ids` with their raw log-probabilities: for a replay these are the top 64."""
    scores = adjusted(logprobs, ids, params, prompt_ids, output_ids, eos_ids, mask)
    if params.temperature == 0:
        return best(scores, ids)
    scores = scores / fraction(params.temperature)
    kept = allowed(scores, ids, params)
    return best(scores[kept] + noise(seed, position, ids[kept]), ids[kept])

"""R-34 word by word, token after token: what `retally.protocol.margins` weighs for many tokens together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retally.protocol.grammar import Words
from retally.protocol.margins import CLIP, MAX_VOCABULARY, Edge, MaskedScores, Replayed, ReplayScores, TokenMargin
from retally.protocol.params import ONE, JobParams
from retally.protocol.sampler import adjusted, noise

Floats = NDArray[np.float64]


def margins_one_by_one(replayed: Replayed, scores: ReplayScores, edge: Edge) -> list[TokenMargin]:
    """One margin for each output token."""
    top_ids, top_logprobs = scores.top_ids, scores.top_logprobs
    count = len(replayed.output_ids)
    masks = scores.masks if isinstance(scores, MaskedScores) else None
    rows = masks.rows if masks is not None and masks.rows else [None] * count
    answer = [*replayed.prefix_ids, *replayed.output_ids]
    first = len(replayed.prefix_ids)
    return [
        _margin(replayed, top_ids[i], top_logprobs[i], answer[: first + i], answer[first + i], rows[i], edge)
        for i in range(count)
    ]


def _margin(
    replayed: Replayed,
    ids: NDArray[np.int32],
    logprobs: NDArray[np.float32],
    before: Sequence[int],
    claimed: int,
    mask: Words | None,
    edge: Edge,
) -> TokenMargin:
    params, position = replayed.params, len(before)
    candidates = ids.astype(np.int64)
    raw = logprobs.astype(np.float32)
    if claimed not in candidates:
        # Unknown candidates only ever understate the margin: the claimed one gets the best it can have.
        candidates = np.append(candidates, np.int64(claimed))
        raw = np.append(raw, raw.min())
    tail = max(0.0, 1.0 - float(np.exp(raw[: len(ids)].astype(np.float64)).sum()))
    eos = list(replayed.eos_ids)
    l = adjusted(raw, candidates, params, replayed.prompt_ids, before, eos, mask).astype(np.float64)  # noqa: E741  # R-34's name
    own = int(np.flatnonzero(candidates == claimed)[0])
    best = int(candidates[l == l.max()].min())
    if not np.isfinite(l[own]):
        # What was forbidden altogether is as far off as can be.
        return TokenMargin(CLIP, best)
    if params.temperature == 0:
        return TokenMargin(float(min(CLIP, l.max() - l[own])), best)
    gumbel = noise(replayed.seed, position, candidates).astype(np.float64)
    temperature = params.temperature / ONE
    core, loose = _nuclei(l, params, _tail_mass(tail, float(raw.min()), temperature, l), edge)
    if mask is not None:
        # Where most of the 64 are forbidden, allowed tokens beyond them may stand before one that is near their edge.
        core &= l - edge.epsilon > float(raw.min())
    margin, best = _sampled_margin(l, l / temperature + gumbel, own, core, loose)
    return TokenMargin(margin, int(candidates[best]))


def _sampled_margin(
    l: Floats,  # noqa: E741
    keys: Floats,
    own: int,
    core: NDArray[np.bool_],
    loose: NDArray[np.bool_],
) -> tuple[float, int]:
    best = int(np.where(core, keys, -np.inf).argmax()) if core.any() else own
    margin = max(0.0, float(keys[best] - keys[own]))
    if not loose[own]:
        margin += max(0.0, float(l[loose].min() - l[own]))
    # Where the claimed token may have been allowed and beats all that certainly were, it is the one to name.
    return min(CLIP, margin), best if margin > 0 else own


def _tail_mass(tail: float, least: float, temperature: float, l: Floats) -> float:  # noqa: E741
    """An upper bound of the tempered weight of all tokens beyond the top 64, in units of the best one's."""
    best = float(l.max()) / temperature
    if temperature <= 1:
        bound = tail * np.exp(least * (1 / temperature - 1))
    else:
        bound = MAX_VOCABULARY ** (1 - 1 / temperature) * tail ** (1 / temperature)
    return float(bound * np.exp(-best))


def _nuclei(
    l: Floats,  # noqa: E741
    params: JobParams,
    tail: float,
    edge: Edge,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which tokens are allowed for certain, and which can't be ruled out."""
    temperature = params.temperature / ONE
    order = np.argsort(-l, kind="stable")
    weights = np.exp((l - l[order[0]]) / temperature)
    weights[~np.isfinite(l)] = 0.0
    top_k = params.top_k if params.top_k else np.inf
    within = min(int(min(top_k, len(l))), len(l))
    kept = float(weights[order[:within]].sum())
    beyond = tail if top_k > np.isfinite(l).sum() else 0.0
    near = l[None, :] > l[:, None] - edge.epsilon
    np.fill_diagonal(near, False)
    far = l[None, :] > l[:, None] + edge.epsilon
    share = params.top_p / ONE if params.top_p < ONE else np.inf
    core = (near @ weights / kept < share - edge.mass) & (near.sum(axis=1) < top_k)
    loose = (far @ weights / (kept + beyond) < share + edge.mass) & (far.sum(axis=1) < top_k)
    if params.min_p:
        floor = l.max() + temperature * np.log(params.min_p / ONE)
        core &= l - edge.epsilon >= floor
        loose &= l + edge.epsilon >= floor
    core &= np.isfinite(l)
    loose &= np.isfinite(l)
    loose[order[0]] = True
    return core, loose

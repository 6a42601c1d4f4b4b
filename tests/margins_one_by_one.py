"""R-34 word by word, token after token: what `retally.protocol.margins` weighs for many tokens together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retally.protocol.grammar import Words
from retally.protocol.margins import (
    CLIP,
    MAX_VOCABULARY,
    NEAR,
    WIDE,
    MaskedScores,
    Replayed,
    ReplayScores,
    TokenMargin,
    shares,
)
from retally.protocol.params import ONE, JobParams
from retally.protocol.sampler import adjusted, noise

Floats = NDArray[np.float64]


def margins_one_by_one(replayed: Replayed, scores: ReplayScores, slack: float) -> list[TokenMargin]:
    """One margin for each output token."""
    top_ids, top_logprobs = scores.top_ids, scores.top_logprobs
    count = len(replayed.output_ids)
    masks = scores.masks if isinstance(scores, MaskedScores) else None
    rows = masks.rows if masks is not None and masks.rows else [None] * count
    answer = [*replayed.prefix_ids, *replayed.output_ids]
    first = len(replayed.prefix_ids)
    return [
        _margin(replayed, top_ids[i], top_logprobs[i], answer[: first + i], answer[first + i], rows[i], slack)
        for i in range(count)
    ]


def _margin(
    replayed: Replayed,
    ids: NDArray[np.int32],
    logprobs: NDArray[np.float32],
    before: Sequence[int],
    claimed: int,
    mask: Words | None,
    slack: float,
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
    row = _Row(l, gumbel, own, params, _tail_mass(tail, float(raw.min()), params.temperature / ONE, l))
    least = None if mask is None else float(raw.min())
    margin, index = row.margin(slack, least)
    if margin > NEAR:
        # A wider edge only ever lowers a margin.
        margin = max(NEAR, row.margin(WIDE, least)[0])
    return TokenMargin(margin, int(candidates[index]))


@dataclass(frozen=True, slots=True)
class _Row:
    """One position's candidates."""

    l: Floats  # noqa: E741  # R-34's name
    gumbel: Floats
    own: int
    params: JobParams
    tail: float

    def margin(self, slack: float, least: float | None) -> tuple[float, int]:
        """The margin where edges may lie so far apart, and the index of the token that it is measured against."""
        l, own = self.l, self.own  # noqa: E741
        temperature = self.params.temperature / ONE
        core, loose = nuclei(l, self.params, self.tail, slack)
        if least is not None:
            # Where most of the 64 are forbidden, allowed ones beyond them may stand before one that is near their edge.
            core &= l - slack > least
        # In nats of log-probability: a colder job's noise is narrower, and what kernels differ by is not.
        keys = l + temperature * self.gumbel
        best = int(np.where(core, keys, -np.inf).argmax()) if core.any() else own
        margin = max(0.0, float(keys[best] - keys[own]))
        if not loose[own]:
            margin += max(0.0, float(l[loose].min() - l[own]))
        # A hotter job's is wider: there it is the measure, so that a disputed edge makes far margins as seldom.
        margin /= max(1.0, temperature)
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


def nuclei(
    l: Floats,  # noqa: E741
    params: JobParams,
    tail: float,
    slack: float,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which tokens are allowed for certain, and which can't be ruled out.

    Where no two log-probabilities lie further apart or closer than `slack` for the node, its nucleus lies between them.
    """
    temperature = params.temperature / ONE
    order = np.argsort(-l, kind="stable")
    weights = np.exp((l - l[order[0]]) / temperature)
    weights[~np.isfinite(l)] = 0.0
    top_k = params.top_k if params.top_k else np.inf
    within = min(int(min(top_k, len(l))), len(l))
    kept = float(weights[order[:within]].sum())
    beyond = tail if top_k > np.isfinite(l).sum() else 0.0
    near = l[None, :] > l[:, None] - slack
    np.fill_diagonal(near, False)
    far = l[None, :] > l[:, None] + slack
    least, most = shares(params, slack)
    core = (near @ weights / kept < least) & (near.sum(axis=1) < top_k)
    loose = (far @ weights / (kept + beyond) < most) & (far.sum(axis=1) < top_k)
    if params.min_p:
        floor = l.max() + temperature * np.log(params.min_p / ONE)
        core &= l - slack >= floor
        loose &= l + slack >= floor
    core &= np.isfinite(l)
    loose &= np.isfinite(l)
    loose[order[0]] = True
    return core, loose

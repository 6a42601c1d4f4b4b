"""Robust margins: how much better the best certainly allowed token was than the claimed one (R-34)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retally.protocol.grammar import AnswerMasks, Words
from retally.protocol.params import ONE, JobParams
from retally.protocol.sampler import adjusted, noise_rows

#: By how much the difference of two log-probabilities may be off before the nucleus' edge is disputed, nats.
NARROW = 0.15
#: The same for what exceeds `NEAR`: a disputed edge makes far margins, and so far off no honest kernels are.
WIDE = 2.0
NEAR = 0.5
CLIP = 10.0
TOP = 64
#: Bounds the tail beyond the top 64 at temperatures above 1; no vocabulary is larger.
MAX_VOCABULARY = 1 << 20
#: So many tokens are weighed together: what compares all candidates of a row stays below some megabytes.
ROWS_AT_ONCE = 256

Floats = NDArray[np.float64]


class ReplayScores(Protocol):
    """Raw logprobs of one prefill; row i belongs to the answer's i-th token of the segment."""

    @property
    def top_ids(self) -> NDArray[np.int32]:
        """The most likely ids, one row a token."""
        ...

    @property
    def top_logprobs(self) -> NDArray[np.float32]:
        """Their logprobs."""
        ...


@dataclass(frozen=True, slots=True)
class MaskedScores:
    """Scores of an answer whose form is not free, with the masks of its tokens."""

    scores: ReplayScores
    masks: AnswerMasks

    @property
    def top_ids(self) -> NDArray[np.int32]:
        """The most likely ids, forbidden ones among them."""
        return self.scores.top_ids

    @property
    def top_logprobs(self) -> NDArray[np.float32]:
        """Their raw logprobs."""
        return self.scores.top_logprobs


@dataclass(frozen=True, slots=True)
class Replayed:
    """The tokens that a replay judges, with all that their sampling depended on."""

    params: JobParams
    seed: bytes
    prompt_ids: Sequence[int]
    prefix_ids: Sequence[int]
    output_ids: Sequence[int]
    eos_ids: Collection[int]


@dataclass(frozen=True, slots=True)
class TokenMargin:
    """How much better than the claimed token the best certainly allowed one was, and which that is."""

    margin: float
    allowed_id: int


@dataclass(frozen=True, slots=True)
class _Rows:
    """Some tokens' candidates, a row each: the likeliest, and in the last column the claimed one if it is none of them.

    Where it is one, the last column holds it again with a logprob of minus infinity, which counts for nothing.
    """

    ids: NDArray[np.int64]
    #: Raw logprobs.
    raw: NDArray[np.float32]
    #: Column of the claimed token.
    own: NDArray[np.intp]
    #: Of the answer's tokens, which is the first.
    first: int

    def some(self, which: NDArray[np.intp]) -> _Rows:
        """Only these rows."""
        return _Rows(self.ids[which], self.raw[which], self.own[which], self.first)

    @property
    def least(self) -> Floats:
        """The smallest raw logprob of each row."""
        return np.asarray(self.raw[:, :-1].min(axis=1), dtype=np.float64)

    @property
    def tail(self) -> Floats:
        """An upper bound of the mass of all tokens beyond the likeliest."""
        mass = np.exp(self.raw[:, :-1].astype(np.float64)).sum(axis=1)
        return np.asarray(np.fmax(0.0, 1.0 - mass), dtype=np.float64)


def robust_margins(replayed: Replayed, scores: ReplayScores) -> Floats:
    """One margin for each output token."""
    return _weighed(replayed, scores, NARROW)[0]


def token_margins(replayed: Replayed, scores: ReplayScores, slack: float = NARROW) -> list[TokenMargin]:
    """The same, each with the token that it was measured against; `slack` is the narrow edge's, nats."""
    margins, best = _weighed(replayed, scores, slack)
    return [TokenMargin(*pair) for pair in zip(margins.tolist(), best.tolist(), strict=True)]


def _weighed(replayed: Replayed, scores: ReplayScores, slack: float) -> tuple[Floats, NDArray[np.int64]]:
    """Margins, and the ids that they were measured against."""
    top_ids, top_logprobs = scores.top_ids, scores.top_logprobs
    count = len(replayed.output_ids)
    if top_ids.shape != top_logprobs.shape or len(top_ids) != count:
        raise ValueError(f"{len(top_ids)} rows of scores for {count} tokens")
    # Masks come with the scores: who scores an answer knows its form, who weighs margins need not.
    masks = scores.masks if isinstance(scores, MaskedScores) else None
    if masks is None and replayed.params.has_form:
        raise ValueError("an answer of a given form can't be judged without its masks")
    words = masks.rows if masks is not None and masks.rows else None
    margins, best = np.zeros(count), np.zeros(count, dtype=np.int64)
    for begin in range(0, count, ROWS_AT_ONCE):
        part = slice(begin, begin + ROWS_AT_ONCE)
        rows = _rows(top_ids[part], top_logprobs[part], replayed.output_ids[part], begin)
        margins[part], best[part] = _margins(replayed, rows, words[part] if words is not None else None, slack)
    return margins, best


def _rows(top_ids: NDArray[np.int32], top_logprobs: NDArray[np.float32], claimed: Sequence[int], first: int) -> _Rows:
    wanted = np.asarray(claimed, dtype=np.int64)
    hits = top_ids == wanted[:, None]
    known, last = hits.any(axis=1), top_ids.shape[1]
    raw = top_logprobs.astype(np.float32)
    # Unknown candidates only ever understate the margin: the claimed one gets the best it can have.
    added = np.where(known, np.float32(-np.inf), raw.min(axis=1))
    return _Rows(
        ids=np.column_stack([top_ids.astype(np.int64), wanted]),
        raw=np.column_stack([raw, added]),
        own=np.where(known, hits.argmax(axis=1), last),
        first=first,
    )


def _margins(
    replayed: Replayed, rows: _Rows, masks: Sequence[Words | None] | None, slack: float
) -> tuple[Floats, NDArray[np.int64]]:
    params = replayed.params
    l = _adjusted(replayed, rows, masks).astype(np.float64)  # noqa: E741  # R-34's name
    each = np.arange(len(l))
    own, top = l[each, rows.own], l.max(axis=1)
    best = np.where(l == top[:, None], rows.ids, np.iinfo(np.int64).max).min(axis=1)
    # What was forbidden altogether is as far off as can be.
    lost = ~np.isfinite(own)
    if params.temperature == 0:
        with np.errstate(invalid="ignore"):
            return np.where(lost, CLIP, np.fmin(CLIP, top - own)), best
    begun = len(replayed.prefix_ids) + rows.first
    gumbel = noise_rows(replayed.seed, range(begun, begun + len(l)), rows.ids).astype(np.float64)
    # Where most of the 64 are forbidden, allowed tokens beyond them may stand before one that is near their edge.
    is_free = np.array([masks is None or masks[n] is None for n in range(len(l))])
    margins, chosen = _sampled_margins(l, gumbel, rows, is_free, params, slack)
    far = np.flatnonzero(margins > NEAR)
    if len(far):
        # A wider edge only ever lowers a margin.
        wide, _ = _sampled_margins(l[far], gumbel[far], rows.some(far), is_free[far], params, WIDE)
        margins[far] = np.fmax(NEAR, wide)
    return np.where(lost, CLIP, margins), np.where(lost, best, rows.ids[each, chosen])


def _adjusted(replayed: Replayed, rows: _Rows, masks: Sequence[Words | None] | None) -> NDArray[np.float32]:
    """Scores of R-28; those that look at the ids before a token are made token by token."""
    params, eos = replayed.params, list(replayed.eos_ids)
    has_penalties = params.repetition_penalty != ONE or params.frequency_penalty or params.presence_penalty
    if masks is None and not params.logit_bias and not has_penalties:
        position = len(replayed.prefix_ids) + rows.first + np.arange(len(rows.raw))
        ends = np.isin(rows.ids, np.asarray(eos, dtype=np.int64)) & (position < params.min_tokens)[:, None]
        return np.where(ends, np.float32(-np.inf), rows.raw)
    answer = [*replayed.prefix_ids, *replayed.output_ids]
    begun = len(replayed.prefix_ids) + rows.first
    found = [
        adjusted(raw, ids, params, replayed.prompt_ids, answer[: begun + n], eos, masks[n] if masks else None)
        for n, (raw, ids) in enumerate(zip(rows.raw, rows.ids, strict=True))
    ]
    return np.array(found, dtype=np.float32)


def _sampled_margins(
    l: Floats,  # noqa: E741
    gumbel: Floats,
    rows: _Rows,
    is_free: NDArray[np.bool_],
    params: JobParams,
    slack: float,
) -> tuple[Floats, NDArray[np.intp]]:
    """Margins, and the columns that they were measured against."""
    each, own, temperature = np.arange(len(l)), rows.own, params.temperature / ONE
    core, loose = _nuclei(l, params, rows, slack)
    core &= (l - slack > rows.least[:, None]) | is_free[:, None]
    # In nats of log-probability: a colder job's noise is narrower, and what kernels differ by is not.
    keys = l + temperature * gumbel
    best = np.where(core.any(axis=1), np.where(core, keys, -np.inf).argmax(axis=1), own)
    with np.errstate(invalid="ignore"):
        margins = np.fmax(0.0, keys[each, best] - keys[each, own])
        least = np.where(loose, l, np.inf).min(axis=1)
        margins += np.where(loose[each, own], 0.0, np.fmax(0.0, least - l[each, own]))
    # A hotter job's is wider: there it is the measure, so that a disputed edge makes far margins as seldom.
    margins /= max(1.0, temperature)
    # Where the claimed token may have been allowed and beats all that certainly were, it is the one to name.
    return np.fmin(CLIP, margins), np.where(margins > 0, best, own)


def _tail_mass(rows: _Rows, temperature: float, top: Floats) -> Floats:
    """An upper bound of the tempered weight of all tokens beyond the top 64, in units of the best one's."""
    if temperature <= 1:
        bound = rows.tail * np.exp(rows.least * (1 / temperature - 1))
    else:
        bound = MAX_VOCABULARY ** (1 - 1 / temperature) * rows.tail ** (1 / temperature)
    return np.asarray(bound * np.exp(-top / temperature), dtype=np.float64)


def _nuclei(
    l: Floats,  # noqa: E741
    params: JobParams,
    rows: _Rows,
    slack: float,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which tokens are allowed for certain, and which can't be ruled out.

    Where no two log-probabilities lie further apart or closer than `slack` for the node, its nucleus lies between them.
    """
    temperature = params.temperature / ONE
    top = np.where(np.isfinite(l).any(axis=1), l.max(axis=1), 0.0)
    order = np.argsort(-l, axis=1, kind="stable")
    weights = np.exp((l - top[:, None]) / temperature)
    weights[~np.isfinite(l)] = 0.0
    ranked = np.take_along_axis(weights, order, axis=1)
    top_k = params.top_k if params.top_k else np.inf
    kept = ranked[:, : int(min(top_k, l.shape[1]))].sum(axis=1)[:, None]
    beyond = np.where(top_k > np.isfinite(l).sum(axis=1), _tail_mass(rows, temperature, top), 0.0)[:, None]
    # Who stands before a token are the first so many of its row: their weight is a prefix of the ranked ones'.
    prefix = np.column_stack([np.zeros(len(l)), np.cumsum(ranked, axis=1)])
    near, far = _standing_before(l, -slack), _standing_before(l, slack)
    floor_share, most = shares(params, slack)
    with np.errstate(invalid="ignore"):
        # The token itself is among those near it.
        core = (np.take_along_axis(prefix, near, axis=1) - weights) / kept < floor_share
        loose = np.take_along_axis(prefix, far, axis=1) / (kept + beyond) < most
    core &= near - 1 < top_k
    loose &= far < top_k
    if params.min_p:
        floor = (top + temperature * np.log(params.min_p / ONE))[:, None]
        core &= l - slack >= floor
        loose &= l + slack >= floor
    core &= np.isfinite(l)
    loose &= np.isfinite(l)
    loose[np.arange(len(l)), order[:, 0]] = True
    return core, loose


def _standing_before(l: Floats, shift: float) -> NDArray[np.intp]:  # noqa: E741
    """How many tokens of its row are likelier than each one is by more than a shift."""
    return np.asarray(np.count_nonzero(l[:, None, :] > (l + shift)[:, :, None], axis=2), dtype=np.intp)


def shares(params: JobParams, slack: float) -> tuple[float, float]:
    """The nucleus' share, its odds off by the slack: those of any set of tokens are off by no more than two tokens'."""
    share = params.top_p / ONE
    if share >= 1:
        return math.inf, math.inf
    # Divided by the odds that are left out, so that no exponential of a very cold job overflows.
    factor = math.exp(-slack * ONE / params.temperature)
    return share * factor / (1 - share + share * factor), share / (share + (1 - share) * factor)

"""The sampler of R-27 to R-29 over a batch of rows in torch; `retally.protocol.sampler` is its readable twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from retally.protocol.params import ONE, JobParams
from retally.protocol.sampler import fraction, noise_key

#: Tokens looked at before a full sort is tried; nuclei are nearly always smaller.
SHORTLIST = 256


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


@dataclass(slots=True)
class Row:
    """One request in the batch: its rule and the tokens around it."""

    params: JobParams
    seed: bytes
    eos_ids: tuple[int, ...]
    prompt_ids: Sequence[int]
    prefix_ids: Sequence[int]
    #: The engine's own growing list.
    output_ids: Sequence[int] = field(default_factory=list)

    @property
    def position(self) -> int:
        """How many tokens of the answer there are, earlier segments included."""
        return len(self.prefix_ids) + len(self.output_ids)

    @property
    def answer_ids(self) -> list[int]:
        """The answer so far; the engine's placeholders (-1) are left out."""
        return [*self.prefix_ids, *(token for token in self.output_ids if token >= 0)]

    @property
    def is_adjusted(self) -> bool:
        """Whether bias, penalties or min_tokens change this row's scores now."""
        p = self.params
        return bool(
            p.logit_bias
            or p.repetition_penalty != ONE
            or p.frequency_penalty
            or p.presence_penalty
            or self.position < p.min_tokens
        )


def noise(keys: Sequence[int], ids: Tensor) -> Tensor:
    """Return fp32 Gumbel noise, one row for each key; `ids` is one row for all or one for each."""
    key = torch.tensor([_signed(key) for key in keys], dtype=torch.int64, device=ids.device)[:, None]
    # int64 arithmetic wraps like uint64; only right shifts need their sign bits cleared.
    z = key + (ids + 1) * _GOLDEN
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    z = z ^ _shift(z, 31)
    uniform = (_shift(z, 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform)).float()


def choose(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Return the token id that R-28 names for each row of raw logits."""
    scores = logits.log_softmax(dim=-1, dtype=torch.float32)
    for index, row in enumerate(rows):
        if row.is_adjusted:
            _adjust(scores[index], row)
    chosen = scores.argmax(dim=1)
    drawn = [index for index, row in enumerate(rows) if row.params.temperature]
    if drawn:
        where = torch.tensor(drawn, device=logits.device)
        temperatures = torch.tensor([float(fraction(rows[index].params.temperature)) for index in drawn])
        heated = scores[where] / temperatures.to(logits.device, torch.float32)[:, None]
        chosen[where] = _draw(heated, [rows[index] for index in drawn])
    return chosen


def _shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _adjust(scores: Tensor, row: Row) -> None:
    """Apply bias, penalties and min_tokens to one row in place."""
    p, device = row.params, scores.device
    answer = torch.tensor(row.answer_ids, dtype=torch.int64, device=device)
    if p.logit_bias:
        ids = torch.tensor([token for token, _ in p.logit_bias], device=device)
        bias = torch.tensor([float(fraction(value)) for _, value in p.logit_bias], device=device)
        scores[ids[ids < len(scores)]] += bias[ids < len(scores)]
    if p.repetition_penalty != ONE:
        prompt = torch.tensor(list(row.prompt_ids), dtype=torch.int64, device=device)
        seen = torch.cat((prompt, answer)).unique()
        penalty = float(fraction(p.repetition_penalty))
        scores[seen] = torch.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)
    if len(answer) and (p.frequency_penalty or p.presence_penalty):
        ids, counts = answer.unique(return_counts=True)
        scores[ids] -= float(fraction(p.frequency_penalty)) * counts.float()
        scores[ids] -= float(fraction(p.presence_penalty))
    if row.position < p.min_tokens and row.eos_ids:
        scores[list(row.eos_ids)] = -torch.inf


def _draw(scores: Tensor, rows: list[Row]) -> Tensor:
    """Return the drawn token of each row of heated scores, each row by the cheapest exact way."""
    chosen = torch.zeros(len(rows), dtype=torch.int64, device=scores.device)
    keys = [noise_key(row.seed, row.position) for row in rows]
    size = scores.shape[1]
    ranked = [n for n, row in enumerate(rows) if row.params.top_p < ONE or 0 < row.params.top_k < size]
    cut = [n for n, row in enumerate(rows) if row.params.min_p and n not in set(ranked)]
    free = [n for n in range(len(rows)) if n not in {*ranked, *cut}]
    if free:
        chosen[free] = (scores[free] + noise([keys[n] for n in free], _all_ids(scores))).argmax(dim=1)
    if ranked:
        tokens, is_exact = _draw_ranked(scores[ranked], [rows[n].params for n in ranked], [keys[n] for n in ranked])
        chosen[ranked] = tokens
        cut += [n for n, exact in zip(ranked, is_exact.tolist(), strict=True) if not exact]
    for n in cut:
        chosen[n] = _draw_one(scores[n], rows[n].params, keys[n])
    return chosen


def _all_ids(scores: Tensor) -> Tensor:
    return torch.arange(scores.shape[-1], device=scores.device)


def _draw_ranked(scores: Tensor, params: list[JobParams], keys: list[int]) -> tuple[Tensor, Tensor]:
    """Draw from the best tokens of rows with top-k or top-p; also say for which rows the short list was enough."""
    size = scores.shape[1]
    short = min(SHORTLIST, size)
    values, ids = scores.topk(short, dim=1)
    values, ids = _ranked(values, ids)
    device = scores.device
    k = torch.tensor([p.top_k if 0 < p.top_k < size else size for p in params], device=device)[:, None]
    top_p = torch.tensor([p.top_p / ONE for p in params], dtype=torch.float64, device=device)[:, None]
    weights = torch.exp(values.double() - values[:, :1].double())
    weights = torch.where(torch.arange(short, device=device) < k, weights, 0.0)
    everything = torch.exp(scores.double() - values[:, :1].double()).sum(1, keepdim=True)
    total = torch.where(k < size, weights.sum(1, keepdim=True), everything)
    before = torch.cumsum(weights, 1) - weights
    keep = (torch.arange(short, device=device) < k) & ((before < top_p * total) | (top_p >= 1))
    keep[:, 0] = True
    # Where the edge reaches the short list's last value, tokens outside it may belong inside.
    last = values.gather(1, keep.sum(1, keepdim=True) - 1)[:, 0]
    is_exact = ((last > values[:, -1]) & ((k <= short) | (k >= size))[:, 0]) | (short == size)
    min_p = torch.tensor([p.min_p / ONE for p in params], dtype=torch.float64, device=device)[:, None]
    keep &= (torch.exp(values.double() - values[:, :1].double()) >= min_p) | (torch.arange(short, device=device) == 0)
    noised = torch.where(keep, values + noise(keys, ids), -torch.inf)
    return _first_of_best(noised, ids, size), is_exact


def _draw_one(scores: Tensor, params: JobParams, key: int) -> Tensor:
    """Draw from one row by a full sort."""
    values, ids = (part[0] for part in _ranked(scores[None], _all_ids(scores)[None]))
    if 0 < params.top_k < len(scores):
        values, ids = values[: params.top_k], ids[: params.top_k]
    weights = torch.exp(values.double() - values[0].double())
    keep = weights >= params.min_p / ONE
    if params.top_p < ONE:
        keep &= torch.cumsum(weights, 0) - weights < params.top_p / ONE * weights.sum()
    keep[0] = True
    values, ids = values[keep], ids[keep]
    return _first_of_best((values + noise([key], ids)[0])[None], ids[None], len(scores))[0]


def _ranked(values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Sort by falling value, equal values by rising id."""
    ids, by_id = ids.sort(dim=1)
    values, by_value = values.gather(1, by_id).sort(dim=1, descending=True, stable=True)
    return values, ids.gather(1, by_value)


def _first_of_best(scores: Tensor, ids: Tensor, size: int) -> Tensor:
    """Return the smallest id among each row's largest scores."""
    return torch.where(scores == scores.amax(1, keepdim=True), ids, size).amin(1)

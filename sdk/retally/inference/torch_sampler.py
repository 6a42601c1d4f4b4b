"""The sampler of R-27 to R-29 over a batch of rows in torch; `retally.protocol.sampler` is its readable twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from retally.inference.sampler_adjustments import Adjustments, HeldOpen, masks_of
from retally.inference.sampler_noise import noise, noise_of_all
from retally.inference.sampler_order import best_in_order, first_best
from retally.inference.sampler_rows import Row
from retally.protocol.params import ONE, JobParams
from retally.protocol.sampler import fraction, noise_key

#: Tokens looked at before a full sort is tried; nuclei are nearly always smaller.
SHORTLIST = 256
#: Larger than any logit, and finite: what the engine still computes from the row must not become NaN.
NAMED = torch.finfo(torch.float32).max


class BatchSampler:
    """The sampler for one composition of the batch; made anew when requests come, go or move.

    Logits are fp32 [batch, vocabulary]. Rows that need no log-probabilities cost nothing beyond this constructor.
    """

    def __init__(self, rows: Mapping[int, Row], size: int, device: torch.device) -> None:
        scored = sorted(index for index, row in rows.items() if row.is_scored)
        self._rows = [rows[index] for index in scored]
        self._scored = torch.tensor(scored, dtype=torch.int64, device=device)
        greedy = [(n, row) for n, row in rows.items() if not row.is_scored]
        self._greedy_masks = masks_of(greedy, size, device)
        self._greedy_ends = HeldOpen(greedy, size, device)
        self._adjustments = Adjustments(self._rows, size, device)
        kinds: dict[type[Draw], list[int]] = {}
        for n, row in enumerate(self._rows):
            kinds.setdefault(_kind(row.params, size), []).append(n)
        self._draws = [kind(where, self._rows, size, device) for kind, where in kinds.items()]

    def apply(self, logits: Tensor) -> None:
        """Change the logits in place so that their argmax, the smallest id among equals, is the token of R-28."""
        self._greedy_masks.apply(logits)
        self._greedy_ends.apply(logits)
        if not self._rows:
            return
        raw = logits if len(self._rows) == len(logits) else logits[self._scored]
        scores = raw.log_softmax(dim=-1, dtype=torch.float32)
        self._adjustments.apply(scores)
        for draw in self._draws:
            draw.name(scores, logits, self._scored)


def choose(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Return the token id that R-28 names for each row of raw logits [rows, vocabulary]."""
    named = logits.to(torch.float32, copy=True)
    BatchSampler(dict(enumerate(rows)), named.shape[1], named.device).apply(named)
    return first_best(named)


class Draw:
    """Rows whose token is found in one way: here the largest score, which is temperature 0 after adjustments."""

    def __init__(self, where: list[int], rows: Sequence[Row], size: int, device: torch.device) -> None:
        self._is_whole = len(where) == len(rows)
        self._where = torch.tensor(where, dtype=torch.int64, device=device)
        self._rows = [rows[n] for n in where]
        heat = [float(fraction(row.params.temperature)) for row in self._rows]
        is_cold = set(heat) <= {0.0, 1.0}
        self._heat = None if is_cold else torch.tensor(heat, dtype=torch.float32, device=device)[:, None]

    def name(self, scores: Tensor, logits: Tensor, scored: Tensor) -> None:
        """Raise the named token of each row above all others."""
        own = scores if self._is_whole else scores[self._where]
        tokens = self._tokens(own if self._heat is None else own.div_(self._heat))
        logits[scored if self._is_whole else scored[self._where], tokens] = NAMED

    def _tokens(self, scores: Tensor) -> Tensor:
        return first_best(scores)

    def _keys(self) -> list[int]:
        return [noise_key(row.seed, row.position) for row in self._rows]


class FreeDraw(Draw):
    """Rows that may take any token."""

    def _tokens(self, scores: Tensor) -> Tensor:
        return first_best(scores.add_(noise_of_all(self._keys(), scores.shape[1], scores.device)))


class CutDraw(Draw):
    """Rows with top-k, top-p or min-p: first among their best tokens, then, where these were too few, among all."""

    def __init__(self, where: list[int], rows: Sequence[Row], size: int, device: torch.device) -> None:
        super().__init__(where, rows, size, device)
        self._cuts = Cuts.of([row.params for row in self._rows], size, device)

    def _tokens(self, scores: Tensor) -> Tensor:
        keys, size = self._keys(), scores.shape[1]
        tokens, is_exact = self._cuts.draw(scores, keys, min(SHORTLIST, size))
        wide = [n for n, exact in enumerate(is_exact.tolist()) if not exact]
        if wide:
            where = torch.tensor(wide, device=scores.device)
            tokens[where] = self._cuts.only(where).draw(scores[where], [keys[n] for n in wide], size)[0]
        return tokens


class Cuts:
    """Top-k, top-p and min-p of some rows, each a column [rows, 1]."""

    def __init__(self, top_k: Tensor, top_p: Tensor, min_p: Tensor, *, has_top_p: bool) -> None:
        self._top_k, self._top_p, self._min_p, self._has_top_p = top_k, top_p, min_p, has_top_p

    @classmethod
    def of(cls, params: Sequence[JobParams], size: int, device: torch.device) -> Cuts:
        """The cuts of rows with these parameters; a top-k that is off is the vocabulary's size."""
        top_k = torch.tensor([p.top_k if 0 < p.top_k < size else size for p in params], device=device)
        top_p = torch.tensor([p.top_p / ONE for p in params], dtype=torch.float64, device=device)
        min_p = torch.tensor([p.min_p / ONE for p in params], dtype=torch.float64, device=device)
        has_top_p = any(p.top_p < ONE for p in params)
        return cls(top_k[:, None], top_p[:, None], min_p[:, None], has_top_p=has_top_p)

    def only(self, where: Tensor) -> Cuts:
        """The cuts of these rows alone."""
        return Cuts(self._top_k[where], self._top_p[where], self._min_p[where], has_top_p=self._has_top_p)

    def draw(self, scores: Tensor, keys: Sequence[int], short: int) -> tuple[Tensor, Tensor]:
        """Draw from the `short` best tokens of each row of heated scores; also say for which rows these were enough."""
        size = scores.shape[1]
        values, ids = best_in_order(scores, short)
        weights = torch.exp(values.double() - values[:, :1].double())
        within = torch.arange(short, device=scores.device) < self._top_k
        keep = within & (weights >= self._min_p)
        if self._has_top_p:
            keep &= self._nucleus(scores, values, torch.where(within, weights, 0.0))
        keep[:, 0] = True
        # Where the edge reaches the short list's last value, tokens outside it may belong inside.
        last = values.gather(1, keep.sum(1, keepdim=True) - 1)
        # The mass of more than the short list but less than all is not known.
        is_mass_known = (self._top_k <= short) | (self._top_k >= size) | (self._top_p >= 1)
        is_exact = (last > values[:, -1:]) & is_mass_known | (short == size)
        # Under a grammar nothing may be left beyond the short list.
        is_exact |= values[:, -1:] == -torch.inf
        noised = torch.where(keep, values + noise(keys, ids), -torch.inf)
        best = noised == noised.amax(1, keepdim=True)
        return torch.where(best, ids, size).amin(1), is_exact[:, 0]

    def _nucleus(self, scores: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        """Which tokens in order begin before the mass top_p, in fp64; weights are zero beyond top-k."""
        total = weights.sum(1, keepdim=True)
        if weights.shape[1] < scores.shape[1]:
            everything = scores.double().sub_(values[:, :1].double()).exp_().sum(1, keepdim=True)
            total = torch.where(self._top_k < scores.shape[1], total, everything)
        before = torch.cumsum(weights, 1).roll(1, dims=1)
        before[:, 0] = 0.0
        return (before < self._top_p * total) | (self._top_p >= 1)


def _kind(params: JobParams, size: int) -> type[Draw]:
    if not params.temperature:
        return Draw
    return CutDraw if params.top_p < ONE or 0 < params.top_k < size or params.min_p else FreeDraw

"""R-34 at the nucleus' edge: what kernels differ by moves tokens in and out of it, and makes no margin."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from tests.margins_one_by_one import nuclei

from retally.protocol.margins import NARROW, NEAR, WIDE, Floats, Replayed, token_margins
from retally.protocol.params import ONE, JobParams
from retally.protocol.sampler import allowed, noise

SHAPES = [
    {"top_p": 950_000},
    {"temperature": 500_000, "top_p": 900_000},
    {"temperature": 1_700_000, "top_p": 300_000},
    {"top_k": 5},
    {"temperature": 700_000, "top_k": 8, "top_p": 800_000},
    {"min_p": 50_000},
]
IDS = np.arange(40)
SEED = b"s" * 32


@dataclass(frozen=True, slots=True)
class Rows:
    """Scores of one token."""

    top_ids: np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    top_logprobs: np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def params(**shape: int) -> JobParams:
    return replace(JobParams(max_tokens=8, template_date="2026-01-01", temperature=ONE), **shape)


def margin(shape: dict[str, int], logprobs: Floats, claimed: int, slack: float = NARROW) -> float:
    ids = np.arange(len(logprobs), dtype=np.int32)
    rows = Rows(ids[None], logprobs[None].astype(np.float32))
    (token,) = token_margins(Replayed(params(**shape), SEED, [1], [], [claimed], []), rows, slack)
    return token.margin


def winner(logprobs: Floats, kept: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], temperature: float) -> int:
    keys = logprobs / temperature + noise(SEED, 0, np.arange(len(logprobs)))
    return int(np.where(kept, keys, -np.inf).argmax())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("slack", [NARROW, WIDE])
def test_the_nodes_nucleus_lies_between_core_and_loose(shape: dict[str, int], slack: float) -> None:
    """R-34's slack is a bound: where no difference of two tokens is off by more, no edge is disputed."""
    rule, sizes = params(**shape), []
    for number in range(200):
        source = np.random.default_rng(number)
        seen = source.normal(0, 2, len(IDS))
        # Each end of the span, since what is in between moves less.
        node = seen + source.choice([-1, 1], len(IDS)) * slack / 2 * (1 - 1e-6)
        temperature = rule.temperature / ONE
        kept = allowed((node / temperature).astype(np.float32), IDS, rule)
        core, loose = nuclei(seen, rule, 0.0, slack)
        assert not (core & ~kept).any()
        assert not (kept & ~loose).any()
        sizes.append(core.sum())
    assert np.mean(sizes) > (0.5 if slack == NARROW else 0)


def test_a_fixed_share_of_mass_would_not_hold() -> None:
    # A cold job moves mass by more than its logits: the first token weighs 0.913 here and 0.888 for the node.
    seen = np.log([0.842, 0.158])
    node = np.log([0.815, 0.185])
    rule = params(temperature=700_000, top_p=900_000)
    weights = [np.exp(each / 0.7) / np.exp(each / 0.7).sum() for each in (node, seen)]
    assert weights[0][0] < 0.9 < 0.91 < weights[1][0]
    claimed = winner(node, allowed((node / 0.7).astype(np.float32), np.arange(2), rule), 0.7)
    core, loose = nuclei(seen, rule, 0.0, NARROW * 2)
    assert not core[1]
    assert loose[claimed]


@pytest.mark.parametrize("temperature", [200_000, 500_000, ONE])
def test_a_margin_is_in_nats_of_logprob_however_cold_the_job(temperature: int) -> None:
    """What kernels differ by counts alike at each temperature."""
    gumbel = noise(SEED, 0, np.array([0, 1]))
    # The second wins by a tenth of a nat of log-probability.
    logprobs = np.array([0.0, 0.1 - temperature / ONE * float(gumbel[1] - gumbel[0])])
    assert margin({"temperature": temperature}, logprobs, 0) == pytest.approx(0.1, abs=1e-5)
    assert margin({"temperature": temperature}, logprobs, 1) == 0


def test_at_a_high_temperature_noise_is_the_measure() -> None:
    """A disputed edge makes margins of the noise's width, so that they are no wider than its law says."""
    gumbel = noise(SEED, 0, np.array([0, 1]))
    logprobs = np.array([0.0, 0.3 - 2 * float(gumbel[1] - gumbel[0])])
    assert margin({"temperature": 2 * ONE}, logprobs, 0) == pytest.approx(0.15, abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_wider_edge_only_lowers_margins(shape: dict[str, int]) -> None:
    logprobs = np.log(np.random.default_rng(7).dirichlet(np.full(40, 0.3)) + 1e-9)
    for claimed in range(40):
        found = [margin(shape, logprobs, claimed, slack) for slack in (1e-4, NARROW, 0.6, WIDE)]
        assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(("odds_ahead", "expected"), [(0.1, 0.0), (1.0, NEAR), (2.5, 2.0)])
def test_beyond_half_a_nat_a_token_has_to_be_allowed_by_the_wide_edge(odds_ahead: float, expected: float) -> None:
    """R-34: max(0.5, m(2)) where m(0.15) is above 0.5."""
    gumbel = noise(SEED, 0, np.array([0, 1]))
    # The second token is the likelier one and loses by two nats; the nucleus ends so far behind it.
    logprobs = np.array([2.0 - float(gumbel[0] - gumbel[1]), 0.0])
    log_odds = float(logprobs[1] - logprobs[0])
    assert 0 < log_odds < 1
    top_p = round(ONE / (1 + np.exp(-log_odds - odds_ahead)))
    assert margin({"top_p": top_p}, logprobs, 1) == pytest.approx(expected, abs=1e-5)


def test_a_token_from_far_outside_the_nucleus_is_far_off() -> None:
    logprobs = np.log(np.array([0.6, 0.3, 0.09, 0.01]))
    assert margin({"top_p": 500_000}, logprobs, 3) > 1

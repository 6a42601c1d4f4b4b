"""Re-executors that disagree (R-58): further ones are drawn, a lone one does not count, and guilt needs a majority."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contracts.court.transcripts import PROFILE
from tests.fakes_replay import (
    ACCUSED,
    GUILTY,
    HONEST,
    ODD,
    OWNERS,
    TABLE,
    GivenReplayer,
    OneCalibration,
    Siblings,
    a_bundle,
    node_of,
)

from retally.protocol.calibration import PROBABILITY, MarginTable
from retally.protocol.case import CommitRecord, VerdictKind
from retally.protocol.encoding import Address, keccak
from retally.protocol.evidence import JOB_MISMATCH, JobLogE, verdict_of
from retally.protocol.exact import EQUAL
from retally_verifier.agreement import PRICE, Said, agree, count, majority_of, suspects
from retally_verifier.replay import Replay

COMMIT = CommitRecord(7, ACCUSED.address, ACCUSED.address, keccak(b"root"), keccak(b""), 1000, 300_000, 12, 5_000)
OTHER_PROFILE = keccak(b"other profile")


async def replay(folder: Path, says: Mapping[Address, float], **options: object) -> tuple[Replay, GivenReplayer]:
    """One replay by re-executors that say this."""
    replayer = GivenReplayer(folder, says, **options)
    try:
        return await replayer.replay(a_bundle(), COMMIT, (0,), b"seed"), replayer
    finally:
        replayer.store.close()


async def drawn(folder: Path, count: int) -> list[Address]:
    """The order in which owners are drawn."""
    honest = dict.fromkeys(OWNERS[:count], HONEST)
    _, first = await replay(folder / "a", honest, replayers=count, most_replayers=count)
    return first.asked


def said(owner: Address, log_e: float, margins: Sequence[float] = (0.0,) * 16) -> Said:
    """What one says."""
    return Said(owner, JobLogE(log_e, True, {}), np.array(margins), TABLE)


class TestDrawing:
    async def test_asks_two_that_agree_and_no_third(self, tmp_path: Path) -> None:
        found, replayer = await replay(tmp_path, dict.fromkeys(OWNERS[:6], HONEST))
        assert len(replayer.asked) == 2
        assert found.calibrated
        assert verdict_of(found.log_e) == VerdictKind.MATCH

    async def test_an_exact_profile_is_judged_by_equality_and_needs_no_calibration(self, tmp_path: Path) -> None:
        unknown = OneCalibration(frozenset({PROFILE}))
        says = dict.fromkeys(OWNERS[:6], HONEST)
        without, _ = await replay(tmp_path / "a", says, calibrations=unknown)
        assert not without.calibrated
        equal, _ = await replay(tmp_path / "b", says, calibrations=unknown, exact={PROFILE})
        assert equal.log_e == pytest.approx(EQUAL + math.log1p(-PRICE))
        assert (equal.detail["verifierProfiles"], equal.detail["driftLogE"]) == ([], 0.0)
        differing, _ = await replay(
            tmp_path / "c", dict.fromkeys(OWNERS[:6], ODD), calibrations=unknown, exact={PROFILE}
        )
        assert verdict_of(differing.log_e) == VerdictKind.MISMATCH
        assert all(each["differing"] for each in differing.detail["replays"])

    @pytest.mark.parametrize("liar", [0, 1])
    async def test_a_corrupt_re_executor_does_not_turn_guilt_into_a_match(self, tmp_path: Path, liar: int) -> None:
        order = await drawn(tmp_path, 6)
        says = dict.fromkeys(order, GUILTY) | {order[liar]: HONEST}
        found, replayer = await replay(tmp_path / "b", says)
        assert found.log_e >= JOB_MISMATCH
        assert replayer.asked == order[:4]
        alone = [each["owner"] for each in found.detail["replays"] if each.get("alone")]
        assert alone == [order[liar]]

    @pytest.mark.parametrize("liars", [(0,), (1,), (0, 2), (1, 2), (1, 3)])
    async def test_a_minority_never_makes_guilt(self, tmp_path: Path, liars: tuple[int, ...]) -> None:
        order = await drawn(tmp_path, 6)
        says = dict.fromkeys(order, HONEST) | {order[n]: GUILTY for n in liars}
        found, _ = await replay(tmp_path / "b", says)
        assert verdict_of(found.log_e) == VerdictKind.MATCH

    async def test_without_a_majority_the_least_counts(self, tmp_path: Path) -> None:
        order = await drawn(tmp_path, 2)
        found, replayer = await replay(tmp_path / "b", {order[0]: GUILTY, order[1]: HONEST})
        assert len(replayer.asked) == 2
        assert verdict_of(found.log_e) == VerdictKind.MATCH
        assert not any(each.get("alone") for each in found.detail["replays"])

    async def test_asks_no_more_than_the_most(self, tmp_path: Path) -> None:
        order = await drawn(tmp_path, 9)
        says = dict(zip(order, itertools.cycle((HONEST, GUILTY)), strict=False))
        found, replayer = await replay(tmp_path / "b", says, most_replayers=4)
        assert len(replayer.asked) == 4
        assert verdict_of(found.log_e) == VerdictKind.MATCH

    async def test_goes_on_to_the_next_where_one_does_not_answer(self, tmp_path: Path) -> None:
        order = await drawn(tmp_path, 4)
        found, replayer = await replay(tmp_path / "b", dict.fromkeys(order, HONEST) | {order[0]: -1.0})
        assert replayer.asked == order[:3]
        assert found.calibrated
        assert found.detail["replays"][0]["error"]

    async def test_never_draws_the_accused_its_siblings_or_itself(self, tmp_path: Path) -> None:
        siblings = Siblings(frozenset((ACCUSED.address, OWNERS[0])))
        says = dict.fromkeys((*OWNERS[:2], ACCUSED.address), HONEST)
        found, replayer = await replay(tmp_path, says, registry=siblings)
        assert replayer.asked == [OWNERS[1]]
        assert not found.calibrated

    async def test_one_of_an_uncalibrated_profile_can_not_make_a_verdict_inconclusive(self, tmp_path: Path) -> None:
        replayer = GivenReplayer(
            tmp_path,
            dict.fromkeys(OWNERS[:6], GUILTY),
            calibrations=OneCalibration(frozenset({OTHER_PROFILE})),
        )
        for owner in OWNERS[:4]:
            replayer.store.put_node(node_of(owner, OTHER_PROFILE))
        found = await replayer.replay(a_bundle(), COMMIT, (0,), b"seed")
        replayer.store.close()
        assert sorted(replayer.asked) == sorted(OWNERS[4:6])
        assert found.log_e >= JOB_MISMATCH

    async def test_draws_suspects_only_where_others_do_not_suffice(self, tmp_path: Path) -> None:
        order = await drawn(tmp_path, 4)
        replayer = GivenReplayer(tmp_path / "b", dict.fromkeys(order, HONEST))
        await replayer.replay(a_bundle(), COMMIT, (0,), b"seed", last=(order[0],))
        replayer.store.close()
        assert replayer.asked == order[1:3]


class TestAgreement:
    def test_forgives_what_kernels_do(self) -> None:
        noisy = [0.3 if n % 4 == 0 else 0.0 for n in range(16)]
        assert agree(said(OWNERS[0], -0.5), said(OWNERS[1], -0.4, noisy))

    def test_sees_margins_that_no_noise_explains_behind_one_verdict(self) -> None:
        far = [3.0 if n % 4 == 0 else 0.0 for n in range(16)]
        assert not agree(said(OWNERS[0], -0.5), said(OWNERS[1], -0.4, far))

    @pytest.mark.parametrize(("edge", "forgiven"), [(200_000, 12), (500_000, 12), (600_000, 22)])
    def test_forgives_twice_what_the_last_edge_up_to_the_noise_is_reached(self, edge: int, forgiven: int) -> None:
        # Of the tokens 0.1 may reach the first edge and 0.05 the second; beyond the noise only the first one bounds.
        table = MarginTable((100, edge), (900_000_000, 50_000_000, 50_000_000), (PROBABILITY // 2, 10**8, 10**8))
        clean = np.zeros(100)
        for off, is_forgiven in ((forgiven, True), (forgiven + 1, False)):
            far = np.where(np.arange(100) < off, 3.0, 0.0)
            one, two = (Said(OWNERS[n], JobLogE(-0.5, True, {}), each, table) for n, each in enumerate((clean, far)))
            assert agree(one, two) == is_forgiven

    def test_sees_another_verdict(self) -> None:
        assert not agree(said(OWNERS[0], JOB_MISMATCH), said(OWNERS[1], JOB_MISMATCH - 0.1))

    def test_warns_of_who_stands_alone_often(self) -> None:
        often, once = OWNERS[:2]
        lone = {"replays": [{"owner": often, "alone": True}, {"owner": once}]}
        both = {"replays": [{"owner": often}, {"owner": once}, {"node": "failed", "error": "x"}]}
        assert suspects([lone, lone, both]) == {}
        found = suspects([lone, lone, lone, *[both] * 12])
        assert list(found) == [often]
        assert "3 of 15" in found[often].reason
        assert suspects([lone, lone, lone, *[both] * 13]) == {}


LOG_ES = st.floats(-12, 18)


class TestSoundness:
    """R-58: whatever fewer than a majority say, the evidence is at most a mean of honest e-values, and a tenth more."""

    @given(
        honest=st.lists(LOG_ES, min_size=3, max_size=5), lies=st.lists(LOG_ES, min_size=0, max_size=2), data=st.data()
    )
    def test_is_at_most_what_honest_ones_allow(
        self, honest: list[float], lies: list[float], data: st.DataObject
    ) -> None:
        most = len(honest) + len(lies)
        lies = lies[: majority_of(most) - 1]
        most = len(honest) + len(lies)
        everybody = [said(owner, value) for owner, value in zip(OWNERS, [*honest, *lies], strict=False)]
        asked = data.draw(st.permutations(everybody))[: data.draw(st.integers(2, most))]
        found = count(asked, most)
        e, es = math.exp(found.log_e), [math.exp(value) for value in honest]
        if not found.alone:
            # Nobody was left out: at most an honest one, if one was asked.
            inside = [each for each in asked if each.owner in OWNERS[: len(honest)]]
            if inside:
                assert e <= (1 - PRICE) * math.exp(min(each.evidence.log_e for each in inside)) * (1 + 1e-9)
            return
        assert len(found.who) >= majority_of(most)
        assert e <= PRICE * sum(es) / len(es) * (1 + 1e-9)

    def test_honest_owners_expect_no_more_than_one(self) -> None:
        rng = np.random.default_rng(5)
        total, times = 0.0, 4_000
        for _ in range(times):
            # e is 20 with a chance of 1/20: as heavy a tail as an e-value may have, and honest ones disagree often.
            honest = [math.log(20) if rng.random() < 0.05 else math.log(1e-3) for _ in range(3)]
            lies = [18.0, 18.0]
            order = rng.permutation(5)
            everybody = [said(OWNERS[n], [*honest, *lies][n]) for n in order]
            first = everybody[:2]
            found = count(first if agree(*first) and not {3, 4} >= set(order[:2]) else everybody, 5)
            total += math.exp(found.log_e)
        assert total / times <= 1.0

    def test_a_lone_accuser_weighs_nothing(self) -> None:
        accuser = said(OWNERS[0], 18.0)
        others = [said(owner, -0.5) for owner in OWNERS[1:4]]
        found = count([accuser, *others], 5)
        assert found.alone == (accuser,)
        assert found.log_e < -0.5

    def test_unanimity_costs_a_tenth_of_e(self) -> None:
        found = count([said(OWNERS[0], 12.0), said(OWNERS[1], 11.0)], 5)
        assert found.log_e == pytest.approx(11.0 + math.log(0.9))
        assert replace(found, log_e=0.0).who == found.who

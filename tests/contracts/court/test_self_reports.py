"""Reporting oneself, through whatever friends, costs more than it brings: every profit is summed over all of them."""

from __future__ import annotations

import pytest

from tests.contracts.court.cases import FEE, SEVERITY, TIP, Case, opening
from tests.contracts.court.challenges import challenge
from tests.contracts.court.ledger import DAY, MILLION
from tests.contracts.court.proofs import Claimant, Punished
from tests.contracts.court.transcripts import Job, Tree
from tests.contracts.court.wealth import burned, wealth
from tests.contracts.court.world import MISMATCH, STAKE, Commit, World

# The friend's deposit is 1,000 million: nearly all of it, and as much as the stake.
HUGE = 990 * MILLION
FEES = [5 * MILLION, HUGE]


def coalition(world: World) -> tuple[str, ...]:
    """Accused, accuser and the friend that pays."""
    return world.cheat, world.challenger, world.friend.address


def friends_job(world: World, fee: int) -> Job:
    """A job of the friend's at the accused's node, of whatever price they like."""
    return world.job(payer=world.friend).changed(cum_to=fee)


def commit_of(world: World, *jobs: Job) -> Commit:
    """A commit of the friend's jobs, with its seed."""
    commit = world.collect(Tree(world.ledger.domain, jobs), payers=(world.friend,))
    world.fix_seed(commit)
    return commit


def reported(world: World, commit: Commit, jobs: list[Job], fee: int | None = None) -> Case:
    """The accuser's case against its own friend, which shows these jobs, for their fees or for `fee` each."""
    entries = [
        (commit.record.id, job.digest, job.receipt.payer, job.receipt.fee if fee is None else fee) for job in jobs
    ]
    mined = world.ledger.send(opening(world, entries), world.challenger)
    return Case(world, mined.event("CaseOpened")["caseId"], jobs, entries)


class TestMismatch:
    """By a court: a case of the accuser's that shows the friend's jobs."""

    @pytest.mark.parametrize("fee", FEES)
    def test_loses_though_a_friends_huge_jobs_are_shown(self, world: World, fee: int) -> None:
        job = friends_job(world, fee)
        commit = commit_of(world, job)
        before, ashes = wealth(world, *coalition(world)), burned(world)
        event = reported(world, commit, [job]).judged(MISMATCH)
        profit = wealth(world, *coalition(world)) - before
        # All that left them: what is burned, the jurors' shares, and the tips of whoever moved the case.
        jurors = sum(world.ledger.staking.functions.credit(owner).call() for owner in world.owners[1:])
        assert profit == -(burned(world) - ashes) - jurors - 3 * TIP
        assert burned(world) - ashes == event["burned"] >= SEVERITY // 2
        assert profit <= -SEVERITY // 2
        # Refunds came out of the accused's own stake and held credit: to the friend, and to nobody else.
        assert world.ledger.staking.functions.credit(world.friend.address).call() == event["refunded"] <= fee
        world.supply()

    @pytest.mark.parametrize("fee", FEES)
    def test_loses_though_the_whole_jury_is_in_on_it(self, world: World, fee: int) -> None:
        job = friends_job(world, fee)
        commit = commit_of(world, job)
        everybody = (*coalition(world), *world.owners, world.outsider)
        before, ashes = wealth(world, *everybody), burned(world)
        reported(world, commit, [job]).judged(MISMATCH)
        assert wealth(world, *everybody) - before == -(burned(world) - ashes) <= -SEVERITY // 2

    def test_loses_though_a_bought_jury_believes_in_invented_fees(self, world: World) -> None:
        job = friends_job(world, 5 * MILLION)
        commit = commit_of(world, job)
        everybody = (*coalition(world), *world.owners, world.outsider)
        before = wealth(world, *everybody)
        event = reported(world, commit, [job], fee=2**90).judged(MISMATCH)
        # The invention took the whole stake, and all but the burned half went in a circle.
        assert event["refunded"] > STAKE // 2
        assert wealth(world, *everybody) - before <= -SEVERITY // 2

    def test_loses_the_second_time_too(self, world: World) -> None:
        """No stake pays twice in an epoch: a second report costs no severity any more, and wins none either."""
        jobs = [friends_job(world, 5 * MILLION) for _ in range(2)]
        jobs[1] = jobs[1].changed(cum_from=jobs[0].receipt.cum_to, cum_to=2 * jobs[0].receipt.cum_to)
        commit = commit_of(world, *jobs)
        cases = [reported(world, commit, [job]) for job in jobs]
        cases[0].judged(MISMATCH)
        # What the second case cost to open lies in the court, not among them.
        before = wealth(world, *coalition(world)) + world.ledger.court.functions.openingCost().call()
        assert cases[1].judged(MISMATCH)["slashed"] == 0
        assert wealth(world, *coalition(world)) - before == -(FEE // 3 * 3) - 3 * TIP

    def test_of_an_own_job_pays_the_jury_and_nobody_else(self, world: World) -> None:
        job = friends_job(world, 5 * MILLION)
        commit = commit_of(world, job)
        before = wealth(world, *coalition(world))
        entries = [(commit.record.id, job.digest, job.receipt.payer, job.receipt.fee)]
        opened = world.ledger.send(opening(world, entries, own_job=True), world.friend.address)
        Case(world, opened.event("CaseOpened")["caseId"], [job], entries).judged(MISMATCH)
        assert wealth(world, *coalition(world)) - before == -(FEE // 3 * 3) - 3 * TIP


class TestSilence:
    @pytest.mark.parametrize("fee", FEES)
    def test_loses_though_a_friends_huge_job_is_challenged(self, world: World, fee: int) -> None:
        commit = commit_of(world, friends_job(world, fee))
        before, ashes = wealth(world, *coalition(world)), burned(world)
        # What is held of the huge job itself is taken on top.
        held = world.ledger.escrow.functions.heldOf(world.cheat).call()
        opened = challenge(world, commit, world.friend.address)
        world.ledger.jump(DAY + 1)
        timeout = world.ledger.silence.functions.timeout(opened.id)
        slashed = world.ledger.send(timeout, world.friend.address).event("SilenceSlashed")["slashed"]
        assert slashed == SEVERITY + held
        # The friend called the time-out itself, so its tip stayed with them: what is burned is all that left.
        profit = wealth(world, *coalition(world)) - before
        assert profit == -(burned(world) - ashes) <= -SEVERITY // 2


class TestFaults:
    """By proofs, of an accuser that knows where to look."""

    @pytest.mark.parametrize("fee", FEES)
    def test_of_a_bill_loses_though_the_friends_job_is_huge(self, world: World, fee: int) -> None:
        job = friends_job(world, fee)
        commit = commit_of(world, job)
        claimant = Claimant(world, world.challenger)
        before, ashes = wealth(world, *coalition(world)), burned(world)
        world.ledger.send(claimant.bind(commit, 0), claimant.account)
        punished = claimant.proves(claimant.overbilling(job, bound=True))
        assert punished.refunded > 0
        self._check(world, punished, before, ashes)

    def test_of_a_conflict_loses(self, world: World) -> None:
        job = friends_job(world, HUGE)
        claimant = Claimant(world, world.challenger)
        before, ashes = wealth(world, *coalition(world)), burned(world)
        self._check(world, claimant.proves(claimant.conflict(job, job.changed(output_root=bytes(32)))), before, ashes)

    def test_of_a_broken_tree_loses(self, world: World) -> None:
        first = friends_job(world, HUGE // 2)
        second = friends_job(world, HUGE).changed(cum_from=HUGE // 2 + 1, cum_to=HUGE)
        commit = commit_of(world, first, second)
        claimant = Claimant(world, world.challenger)
        before, ashes = wealth(world, *coalition(world)), burned(world)
        self._check(world, claimant.proves(claimant.tiling(commit, 0, [0, 1])), before, ashes)

    def _check(self, world: World, punished: Punished, before: int, ashes: int) -> None:
        gone = burned(world) - ashes
        assert wealth(world, *coalition(world)) - before == -gone < 0
        assert 2 * gone >= punished.slashed > 0
        world.supply()

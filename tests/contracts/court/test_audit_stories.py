"""Stories of faults and audits: nobody is framed, nobody dilutes its audits, nobody gains by reporting itself."""

from __future__ import annotations

import asyncio
from itertools import product
from pathlib import Path

from retally.protocol.audit_points import AuditPoint, drawn_points
from retally.protocol.case import Range, unpack_ranges
from retally.protocol.encoding import keccak
from tests.contracts.court.challenges import challenge
from tests.contracts.court.honest import Ending, Step, play
from tests.contracts.court.ledger import DAY, MILLION, OPERATOR, VERIFIER
from tests.contracts.court.proofs import Claimant
from tests.contracts.court.test_faults_honest import Accuser
from tests.contracts.court.transcripts import Tree
from tests.contracts.court.world import BOND, Commit, World


class TestSameRequest:
    """The same request sent to two nodes, or twice to one, slashes nobody."""

    def test_slashes_nobody(self, world: World, tmp_path: Path) -> None:
        steps = [
            Step(max_tokens=30, elsewhere=True),
            Step(max_tokens=30, twice=True),
            Step(max_tokens=30, ending=Ending.MOVED, after=9, goes_on=True, elsewhere=True, twice=True),
        ]
        jobs = asyncio.run(play(world, steps, tmp_path)).jobs
        assert len({(job.receipt.job_id, job.receipt.node) for job in jobs}) > len({job.receipt.job_id for job in jobs})
        accuser = Accuser(world)
        names = accuser.errors(accuser.conflict(a, b) for a, b in product(jobs, jobs))
        assert names == {"FaultsNoContradiction"}


class TestDilution:
    """Nothing else in a commit changes a job's chance to be audited."""

    def test_a_friends_huge_jobs_change_no_point_of_the_others(self, world: World) -> None:
        tree = Tree.of(world.jobs(20))
        with world.ledger.reverted():
            alone = world.collect(tree)
        huge = world.job(payer=world.friend).changed(cum_to=MILLION)
        padded = world.collect(Tree.of([*tree.jobs, huge]), upto=None, payers=(world.payer, world.friend))
        assert padded.record.step == alone.record.step
        own, theirs = unpack_ranges(alone.packed)[0], unpack_ranges(padded.packed)
        assert own in theirs
        assert len(theirs) == 2
        for number in range(50):
            seed = keccak(b"seed %d" % number)
            before = [point.point for point in points(seed, [own], alone)]
            place = theirs.index(own)
            after = [point.point for point in points(seed, theirs, padded) if point.range_index == place]
            assert before == after
            # One in every step of money: no seed leaves a stretch of a channel out.
            assert abs(len(before) - (own.after - own.before) / alone.record.step) <= 1
        world.fix_seed(padded)
        drawn = world.points(padded)
        assert sum(point.range_index == theirs.index(own) for point in drawn) >= 17

    def test_a_thousand_tiny_commits_are_audited_like_one_big_one(self, world: World) -> None:
        fee = world.job().receipt.fee
        big = world.collect(Tree.of(world.jobs(40)))
        channel = unpack_ranges(big.packed)[0]
        whole = Range(channel.payer, channel.signer, channel.lane, 0, 1_000 * fee)
        expected = 1_000 * fee / big.record.step
        assert abs(len(points(keccak(b"one"), [whole], big)) - expected) <= 1
        tiny = [
            Range(channel.payer, channel.signer, channel.lane, number * fee, (number + 1) * fee)
            for number in range(1_000)
        ]
        hits = sum(len(points(keccak(b"%d" % number), [part], big)) for number, part in enumerate(tiny))
        # Each is hit with the chance of its money; five standard deviations either way.
        assert abs(hits - expected) <= 5 * (expected * (1 - fee / big.record.step)) ** 0.5

    def test_every_point_pays_the_same_whatever_the_size_of_its_commit(self, world: World) -> None:
        audits = world.ledger.audits.functions
        for amount in (1, 12):
            commit = world.committed(amount)
            count = audits.countDrawn(commit.abi, commit.packed).call()
            assert count == len(world.points(commit))
            assert commit.record.step * commit.record.share_ppm == world.committed(1).record.step * 300_000


class TestSelfReport:
    """Reporting oneself, through whatever friends, has negative profit."""

    def test_of_a_bill(self, world: World) -> None:
        self._loses(world, 5 * MILLION)

    def test_of_a_bill_with_a_friends_huge_job(self, world: World) -> None:
        """Refunds come on top of the severity, and half of that is burned first: they save no stake from itself."""
        self._loses(world, 990 * MILLION)

    def _loses(self, world: World, fee: int) -> None:
        job = world.job(payer=world.friend).changed(cum_to=fee)
        commit = world.collect(Tree.of([job]), payers=(world.friend,))
        accomplice = Claimant(world, world.friend.address)
        before = self._wealth(world)
        world.ledger.send(accomplice.bind(commit, 0), accomplice.account)
        punished = accomplice.proves(accomplice.overbilling(job, bound=True))
        assert punished.slashed > 0
        assert before - self._wealth(world) >= punished.slashed // 2

    def test_of_silence(self, world: World) -> None:
        ledger = world.ledger
        ledger.send(ledger.staking.functions.stake(VERIFIER, BOND), world.friend.address)
        commit = world.committed(6)
        before = self._wealth(world)
        opened = challenge(world, commit, world.friend.address)
        ledger.jump(DAY + 1)
        timeout = ledger.silence.functions.timeout(opened.id)
        slashed = ledger.send(timeout, world.friend.address).event("SilenceSlashed")["slashed"]
        assert slashed > 0
        assert before - self._wealth(world) >= slashed // 2

    def _wealth(self, world: World) -> int:
        """All that the cheat and its friend own, wherever it is kept."""
        ledger = world.ledger
        staking, escrow, silence = ledger.staking.functions, ledger.escrow.functions, ledger.silence.functions
        total = 0
        for who in (world.cheat, world.friend.address):
            total += ledger.balance(who) + staking.credit(who).call() + escrow.credit(who).call()
            total += silence.credit(who).call() + escrow.account(who).call()[0] + escrow.heldOf(who).call()
            total += staking.slashable(who, OPERATOR).call() + staking.slashable(who, VERIFIER).call()
        return total


def points(seed: bytes, ranges: list[Range] | tuple[Range, ...], commit: Commit) -> list[AuditPoint]:
    """The points that a seed draws of ranges under a commit's step."""
    return list(drawn_points(seed, list(ranges), commit.record.node, commit.record.step))

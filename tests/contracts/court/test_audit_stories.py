"""Stories of faults and audits: nobody is framed, and nobody dilutes its audits."""

from __future__ import annotations

import asyncio
from itertools import product
from pathlib import Path

from retally.protocol.audit_points import AuditPoint, drawn_points
from retally.protocol.case import Range, unpack_ranges
from retally.protocol.encoding import keccak
from tests.contracts.court.honest import Ending, Step, play
from tests.contracts.court.ledger import MILLION
from tests.contracts.court.test_faults_honest import Accuser
from tests.contracts.court.transcripts import Tree
from tests.contracts.court.world import Commit, World


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

    def test_tiny_commits_are_audited_on_chain_as_they_are_counted_here(self, world: World) -> None:
        audits, escrow = world.ledger.audits.functions, world.ledger.escrow.functions
        jobs = world.jobs(40)
        with world.ledger.reverted():
            big = world.collect(Tree.of(jobs))
            share = escrow.auditPool().call()
        drawn = 0
        for job in jobs:
            tiny = world.collect(Tree.of([job]))
            # The same step and share as the big one's: a point of it pays the same, and is as likely.
            assert (tiny.record.step, tiny.record.share_ppm) == (big.record.step, big.record.share_ppm)
            before = escrow.auditPool().call()
            world.fix_seed(tiny)
            count = audits.countDrawn(tiny.abi, tiny.packed).call()
            assert count == len(world.points(tiny))
            # Fixing a seed is paid a tenth of a point's price, or what there is, whatever the size of the commit.
            tip = big.record.step * big.record.share_ppm // 10**7
            assert before - escrow.auditPool().call() == min(tip, before)
            drawn += count
        money = jobs[-1].receipt.cum_to
        assert sum(job.receipt.fee for job in jobs) == money
        expected = money / big.record.step
        assert abs(drawn - expected) <= 5 * expected**0.5
        # Rounded up each time, the share of many is no less than that of one.
        assert share <= -(-money * big.record.share_ppm // MILLION)

    def test_every_point_pays_the_same_whatever_the_size_of_its_commit(self, world: World) -> None:
        audits = world.ledger.audits.functions
        for amount in (1, 12):
            commit = world.committed(amount)
            count = audits.countDrawn(commit.abi, commit.packed).call()
            assert count == len(world.points(commit))
            assert commit.record.step * commit.record.share_ppm == world.committed(1).record.step * 300_000


def points(seed: bytes, ranges: list[Range] | tuple[Range, ...], commit: Commit) -> list[AuditPoint]:
    """The points that a seed draws of ranges under a commit's step."""
    return list(drawn_points(seed, list(ranges), commit.record.node, commit.record.step))

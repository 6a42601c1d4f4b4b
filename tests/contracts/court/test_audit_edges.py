"""Audits of next to nothing, and traps that miss by one thing."""

from __future__ import annotations

from dataclasses import replace

from retally.protocol.encoding import keccak
from tests.contracts.court.ledger import GOVERNOR, VERIFIER
from tests.contracts.court.test_audits import commitment, drawn_verifier, verdicts_of
from tests.contracts.court.test_traps import Trapped, plant, planted_job, reveal, trapped
from tests.contracts.court.transcripts import PROFILE, Job, Tree
from tests.contracts.court.world import SALT, Commit, World

CHEAP = keccak(b"a model whose usual fee is one unit")
STEP = 1_000


def sprung_beside(world: World, commit: Commit, job: Job) -> Trapped:
    """A trap in a commit that was judged a match throughout."""
    world.fix_seed(commit)
    points = world.points(commit)
    verdicts = verdicts_of(len(points))
    return Trapped(world, commit, job, reveal(world, commit, verdicts), verdicts, points)


def dear_job(world: World) -> Job:
    """A planted job of so much money that a point falls into it."""
    (job,) = world.jobs(1, prompt_tokens=16)
    planted = planted_job(job)
    return planted.changed(cum_to=planted.receipt.cum_from + 2 * STEP)


class TestFixSeed:
    def test_of_the_cheapest_model_pays_no_tip(self, world: World) -> None:
        ledger, registry = world.ledger, world.ledger.registry.functions
        ledger.send(registry.addModel(CHEAP, 1, "cheap", ""), GOVERNOR)
        ledger.send(registry.updateNode(world.cheat_node.address, "http://n", CHEAP, PROFILE), world.cheat)
        commit = world.collect(Tree.of(world.jobs(1)))
        assert commit.record.step * commit.record.share_ppm // 10**6 == 1
        pool = ledger.escrow.functions.auditPool().call()
        world.fix_seed(commit)
        assert ledger.escrow.functions.credit(world.outsider).call() == 0
        assert ledger.escrow.functions.auditPool().call() == pool

    def test_draws_nobody_that_was_bonded_after_the_commit(self, world: World) -> None:
        ledger = world.ledger
        commit = world.collect(Tree.of(world.jobs(1)))
        # A hundred times what the others have together: it would be drawn.
        ledger.send(ledger.staking.functions.stake(VERIFIER, 40_000 * 10**6), world.outsider)
        world.fix_seed(commit)
        assert drawn_verifier(world, commit) in world.verifiers


class TestRevealVerdicts:
    def test_of_a_commit_without_points_pays_nothing_and_punishes_nobody(self, world: World) -> None:
        ledger = world.ledger
        commit = world.committed(1, prompt_tokens=1, output_tokens=1)
        while world.points(commit):
            commit = world.committed(1, prompt_tokens=1, output_tokens=1)
        verifier = reveal(world, commit, b"")
        assert verifier in world.verifiers
        assert ledger.audits.functions.owedTo(verifier).call() == 0
        assert ledger.escrow.functions.credit(verifier).call() == 0

    def test_reverts_for_verdicts_that_do_not_exist(self, world: World) -> None:
        commit = world.committed(8)
        verifier, audits = drawn_verifier(world, commit), world.ledger.audits.functions
        for verdict in (0, 4):
            verdicts = verdicts_of(len(world.points(commit)), verdict)
            with world.ledger.reverted():
                bound = commitment(commit, verifier, verdicts)
                world.ledger.send(audits.commitVerdicts(commit.record.id, bound), verifier)
                call = audits.revealVerdicts(commit.abi, commit.packed, verdicts, SALT)
                assert world.ledger.reverts("AuditsInvalidVerdict", call, verifier) == (0, verdict)


class TestTraps:
    def test_are_shown_with_the_ranges_of_the_commit(self, world: World) -> None:
        plant(world)
        sprung = trapped(world)
        other = replace(sprung, commit=replace(sprung.commit, packed=sprung.commit.packed + bytes(68)))
        assert other.reverts("AuditsWrongRanges")[0] == sprung.commit.record.ranges_hash

    def test_wait_for_the_verdicts(self, world: World) -> None:
        plant(world)
        job = dear_job(world)
        commit = world.collect(Tree.of([job]))
        world.fix_seed(commit)
        points = world.points(commit)
        early = Trapped(world, commit, job, "", verdicts_of(len(points)), points)
        assert early.reverts("TrapsNoSuchVerdicts") == (commit.record.id,)

    def test_are_sprung_by_a_point_of_the_commits_own_range(self, world: World) -> None:
        plant(world)
        world.committed(6)
        sprung = trapped(world)
        assert sprung.points[0].k > 0
        # What lies before the range was another commit's to judge.
        sprung.reverts("TrapsWrongReceipt", k=0)
        assert world.ledger.send(sprung.call(), world.outsider).event("TrapSprung")["verifier"] == sprung.verifier

    def test_are_sprung_by_a_receipt_of_the_points_channel(self, world: World) -> None:
        plant(world)
        job, friends = dear_job(world), world.job(payer=world.friend)
        tree = Tree.of([job, friends])
        sprung = sprung_beside(world, world.collect(tree, payers=(world.payer, world.friend)), job)
        place = tree.jobs.index(friends)
        assert sprung.reverts("TrapsWrongReceipt", leaf=tree.shown(place)) == (friends.digest,)

    def test_need_an_output(self, world: World) -> None:
        plant(world)
        sprung = trapped(world, change=lambda job: job.changed(output_to=0))
        assert sprung.reverts("TrapsNoTrap") == (sprung.job.digest,)

"""What ends no challenge, what silence costs whom little is left to lose, and what challengers can do to a stake."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from retally.protocol.case import unpack_ranges
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Bytes32, keccak
from tests.contracts.court.challenges import ANSWERED, SEVERITY, SLASHED, TIP, Challenge, challenge
from tests.contracts.court.challenges import BOND as SILENCE_BOND
from tests.contracts.court.ledger import DAY, MILLION, OPERATOR, PARAMETERS, VERIFIER
from tests.contracts.court.transcripts import Job, Tree
from tests.contracts.court.wealth import wealth
from tests.contracts.court.world import BOND, STAKE, Commit, World, key

PARTY, MODEL, PROFILE, PARAMS, SEED, CHOICE, OUTPUT = range(1, 8)
PPM = 300_000
OTHER = Bytes32(b"\x33" * 32)
VERIFIER_LIMIT = PARAMETERS["silence"][10]


def asked(job: Job, by: SigningKey, **changes: Any) -> Job:
    """The same job beside another request, signed by whom it names, which the receipt names too."""
    request = replace(job.request, **changes)
    job_id = request.digest(job.domain)
    return replace(job, request=request, request_signature=by.sign(job_id)).changed(job_id=job_id)


def challenged(world: World, jobs: list[Job]) -> Challenge:
    """A challenge of the first drawn point of a commit of these jobs."""
    commit = world.collect(Tree.of(jobs))
    world.fix_seed(commit)
    return challenge(world, commit)


def money_of(commit: Commit) -> int:
    """What a commit collected."""
    return sum(item.after - item.before for item in unpack_ranges(commit.packed))


def held_of(world: World) -> int:
    """What is held of the cheat's income."""
    return int(world.ledger.escrow.functions.heldOf(world.cheat).call())


def stake_of(world: World) -> int:
    """What the cheat has at stake."""
    return int(world.ledger.staking.functions.slashable(world.cheat, OPERATOR).call())


def locked_of(world: World) -> tuple[int, int]:
    """How much of the cheat's stake is locked, in how many locks."""
    staking = world.ledger.staking.functions
    return staking.lockedOf(world.cheat, OPERATOR).call(), staking.stakeOf(world.cheat, OPERATOR).call()[3]


def stake_left(world: World, kept: int = 0) -> None:
    """All but a part of the cheat's stake thaws and leaves."""
    staking = world.ledger.staking.functions
    world.ledger.send(staking.thaw(OPERATOR, STAKE - kept), world.cheat)
    world.ledger.jump(21 * DAY + 1)
    world.ledger.send(staking.withdraw(OPERATOR), world.cheat)


def timed_out(world: World, opened: Challenge) -> int:
    """What silence cost."""
    world.ledger.jump(DAY + 1)
    mined = world.ledger.send(world.ledger.silence.functions.timeout(opened.id), world.outsider)
    return int(mined.event("SilenceSlashed")["slashed"])


class TestForeignRequest:
    def test_a_request_that_the_payer_never_signed_ends_no_challenge(self, world: World) -> None:
        nobody = key("nobody knows")
        strange = {"payer": nobody.address, "signer": nobody.address, "audit_consent": False}
        opened = challenged(world, [asked(job, nobody, **strange) for job in world.jobs(4)])
        job_id = opened.job.receipt.job_id
        assert opened.reverts("SilenceForeignRequest", opened.head()) == (job_id, PARTY)
        assert timed_out(world, opened) == SEVERITY
        assert opened.status == SLASHED

    @pytest.mark.parametrize(
        ("found", "changes"),
        [
            (PARTY, {"payer": key("nobody knows").address}),
            (MODEL, {"model_id": OTHER}),
            (PROFILE, {"profile_id": OTHER}),
            (PARAMS, {"params_hash": OTHER}),
            (SEED, {"client_seed": OTHER}),
            (CHOICE, {"n": 0}),
            (OUTPUT, {"max_output": 5}),
        ],
    )
    def test_nor_one_of_the_payer_for_something_else(self, world: World, found: int, changes: dict[str, Any]) -> None:
        opened = challenged(world, [asked(job, world.payer, audit_consent=False, **changes) for job in world.jobs(4)])
        assert opened.reverts("SilenceForeignRequest", opened.head()) == (opened.job.receipt.job_id, found)

    def test_nor_one_whose_offer_is_kept_secret(self, world: World) -> None:
        jobs = [job.changed(offer_hash=keccak(b"no preimage")) for job in world.jobs(4, consent=False)]
        opened = challenged(world, jobs)
        assert opened.reverts("SilenceWrongPreimage", opened.head())[0] == keccak(b"no preimage")

    def test_the_payers_own_that_forbids_audit_does(self, world: World) -> None:
        opened = challenged(world, world.jobs(4, consent=False))
        opened.answer(opened.head())
        assert opened.status == ANSWERED


class TestHeldCredit:
    """Held credit pays for silence where the stake falls short."""

    @pytest.mark.parametrize("kept", [0, 10, 100 * MILLION])
    def test_all_of_the_commit_is_taken_though_the_stake_has_left(self, world: World, kept: int) -> None:
        stake_left(world, kept)
        jobs = world.jobs(4)
        dear = jobs[-1].changed(cum_to=jobs[-1].receipt.cum_to + 300 * MILLION)
        opened = challenged(world, [*jobs[:-1], dear])
        held, paid = held_of(world), money_of(opened.commit)
        assert 0 < held < paid
        assert locked_of(world) == (min(kept, held + -(-kept * PPM // MILLION)), 1)
        expected = held + -(-kept * PPM // MILLION)
        assert timed_out(world, opened) == expected
        assert held_of(world) + stake_of(world) == held + kept - expected
        assert locked_of(world) == (0, 0)
        world.supply()

    def test_of_what_other_commits_hold_it_takes_the_fraction(self, world: World) -> None:
        stake_left(world)
        (dear,) = world.jobs(1)
        world.collect(Tree.of([dear.changed(cum_to=100 * MILLION)]))
        before = held_of(world)
        opened = challenge(world, world.committed(6))
        paid = money_of(opened.commit)
        held = held_of(world)
        assert timed_out(world, opened) == paid + -(-(held - paid) * PPM // MILLION)
        assert held_of(world) + stake_of(world) > before // 2

    def test_held_credit_does_not_leave_while_a_challenge_is_open(self, world: World) -> None:
        stake_left(world)
        commit = world.committed(6)
        held = held_of(world)
        # Held almost as long as it may be, by a challenge at the end of the window and an answer in crumbs.
        world.ledger.jump(7 * DAY - 60)
        opened = challenge(world, commit)
        world.ledger.jump(21 * DAY)
        released = world.ledger.send(world.ledger.escrow.functions.releaseHeld(world.cheat), world.cheat)
        assert "HeldReleased" not in dict(released.events)
        assert held_of(world) == held
        assert timed_out(world, opened) == held

    def test_a_friends_share_of_it_is_a_bond_at_most(self, world: World) -> None:
        before = wealth(world, world.cheat, world.challenger)
        stake_left(world, 10)
        (job,) = world.jobs(1)
        opened = challenged(world, [job.changed(cum_to=job.receipt.cum_to + 500 * MILLION)])
        assert timed_out(world, opened) > 300 * MILLION
        # What self-silence leaves of half a thousand: a bond's worth, and what was paid within the exposure cap.
        gained = wealth(world, world.cheat, world.challenger) - before
        assert gained == SILENCE_BOND - TIP + 10 // 5


class TestLock:
    def test_the_challenges_of_one_commit_share_one(self, world: World) -> None:
        commit = world.committed(6)
        first, second = challenge(world, commit), challenge(world, commit, which=1)
        assert locked_of(world) == (SEVERITY, 1)
        first.answer(first.head())
        assert timed_out(world, second) == SEVERITY
        assert locked_of(world) == (0, 0)
        assert timed_out(world, first) == 0
        assert locked_of(world) == (0, 0)

    def test_the_last_answer_frees_it(self, world: World) -> None:
        commit = world.committed(6, consent=False)
        opened = [challenge(world, commit, which=place) for place in range(3)]
        for each in opened[:-1]:
            each.answer(each.head())
            assert locked_of(world) == (SEVERITY, 1)
        opened[-1].answer(opened[-1].head())
        assert locked_of(world) == (0, 0)
        again = challenge(world, commit, which=3)
        assert locked_of(world) == (SEVERITY, 1)
        assert timed_out(world, again) == SEVERITY

    def test_a_silent_commit_locks_no_more(self, world: World) -> None:
        commit = world.committed(6)
        timed_out(world, challenge(world, commit))
        challenge(world, commit, which=1)
        assert locked_of(world) == (0, 0)

    def test_of_two_commits_it_takes_two(self, world: World) -> None:
        first, second = challenge(world, world.committed(6)), challenge(world, world.committed(6))
        assert locked_of(world) == (2 * SEVERITY, 2)
        assert timed_out(world, first) == SEVERITY
        assert locked_of(world) == (SEVERITY, 1)
        # What was locked, though the stake is smaller by now.
        assert timed_out(world, second) == SEVERITY


class TestVerifiers:
    def _call(self, world: World, commit: Commit, which: int) -> Any:
        point = world.points(commit)[which]
        return world.ledger.silence.functions.challenge(commit.abi, commit.packed, point.range_index, point.k)

    def test_bonded_after_the_commit_challenge_nothing_of_it(self, world: World) -> None:
        commit = world.committed(6)
        world.ledger.send(world.ledger.staking.functions.stake(VERIFIER, BOND), world.outsider)
        world.ledger.reverts("SilenceNotEntitled", self._call(world, commit, 0), world.outsider)
        challenge(world, world.committed(6), world.outsider)

    def test_bonded_too_late_may_still_ask_for_its_own_job(self, world: World) -> None:
        commit = world.committed(6)
        world.ledger.send(world.ledger.staking.functions.stake(VERIFIER, BOND), world.payer.address)
        assert challenge(world, commit, world.payer.address).record[3]

    def test_each_has_few_open_against_one_owner(self, world: World) -> None:
        commit = world.committed(12, consent=False)
        opened = [challenge(world, commit, which=place) for place in range(VERIFIER_LIMIT)]
        call = self._call(world, commit, VERIFIER_LIMIT)
        operands = world.ledger.reverts("SilenceVerifierLimit", call, world.challenger)
        assert operands[2] == VERIFIER_LIMIT
        # Another one's are its own; and each that ends makes room.
        challenge(world, commit, world.verifiers[1], which=VERIFIER_LIMIT + 1)
        opened[0].answer(opened[0].head())
        world.ledger.send(call, world.challenger)

    def test_each_answer_costs_the_griefer_and_nobody_else(self, world: World) -> None:
        commit = world.committed(12, consent=False)
        griefer, accused = wealth(world, world.challenger), wealth(world, world.cheat)
        opened = [challenge(world, commit, which=place) for place in range(VERIFIER_LIMIT)]
        for each in opened:
            each.answer(each.head())
        lost = griefer - wealth(world, world.challenger)
        assert lost >= VERIFIER_LIMIT * 4 * TIP
        assert wealth(world, world.cheat) - accused == lost

"""Challenges of drawn points, answers in parts, and what silence costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eth_abi.abi import encode

from retally.protocol.encoding import keccak
from tests.contracts.court.challenges import (
    ANSWERED,
    BOND,
    FEE,
    FEE_PER_KILOBYTE,
    OPEN,
    SEVERITY,
    SLASHED,
    TIP,
    Challenge,
    challenge,
    packed_ids,
    packed_output,
)
from tests.contracts.court.ledger import DAY, OPERATOR, PARAMETERS
from tests.contracts.court.transcripts import Tree
from tests.contracts.court.world import STAKE, Commit, World


@pytest.fixture
def commit(world: World) -> Commit:
    """A commit with drawn points."""
    return world.committed(6, prompt_tokens=100, output_tokens=200)


@pytest.fixture
def opened(world: World, commit: Commit) -> Challenge:
    """An open challenge."""
    return challenge(world, commit)


class TestChallenge:
    def test_pulls_a_bond_and_locks_the_stake(self, world: World, commit: Commit) -> None:
        before = world.ledger.balance(world.challenger)
        opened = challenge(world, commit)
        assert before - world.ledger.balance(world.challenger) == BOND
        assert world.ledger.staking.functions.lockedOf(world.cheat, OPERATOR).call() == SEVERITY
        assert opened.status == OPEN
        channel_and_k = [commit.record.id, opened.point.channel, opened.point.k]
        assert opened.id == keccak(encode(["uint64", "bytes32", "uint256"], channel_and_k))

    def test_reverts_for_another_commit_or_ranges(self, world: World, commit: Commit) -> None:
        silence = world.ledger.silence.functions
        forged = replace(commit.record, step=1).to_abi()
        world.ledger.reverts("SilenceUnknownCommit", silence.challenge(forged, commit.packed, 0, 0), world.challenger)
        other = silence.challenge(commit.abi, commit.packed + bytes(68), 0, 0)
        world.ledger.reverts("SilenceWrongRanges", other, world.challenger)

    def test_reverts_before_the_seed(self, world: World) -> None:
        commit = world.collect(Tree.of(world.jobs(2)))
        call = world.ledger.silence.functions.challenge(commit.abi, commit.packed, 0, 0)
        assert world.ledger.reverts("SilenceSeedNotFixed", call, world.challenger) == (commit.record.id,)

    def test_reverts_for_a_point_outside(self, world: World, commit: Commit) -> None:
        call = world.ledger.silence.functions.challenge(commit.abi, commit.packed, 0, 10**6)
        world.ledger.reverts("SilencePointOutside", call, world.challenger)

    def test_reverts_after_the_window(self, world: World, commit: Commit) -> None:
        world.ledger.jump(7 * DAY)
        call = world.ledger.silence.functions.challenge(commit.abi, commit.packed, 0, world.points(commit)[0].k)
        world.ledger.reverts("SilenceWindowClosed", call, world.challenger)

    def test_reverts_for_strangers_and_twice(self, world: World, commit: Commit) -> None:
        call = world.ledger.silence.functions.challenge(commit.abi, commit.packed, 0, world.points(commit)[0].k)
        world.ledger.reverts("SilenceNotEntitled", call, world.outsider)
        world.ledger.send(call, world.challenger)
        world.ledger.reverts("SilenceAlreadyChallenged", call, world.challenger)

    def test_limits_the_payers_open_challenges(self, world: World, commit: Commit) -> None:
        first = challenge(world, commit, world.payer.address)
        challenge(world, commit, world.payer.address, which=1)
        point = world.points(commit)[2]
        call = world.ledger.silence.functions.challenge(commit.abi, commit.packed, point.range_index, point.k)
        assert world.ledger.reverts("SilencePayerLimit", call, world.payer.address)[1] == 2
        world.ledger.jump(DAY + 1)
        world.ledger.send(world.ledger.silence.functions.timeout(first.id), world.outsider)
        world.ledger.send(call, world.payer.address)


class TestAnswer:
    def test_ends_the_challenge_and_is_repaid(self, world: World, opened: Challenge) -> None:
        job = opened.job
        parts = [opened.head(), packed_ids(job.prompt_ids), packed_output(job)]
        for part in parts:
            mined = opened.answer(part)
        kilobytes = -(-sum(map(len, parts)) // 1_024)
        owed = FEE + kilobytes * FEE_PER_KILOBYTE
        assert mined.event("Answered")["compensation"] == owed
        assert opened.status == ANSWERED
        assert opened.credit(world.cheat) == owed
        assert opened.credit(world.challenger) == BOND - owed
        staking = world.ledger.staking.functions
        assert staking.slashable(world.cheat, OPERATOR).call() == STAKE
        assert staking.lockedOf(world.cheat, OPERATOR).call() == 0
        silence = world.ledger.silence.functions
        world.ledger.send(silence.withdrawCredit(), world.cheat)
        world.ledger.send(silence.withdrawCredit(), world.challenger)
        world.ledger.reverts("SilenceNoCredit", silence.withdrawCredit(), world.challenger)
        assert world.ledger.balance(world.ledger.silence.address) == 0
        world.supply()

    @pytest.mark.parametrize("sizes", [(64, 64, 72), (64, 136), (192, 8), (200,)])
    def test_takes_long_answers_in_parts_that_extend_the_deadline(
        self, world: World, opened: Challenge, sizes: tuple[int, ...]
    ) -> None:
        job = opened.job
        # Just before the end: what follows lives on the extensions alone.
        world.ledger.jump(opened.deadline - world.ledger.now() - 2)
        opened.answer(opened.head(), world.cheat_node.address)
        expected = world.ledger.silence.functions.expectedOf(opened.id).call()
        assert tuple(expected[:3]) == (100, 0, 200)
        opened.answer(packed_ids(job.prompt_ids[:64]))
        world.ledger.jump(3_500)
        opened.answer(packed_ids(job.prompt_ids[64:]))
        done = 0
        for size in sizes:
            world.ledger.jump(3_500)
            opened.answer(packed_output(job, done, done + size))
            done += size
        assert opened.status == ANSWERED

    def test_shows_the_prefix_of_a_continuation(self, world: World) -> None:
        commit = world.committed(6, prompt_tokens=33, output_from=65, output_tokens=100)
        opened = challenge(world, commit)
        job = opened.job
        parts = (opened.head(), packed_ids(job.prompt_ids), packed_ids(job.prefix_ids), packed_output(job))
        for part in parts:
            opened.answer(part)
        assert opened.status == ANSWERED

    def test_of_a_request_that_forbids_audit_is_its_head(self, world: World) -> None:
        opened = challenge(world, world.committed(4, consent=False))
        opened.answer(opened.head(field_7=b"", field_8=b""))
        assert opened.status == ANSWERED

    def test_reverts_for_strangers_and_too_late(self, world: World, opened: Challenge) -> None:
        opened.reverts("SilenceNotDelegate", opened.head(), world.outsider)
        world.ledger.jump(DAY + 1)
        opened.reverts("SilenceTooLate", opened.head())

    def test_reverts_for_another_receipt(self, opened: Challenge) -> None:
        jobs = opened.commit.tree.jobs
        opened.reverts("SilenceWrongReceipt", opened.head(next(job for job in jobs if job != opened.job)))
        opened.reverts("SilenceWrongReceipt", opened.head(field_4=[]))

    def test_reverts_for_another_request_prompt_or_params(self, opened: Challenge) -> None:
        other = next(job for job in opened.commit.tree.jobs if job != opened.job)
        opened.reverts("SilenceWrongPreimage", opened.head(field_5=other.request.to_abi()))
        opened.reverts("SignatureNotBy", opened.head(field_6=other.request_signature))
        opened.reverts("SilenceWrongPreimage", opened.head(field_7=b"{}"))
        opened.reverts("SilenceWrongPreimage", opened.head(field_8=b"{}"))

    def test_reverts_for_other_tokens(self, opened: Challenge) -> None:
        job = opened.job
        opened.answer(opened.head())
        opened.reverts("SilenceWrongTokens", packed_ids((9, *job.prompt_ids[1:])))
        opened.answer(packed_ids(job.prompt_ids))
        opened.answer(packed_output(job, 0, 64))
        forged = replace(job, output_ids=(*job.output_ids[:-1], 9))
        assert opened.reverts("SilenceWrongTokens", packed_output(forged, 64))[0] == 3

    @pytest.mark.parametrize("size", [0, 1, 32, 65, 201])
    def test_reverts_for_parts_of_a_wrong_size(self, opened: Challenge, size: int) -> None:
        job = replace(opened.job, output_ids=tuple(range(201)), output_q=tuple(range(201)))
        opened.answer(opened.head())
        opened.answer(packed_ids(opened.job.prompt_ids))
        opened.reverts("SilencePartSize", packed_output(job, 0, size))

    def test_reverts_once_it_is_over(self, opened: Challenge) -> None:
        job = opened.job
        for part in (opened.head(), packed_ids(job.prompt_ids), packed_output(job)):
            opened.answer(part)
        assert opened.reverts("SilenceNotOpen", opened.head())[1] == ANSWERED


class TestTimeout:
    def test_slashes_silence_like_a_mismatch(self, world: World, opened: Challenge) -> None:
        silence = world.ledger.silence.functions
        world.ledger.reverts("SilenceStillTime", silence.timeout(opened.id), world.outsider)
        world.ledger.jump(DAY + 1)
        mined = world.ledger.send(silence.timeout(opened.id), world.outsider)
        assert mined.event("SilenceSlashed")["slashed"] == SEVERITY
        assert opened.status == SLASHED
        assert opened.credit(world.outsider) == TIP
        assert opened.credit(world.challenger) == BOND - TIP
        staking = world.ledger.staking.functions
        assert staking.credit(world.challenger).call() == SEVERITY // 5
        assert staking.slashable(world.cheat, OPERATOR).call() == STAKE - SEVERITY
        assert staking.lockedOf(world.cheat, OPERATOR).call() == 0
        assert world.ledger.registry.functions.warnedUntil(world.cheat).call() > world.ledger.now()
        world.ledger.reverts("SilenceNotOpen", silence.timeout(opened.id), world.outsider)
        world.supply()

    def test_slashes_a_head_without_its_tokens(self, world: World, opened: Challenge) -> None:
        opened.answer(opened.head())
        world.ledger.jump(DAY + 1)
        world.ledger.send(world.ledger.silence.functions.timeout(opened.id), world.outsider)
        assert opened.status == SLASHED

    def test_slashes_a_commit_once(self, world: World, commit: Commit) -> None:
        first, second = challenge(world, commit), challenge(world, commit, which=1)
        world.ledger.jump(DAY + 1)
        silence = world.ledger.silence.functions
        world.ledger.send(silence.timeout(first.id), world.outsider)
        mined = world.ledger.send(silence.timeout(second.id), world.outsider)
        assert mined.event("SilenceSlashed")["slashed"] == 0
        staking = world.ledger.staking.functions
        assert staking.slashable(world.cheat, OPERATOR).call() == STAKE - SEVERITY
        assert staking.lockedOf(world.cheat, OPERATOR).call() == 0

    def test_slashes_a_node_that_thaws(self, world: World, opened: Challenge) -> None:
        staking = world.ledger.staking.functions
        world.ledger.send(staking.thaw(OPERATOR, STAKE), world.cheat)
        world.ledger.jump(21 * DAY + 1)
        world.ledger.send(staking.withdraw(OPERATOR), world.cheat)
        assert staking.slashable(world.cheat, OPERATOR).call() == SEVERITY
        mined = world.ledger.send(world.ledger.silence.functions.timeout(opened.id), world.outsider)
        assert mined.event("SilenceSlashed")["slashed"] > 0

    def test_parameters_are_those_of_the_deployment(self, world: World) -> None:
        assert tuple(world.ledger.silence.functions.silenceParameters().call()) == PARAMETERS["silence"]

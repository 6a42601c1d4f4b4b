"""Challenges at the edges of a range, of a part and of a bond."""

from __future__ import annotations

import pytest
from web3.contract import Contract

from retally.protocol.case import unpack_ranges
from tests.contracts.court.challenges import (
    ANSWERED,
    SEVERITY,
    SLASHED,
    Challenge,
    challenge,
    packed_ids,
    packed_output,
)
from tests.contracts.court.ledger import DAY, DEPLOYER, GOVERNOR, MILLION, OPERATOR, PARAMETERS
from tests.contracts.court.transcripts import Tree
from tests.contracts.court.world import STAKE, Commit, World

# The bond is less than what it should pay for.
SMALL_BOND, LARGE_TIP, LARGE_FEE = 1 * MILLION, 2 * MILLION, 3 * MILLION


@pytest.fixture
def commit(world: World) -> Commit:
    """A commit with drawn points."""
    return world.committed(6, prompt_tokens=100, output_tokens=200)


def time_out(world: World, opened: Challenge) -> int:
    """Let the time of an answer pass; what was slashed."""
    world.ledger.jump(DAY + 1)
    call = world.ledger.silence.functions.timeout(opened.id)
    return int(world.ledger.send(call, world.outsider).event("SilenceSlashed")["slashed"])


class TestChallenge:
    def test_reverts_for_a_point_of_an_earlier_commit(self, world: World, commit: Commit) -> None:
        later = world.committed(6, prompt_tokens=100, output_tokens=200)
        call = world.ledger.silence.functions.challenge(later.abi, later.packed, 0, 0)
        point, before, _ = world.ledger.reverts("SilencePointOutside", call, world.challenger)
        assert point < before == commit.tree.jobs[-1].receipt.cum_to

    def test_of_a_silenced_commit_locks_nothing_and_frees_nothing(self, world: World, commit: Commit) -> None:
        assert time_out(world, challenge(world, commit)) == SEVERITY
        locked = world.ledger.staking.functions.lockedOf(world.cheat, OPERATOR)
        again = challenge(world, commit, which=1)
        assert locked.call() == 0
        assert time_out(world, again) == 0
        assert (again.status, locked.call()) == (SLASHED, 0)


class TestAnswer:
    def test_reverts_for_a_receipt_of_another_channel(self, world: World) -> None:
        friends = world.job(payer=world.friend)
        tree = Tree.of([*world.jobs(6), friends])
        commit = world.collect(tree, payers=(world.payer, world.friend))
        world.fix_seed(commit)
        payers = [each.payer for each in unpack_ranges(commit.packed)]
        own = [payers[point.range_index] == world.payer.address for point in world.points(commit)]
        opened = challenge(world, commit, which=own.index(True))
        assert opened.reverts("SilenceWrongReceipt", opened.head(friends)) == (friends.digest,)

    @pytest.mark.parametrize("rest", [b"\0", b"\0\0\0"])
    def test_reverts_for_a_part_of_a_token(self, world: World, commit: Commit, rest: bytes) -> None:
        opened = challenge(world, commit)
        opened.answer(opened.head())
        part = packed_ids(opened.job.prompt_ids) + rest
        assert opened.reverts("SilencePartSize", part)[:2] == (len(part), 100)


class TestTimeout:
    def test_takes_more_of_a_stake_that_grew_meanwhile(self, world: World, commit: Commit) -> None:
        opened = challenge(world, commit)
        world.ledger.send(world.ledger.staking.functions.stake(OPERATOR, STAKE), world.cheat)
        assert time_out(world, opened) == 2 * SEVERITY
        assert world.ledger.staking.functions.lockedOf(world.cheat, OPERATOR).call() == 0


class TestSmallBond:
    @pytest.fixture
    def silence(self, world: World) -> Contract:
        """Another court of silence, whose bond is small."""
        ledger = world.ledger
        chosen = (SMALL_BOND, LARGE_FEE, *PARAMETERS["silence"][2:3], LARGE_TIP, *PARAMETERS["silence"][4:])
        made = ledger.constructor("Silence", *ledger.money, ledger.audits.address, chosen)
        sent = made.transact({"from": DEPLOYER, "gas": 16_000_000, "gasPrice": 0})
        address = ledger.web3.eth.wait_for_transaction_receipt(sent, poll_latency=0.002)["contractAddress"]
        contract = ledger.web3.eth.contract(address=address, abi=ledger.silence.abi)
        ledger.send(ledger.staking.functions.proposeSlasher(address), GOVERNOR)
        ledger.jump(PARAMETERS["staking"][4] + 1)
        ledger.send(ledger.asset.functions.approve(address, 2**255), world.challenger)
        return contract

    def _challenge(self, world: World, silence: Contract) -> Challenge:
        # The owner is established by now: two steps of its points are 20,000, so one is drawn for sure.
        commit = world.committed(15, prompt_tokens=100, output_tokens=200)
        assert sum(job.receipt.fee for job in commit.tree.jobs) >= 2 * commit.record.step
        point = world.points(commit)[0]
        call = silence.functions.challenge(commit.abi, commit.packed, point.range_index, point.k)
        world.ledger.send(call, world.challenger)
        number = silence.events.Challenged().get_logs(from_block=world.ledger.web3.eth.block_number)
        return Challenge(world, commit, point, number[0]["args"]["challengeId"])

    def test_is_all_that_a_tip_pays(self, world: World, silence: Contract) -> None:
        opened = self._challenge(world, silence)
        world.ledger.jump(DAY + 1)
        world.ledger.send(silence.functions.timeout(opened.id), world.outsider)
        assert silence.functions.credit(world.outsider).call() == SMALL_BOND
        assert silence.functions.credit(world.challenger).call() == 0

    def test_is_all_that_an_answer_is_repaid(self, world: World, silence: Contract) -> None:
        opened = self._challenge(world, silence)
        job = opened.job
        for part in (opened.head(), packed_ids(job.prompt_ids), packed_output(job)):
            world.ledger.send(silence.functions.answer(opened.id, part), world.cheat)
        assert silence.functions.challengeOf(opened.id).call()[2] == ANSWERED
        assert silence.functions.credit(world.cheat).call() == SMALL_BOND
        assert silence.functions.credit(world.challenger).call() == 0

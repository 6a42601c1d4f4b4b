"""Attacks on courts that no other test shows: an asset that calls back, appeals at the last second."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from eth_abi.abi import encode
from web3.contract import Contract

from compile_contracts import Artifact
from retally.protocol.encoding import keccak
from tests.contracts.court.cases import BOND, DRAWING, FEE, TIP, Case, locked, open_case
from tests.contracts.court.challenges import BOND as SILENCE_BOND
from tests.contracts.court.challenges import TIP as SILENCE_TIP
from tests.contracts.court.challenges import challenge
from tests.contracts.court.ledger import DAY
from tests.contracts.court.transcripts import MODEL, PROFILE
from tests.contracts.court.world import MATCH, MISMATCH, World, operators


class TestReentrancy:
    """An asset that calls back while it moves gets nothing twice out of courts, which pay by credit."""

    @pytest.fixture
    def hostile(self, world: World, test_contracts: Mapping[str, Artifact]) -> Contract:
        """The asset, whose balances stay, with the code of one that calls back. It calls as whoever it is itself."""
        made = test_contracts["HostileAsset"]
        code = world.ledger.web3.eth.get_code(world.ledger.deploy(made.abi, made.bytecode).address)
        asset = world.ledger.asset.address
        world.ledger.rpc("anvil_setCode", asset, "0x" + bytes(code).hex())
        # Slots that an asset's name for permits took before are the new code's variables.
        for slot in range(5, 10):
            world.ledger.rpc("anvil_setStorageAt", asset, hex(slot), "0x" + "00" * 32)
        return world.ledger.web3.eth.contract(address=asset, abi=made.abi)

    def _aim(self, world: World, hostile: Contract, contract: Contract, function: str, *arguments: object) -> None:
        data = contract.encode_abi(function, args=list(arguments))
        world.ledger.send(hostile.functions.setCall(contract.address, data), world.outsider)

    def test_executing_twice_pays_once(self, world: World, hostile: Contract) -> None:
        case = open_case(world)
        case.draw()
        case.vote_all(MISMATCH)
        case.decide()
        self._aim(world, hostile, world.ledger.court, "execute", case.id, case.shown)
        event = case.execute()
        assert not hostile.functions.succeeded().call()
        assert hostile.functions.refusal().call() == keccak(b"CourtWrongStatus(uint256,uint8,uint8)")[:4]
        assert case.reward(world.payer.address) == event["refunded"] == sum(entry[3] for entry in case.shown)
        assert locked(world, world.cheat) == 0

    def test_withdrawing_a_credit_twice_pays_once(self, world: World, hostile: Contract) -> None:
        """The asset itself is the challenger, whose own transfer calls back for more."""
        asset, court = hostile.address, world.ledger.court
        send, functions = world.ledger.send, court.functions
        send(hostile.functions.faucet(asset, 1_000 * FEE), world.outsider)
        send(hostile.functions.approve(court.address, 2**255), asset)
        case = open_case(world, challenger=asset)
        other = open_case(world)
        case.judged(MISMATCH)
        before, owed = world.ledger.balance(court.address), case.credit(asset)
        assert owed == FEE + BOND + 4 * TIP
        self._aim(world, hostile, court, "withdrawCredit")
        send(functions.withdrawCredit(), asset)
        assert not hostile.functions.succeeded().call()
        assert hostile.functions.refusal().call() == keccak(b"CourtNoCredit(address)")[:4]
        # What the other case put in is still there.
        assert before - world.ledger.balance(court.address) == owed
        assert world.ledger.balance(court.address) >= functions.openingCost().call()
        assert other.status == DRAWING

    def test_a_time_out_within_a_time_out_slashes_once(self, world: World, hostile: Contract) -> None:
        commit = world.committed(6)
        opened = challenge(world, commit)
        world.ledger.jump(DAY + 1)
        silence = world.ledger.silence
        self._aim(world, hostile, silence, "timeout", opened.id)
        world.ledger.send(silence.functions.timeout(opened.id), world.outsider)
        assert hostile.functions.refusal().call() == keccak(b"SilenceNotOpen(bytes32,uint8)")[:4]
        assert opened.credit(world.challenger) + opened.credit(world.outsider) == SILENCE_BOND
        assert opened.credit(world.outsider) == SILENCE_TIP


class TestLastSecond:
    """An appeal counts up to the last second of its window, and no case ends before it."""

    def _decided(self, world: World) -> Case:
        operators(world, 5)
        case = open_case(world)
        case.draw()
        case.vote_all(MISMATCH)
        case.decide()
        return case

    def test_an_appeal_counts_and_gives_the_others_a_window_of_their_own(self, world: World) -> None:
        case = self._decided(world)
        court, end = world.ledger.court.functions, case.record[12]
        # The next block is the last of the window: the case cannot be ended in it, and can be appealed.
        world.ledger.jump(end - world.ledger.now() - 1)
        world.ledger.reverts("CourtAppealOpen", court.execute(case.id, case.shown), world.outsider)
        world.ledger.send(court.appeal(case.id), world.cheat)
        assert world.ledger.now() == end
        assert case.status == DRAWING
        case.draw()
        case.vote_all(MATCH, 1)
        assert case.decide() == MATCH
        # Who won before has as long as anybody to appeal in turn.
        assert case.record[12] >= world.ledger.now() + DAY - 1
        world.ledger.send(court.appeal(case.id), world.challenger)

    def test_a_second_later_it_is_refused_and_the_case_ends(self, world: World) -> None:
        case = self._decided(world)
        court, end = world.ledger.court.functions, case.record[12]
        world.ledger.jump(end - world.ledger.now())
        world.ledger.reverts("CourtAppealEnded", court.appeal(case.id), world.cheat)
        world.ledger.send(court.execute(case.id, case.shown), world.outsider)


class TestWeights:
    def test_who_leaves_once_the_seed_is_known_moves_no_other_lot(self, world: World) -> None:
        """An owner that makes itself unfit between seed and draw gives up its own seat, and chooses nobody else's."""
        operators(world, 8)
        pools, registry = world.ledger.pools.functions, world.ledger.registry.functions
        pool = pools.poolOf(MODEL, PROFILE).call()
        for number in range(12):
            seed = keccak(encode(["uint256"], [number]))
            draw = pools.draw(pool, seed, 5, world.ledger.now() + 1, [], [])
            before = draw.call()
            with world.ledger.reverted():
                place = number % 5
                node = pools.entryOf(pool, before[place]).call()[3]
                world.ledger.send(registry.revokeNode(node), before[place])
                after = draw.call()
            assert after[:4] == [juror for juror in before if juror != before[place]]
            assert len(set(after)) == 5

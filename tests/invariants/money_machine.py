"""Random moves of payers, nodes, owners and slashers, right and wrong ones, with ghost totals beside the contracts."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from web3.contract.contract import ContractFunction
from web3.exceptions import ContractCustomError
from web3.types import TxReceipt

from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak
from tests.contracts.world import BURNED, DAY, DOLLAR, OPERATOR, World

ZERO = "0x" + "00" * 20
AMOUNT = st.sampled_from([1, 999, DOLLAR, 40 * DOLLAR, 3_000 * DOLLAR])
WHO = st.integers(0, 1)
CAP = 60 * DOLLAR


class MoneyMachine(RuleBasedStateMachine):
    """Two payers with a session signer each, two owners with a node each; anyone may try anything."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.snapshot = world.rpc("evm_snapshot")
        self.payers = [world.payer(200 * DOLLAR) for _ in range(2)]
        self.signers = [world.signer(payer, cap=CAP) for payer in self.payers]
        self.owners = [world.operator(2_000 * DOLLAR) for _ in range(2)]
        self.nodes = [world.node(owner) for owner in self.owners]
        self.supply = world.asset.functions.totalSupply().call()
        self.promised: dict[tuple[int, bool, int, int], int] = defaultdict(int)
        self.collected: dict[tuple[int, bool, int, int], int] = defaultdict(int)
        self.refunded: set[bytes] = set()
        self.locked = [0, 0]

    def teardown(self) -> None:
        self.world.rpc("evm_revert", self.snapshot)

    def attempt(self, sender: SigningKey | str, call: ContractFunction) -> TxReceipt | None:
        """Make a move that the contracts may refuse, but only by an error they declare."""
        try:
            return self.world.send(sender, call)
        except ContractCustomError as refusal:
            declared = bytes.fromhex(str(refusal.data)[2:10]) in self.world.errors
        assert declared, "the contracts refused by an error that they do not declare"
        return None

    @rule(who=WHO, amount=AMOUNT)
    def deposit(self, who: int, amount: int) -> None:
        self.attempt(self.payers[who], self.world.escrow.functions.deposit(self.payers[who].address, amount))

    @rule(who=WHO, amount=AMOUNT)
    def thaw(self, who: int, amount: int) -> None:
        self.attempt(self.payers[who], self.world.escrow.functions.thaw(amount))

    @rule(who=WHO)
    def withdraw(self, who: int) -> None:
        before = self.world.account(self.payers[who])
        done = self.attempt(self.payers[who], self.world.escrow.functions.withdraw())
        if done is not None:
            assert 0 < before[2] <= self.world.now, "I-6: a deposit left before its thaw had passed"

    @rule(who=WHO, node=WHO, by_signer=st.booleans(), amount=AMOUNT, epoch=st.integers(0, 1))
    def reserve(self, who: int, node: int, by_signer: bool, amount: int, epoch: int) -> None:
        signer = self.signers[who] if by_signer else None
        call = self.world.reserve_call(self.payers[who], self.nodes[node], amount, signer=signer, epoch=epoch)
        self.attempt(self.nodes[node], call)

    @rule(who=WHO, node=WHO, by_signer=st.booleans(), finish=st.booleans())
    def end_reservation(self, who: int, node: int, by_signer: bool, finish: bool) -> None:
        signer = self.signers[who].address if by_signer else ZERO
        functions = self.world.escrow.functions
        move = functions.withdrawReservation if finish else functions.releaseReservation
        self.attempt(self.payers[who], move(signer, self.nodes[node].address))

    @rule(
        who=WHO, node=WHO, by_signer=st.booleans(), lane=WHO, more=AMOUNT, covered=st.booleans(), honest=st.booleans()
    )
    def collect(self, who: int, node: int, by_signer: bool, lane: int, more: int, covered: bool, honest: bool) -> None:
        key = (who, by_signer, node, lane)
        signer = self.signers[who] if by_signer else self.payers[who]
        cumulative = self.promised[key] + more
        item = self.world.item(
            self.payers[who],
            self.nodes[node],
            cumulative,
            signer=signer,
            lane=lane,
            covered=cumulative if covered else cumulative // 2,
            by=None if honest else self.owners[0],
        )
        if honest:
            self.promised[key] = cumulative
        self.attempt(self.nodes[node], self.world.collect_call(self.nodes[node], item, root=keccak(bytes(item.pack()))))

    @rule(who=WHO)
    def withdraw_credit(self, who: int) -> None:
        for party in (self.owners[who], self.payers[who]):
            self.attempt(party, self.world.escrow.functions.withdrawCredit())
            self.attempt(party, self.world.staking.functions.withdrawCredit())

    @rule(who=WHO)
    def release_held(self, who: int) -> None:
        self.attempt(self.payers[0], self.world.escrow.functions.releaseHeld(self.owners[who].address))

    @rule(who=WHO, amount=AMOUNT)
    def slash_held_and_pay_verifier(self, who: int, amount: int) -> None:
        self.attempt(self.world.slasher, self.world.escrow.functions.slashHeld(self.owners[who].address, amount))
        self.attempt(self.world.slasher, self.world.escrow.functions.payFromAuditPool(self.payers[who].address, amount))

    @rule(who=WHO, amount=AMOUNT, step=st.sampled_from(["stake", "thaw", "withdraw"]))
    def move_stake(self, who: int, amount: int, step: str) -> None:
        functions = self.world.staking.functions
        calls = {
            "stake": functions.stake(OPERATOR, amount),
            "thaw": functions.thaw(OPERATOR, amount),
            "withdraw": functions.withdraw(OPERATOR),
        }
        before = functions.stakeOf(self.owners[who].address, OPERATOR).call()
        done = self.attempt(self.owners[who], calls[step])
        if done is not None and step == "withdraw":
            assert before[2] <= self.world.now, "I-7: a stake left while it was thawing"
            left = functions.slashable(self.owners[who].address, OPERATOR).call()
            assert left >= self.locked[who], "I-7: a stake left that a case had locked"

    @rule(who=WHO, amount=AMOUNT, ends=st.booleans(), by_court=st.booleans())
    def lock(self, who: int, amount: int, ends: bool, by_court: bool) -> None:
        functions = self.world.staking.functions
        move = functions.unlock if ends else functions.lock
        amount = min(amount, self.locked[who]) if ends else amount
        by = self.world.slasher if by_court else self.owners[who]
        done = self.attempt(by, move(self.owners[who].address, OPERATOR, amount))
        if done is not None:
            assert by_court, "I-26: only slashers lock"
            self.locked[who] += -amount if ends else amount

    @rule(who=WHO)
    def cancel_thaws(self, who: int) -> None:
        self.attempt(self.payers[who], self.world.escrow.functions.cancelThaw())
        self.attempt(self.owners[who], self.world.staking.functions.cancelThaw(OPERATOR))

    @rule(who=WHO, severity=AMOUNT, refund=AMOUNT, receipt=st.integers(0, 2), by_court=st.booleans())
    def slash(self, who: int, severity: int, refund: int, receipt: int, by_court: bool) -> None:
        digest = keccak(bytes([receipt]))
        stake = self.world.staking.functions.slashable(self.owners[who].address, OPERATOR).call()
        burned, credit = self.burned(), self.staking_credit(self.payers[1 - who])
        order = (
            severity,
            self.payers[who].address,
            severity,
            [],
            0,
            [digest],
            [self.payers[1 - who].address],
            [refund],
        )
        call = self.world.staking.functions.slash(self.owners[who].address, OPERATOR, order)
        done = self.attempt(self.world.slasher if by_court else self.payers[who], call)
        if done is None:
            return
        assert by_court, "only slashers slash"
        left = self.world.staking.functions.slashable(self.owners[who].address, OPERATOR).call()
        paid_back = self.staking_credit(self.payers[1 - who]) - credit
        assert 2 * (self.burned() - burned) >= min(severity, stake - left - paid_back), "I-10: half is burned"
        assert paid_back == 0 or digest not in self.refunded, "I-11: a receipt was refunded twice"
        self.refunded.add(digest)

    @rule(days=st.sampled_from([1, 3, 7, 22]))
    def let_time_pass(self, days: int) -> None:
        self.world.jump(days * DAY)

    @invariant()
    def escrow_owes_what_it_has(self) -> None:
        """I-1."""
        functions = self.world.escrow.functions
        parties = [*self.payers, *self.owners, *self.nodes, *self.signers]
        accounts = sum(sum(self.world.account(payer)[i] for i in (0, 3)) for payer in self.payers)
        credits = sum(self.world.credit(party) for party in parties) + functions.credit(BURNED).call()
        held = sum(functions.heldOf(owner.address).call() for owner in self.owners)
        staking = functions.credit(self.world.staking.address).call()
        owed = accounts + credits + held + staking + functions.auditPool().call()
        assert owed == self.world.balance(self.world.escrow.address)

    @invariant()
    def staking_owes_what_it_has(self) -> None:
        """I-2."""
        functions = self.world.staking.functions
        stakes = [functions.stakeOf(owner.address, OPERATOR).call() for owner in self.owners]
        credits = sum(self.staking_credit(party) for party in [*self.payers, *self.owners])
        assert sum(stake[0] + stake[1] for stake in stakes) + credits == self.world.balance(self.world.staking.address)

    @invariant()
    def the_asset_is_conserved(self) -> None:
        """I-3."""
        assert self.world.asset.functions.totalSupply().call() == self.supply

    @invariant()
    def channels_only_grow_within_promises(self) -> None:
        """I-4 and I-5."""
        used: dict[int, int] = defaultdict(int)
        for key, promised in self.promised.items():
            who, by_signer, node, lane = key
            signer = self.signers[who] if by_signer else self.payers[who]
            where = (self.payers[who].address, signer.address, self.nodes[node].address, lane)
            now = self.world.escrow.functions.channel(*where).call()
            assert self.collected[key] <= now <= promised
            self.collected[key] = now
            used[who] += now if by_signer else 0
        assert all(total <= CAP for total in used.values())

    @invariant()
    def thaws_are_within_balances(self) -> None:
        """I-15."""
        for payer in self.payers:
            balance, thawing, _, _ = self.world.account(payer)
            assert thawing <= balance

    @invariant()
    def reservations_add_up(self) -> None:
        """I-16."""
        view = self.world.escrow.functions.reservation
        for payer, session in zip(self.payers, self.signers, strict=True):
            for_whom = [(signer, node.address) for signer in (ZERO, session.address) for node in self.nodes]
            sets = [view(payer.address, *where).call() for where in for_whom]
            assert sum(remaining for _, remaining, _, _ in sets) == self.world.account(payer)[3]

    @invariant()
    def active_with_the_minimum(self) -> None:
        """I-28."""
        functions = self.world.staking.functions
        minimum = functions.minimum(OPERATOR).call()
        for owner in self.owners:
            bonded = functions.stakeOf(owner.address, OPERATOR).call()[0]
            assert functions.isActive(owner.address, OPERATOR).call() == (bonded >= minimum)

    def burned(self) -> int:
        """What slashes have burned so far."""
        return self.world.balance(BURNED)

    def staking_credit(self, party: SigningKey) -> Any:
        """What Staking owes a party."""
        return self.world.staking.functions.credit(party.address).call()

"""The Escrow: deposits, signers, channels, reservations and collecting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retally.chain.contract import Contract, ContractCall
from retally.protocol.case import CommitRecord
from retally.protocol.encoding import Address, Bytes32, address_bytes, u32, u96
from retally.protocol.voucher import ChannelId, Reservation, SignerAuth, Voucher


@dataclass(frozen=True, slots=True)
class Account:
    """A payer's pooled deposit."""

    balance: int
    thawing: int
    thaw_end: int
    reserved: int


@dataclass(frozen=True, slots=True)
class Signer:
    """A session signer: its cap, what counts against it, until when it may be collected from."""

    cap: int
    used: int
    expiry: int


@dataclass(frozen=True, slots=True)
class ReservationState:
    """Funds set aside for one node."""

    granted: int
    remaining: int
    epoch: int
    release_end: int


@dataclass(frozen=True, slots=True)
class CollectItem:
    """One channel's voucher, and how much of it receipts cover."""

    voucher: Voucher
    covered: int
    signature: bytes

    def pack(self) -> bytes:
        """The 132 bytes that `collect` takes."""
        voucher = self.voucher
        return (
            address_bytes(voucher.payer)
            + address_bytes(voucher.signer)
            + u32(voucher.lane)
            + u96(voucher.cumulative)
            + u96(self.covered)
            + self.signature
        )


class Escrow(Contract):
    """Views and calls of the Escrow."""

    NAME = "Escrow"

    async def account(self, payer: Address, *, block: str = "latest") -> Account:
        """A payer's deposit."""
        return Account(*await self.view("account", payer, block=block))

    async def signer(self, payer: Address, signer: Address, *, block: str = "latest") -> Signer:
        """A session signer of a payer; expiry 0 if it was never authorised."""
        return Signer(*await self.view("signer", payer, signer, block=block))

    async def channel(self, channel: ChannelId) -> int:
        """What was collected from a channel."""
        return int(await self.view("channel", channel.payer, channel.signer, channel.node, channel.lane))

    async def channels(self, channels: Sequence[ChannelId]) -> list[int]:
        """What was collected from many channels, in one round trip."""
        many: list[tuple[Any, ...]] = [(each.payer, each.signer, each.node, each.lane) for each in channels]
        return [int(value) for value in await self.views("channel", many)]

    async def reservation(self, payer: Address, signer: Address, node: Address) -> ReservationState:
        """What a payer set aside for a node."""
        return ReservationState(*await self.view("reservation", payer, signer, node))

    async def held_of(self, owner: Address) -> int:
        """An owner's held credit."""
        return int(await self.view("heldOf", owner))

    async def exposure(self, owner: Address) -> int:
        """What an owner was paid within the exposure window."""
        return int(await self.view("exposure", owner))

    async def free_exposure(self, owner: Address) -> int:
        """What an owner may still be paid now."""
        return int(await self.view("freeExposure", owner))

    async def audit_pool(self) -> int:
        """What verifiers can be paid from."""
        return int(await self.view("auditPool"))

    async def credit(self, account: Address) -> int:
        """What an account can withdraw."""
        return int(await self.view("credit", account))

    async def commit_word(self, commit_id: int) -> Bytes32:
        """The stored hash of a commit; zeros for an unknown id."""
        return Bytes32(await self.view("commitWord", commit_id))

    async def is_commit(self, commit: CommitRecord) -> bool:
        """Whether this commit was made here."""
        return bool(await self.view("isCommit", commit.to_abi()))

    def deposit(self, payer: Address, amount: int) -> ContractCall:
        """Adds the sender's assets to a payer's deposit."""
        return self.call("deposit", payer, amount)

    def deposit_with_permit(
        self, payer: Address, amount: int, deadline: int, v: int, r: bytes, s: bytes
    ) -> ContractCall:
        """As `deposit`, with the sender's EIP-2612 permit."""
        return self.call("depositWithPermit", payer, amount, deadline, v, r, s)

    def thaw(self, amount: int) -> ContractCall:
        """Starts the thaw of so much more."""
        return self.call("thaw", amount)

    def cancel_thaw(self) -> ContractCall:
        """Makes all that thaws ordinary balance again."""
        return self.call("cancelThaw")

    def withdraw(self) -> ContractCall:
        """Pays out what has thawed."""
        return self.call("withdraw")

    def authorize_signer(self, auth: SignerAuth, signature: bytes) -> ContractCall:
        """Lets the signer sign for the sender, who must be the payer."""
        return self.call(
            "authorizeSigner", auth.signer, auth.cap, auth.expiry, auth.deadline, signature[:32], signature[32:]
        )

    def revoke_signer(self, signer: Address) -> ContractCall:
        """Ends a signer of the sender after the thaw."""
        return self.call("revokeSigner", signer)

    def reserve(self, reservation: Reservation, signature: bytes) -> ContractCall:
        """Sets funds aside for a node."""
        r = reservation
        return self.call("reserve", r.payer, r.signer, r.node, r.cumulative, r.epoch, signature[:32], signature[32:])

    def release_reservation(self, signer: Address, node: Address) -> ContractCall:
        """Starts the thaw of a reservation of the sender."""
        return self.call("releaseReservation", signer, node)

    def withdraw_reservation(self, signer: Address, node: Address) -> ContractCall:
        """Returns a thawed reservation to the balance."""
        return self.call("withdrawReservation", signer, node)

    def collect(self, node: Address, items: Sequence[CollectItem], receipts_root: bytes) -> ContractCall:
        """Collects for many channels of a node and commits to the receipts."""
        return self.call("collect", node, b"".join(item.pack() for item in items), receipts_root)

    def collect_one(self, voucher: Voucher, covered: int, signature: bytes, receipts_root: bytes) -> ContractCall:
        """Collects one voucher, whose payer may be a contract that signs by ERC-1271."""
        return self.call("collectOne", voucher.to_abi(), covered, signature, receipts_root)

    def release_held(self, owner: Address) -> ContractCall:
        """Credits an owner with what the exposure window has freed."""
        return self.call("releaseHeld", owner)

    def fund_audit_pool(self, amount: int) -> ContractCall:
        """Adds to what verifiers are paid from."""
        return self.call("fundAuditPool", amount)

    def withdraw_credit(self) -> ContractCall:
        """Pays the sender its credit."""
        return self.call("withdrawCredit")

    def withdraw_credit_of(self, account: Address) -> ContractCall:
        """Pays an account its credit."""
        return self.call("withdrawCreditOf", account)

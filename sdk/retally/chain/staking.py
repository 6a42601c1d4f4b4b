"""Staking: collateral by role."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from retally.chain.contract import Contract, ContractCall
from retally.protocol.encoding import Address


class Role(IntEnum):
    """What a stake answers for."""

    OPERATOR = 1
    ROUTER = 2
    VERIFIER = 3


class Offence(IntEnum):
    """What a stake can be slashed for, as `Staking`'s table counts them."""

    MISMATCH = 0
    SILENCE = 1
    TILING = 2
    OVERBILLING = 3
    CONFLICT = 4
    DUTY = 5


@dataclass(frozen=True, slots=True)
class Stake:
    """A stake of one role."""

    bonded: int
    thawing: int
    thaw_end: int
    locks: int
    since: int


class Staking(Contract):
    """Views and calls of Staking."""

    NAME = "Staking"

    async def stake_of(self, owner: Address, role: Role) -> Stake:
        """An owner's stake."""
        return Stake(*await self.view("stakeOf", owner, role))

    async def slashable(self, owner: Address, role: Role) -> int:
        """What can be taken of it."""
        return int(await self.view("slashable", owner, role))

    async def minimum(self, role: Role) -> int:
        """The least stake of a role."""
        return int(await self.view("minimum", role))

    async def is_active(self, owner: Address, role: Role) -> bool:
        """Whether the owner has the minimum bonded."""
        return bool(await self.view("isActive", owner, role))

    async def owners(self, role: Role) -> tuple[Address, ...]:
        """All who have a stake of that role."""
        return tuple(await self.view("owners", role))

    async def severity_of(self, owner: Address, role: Role, offence: Offence) -> int:
        """What an offence costs this owner."""
        return int(await self.view("severityOf", owner, role, offence))

    async def credit(self, account: Address) -> int:
        """What an account can withdraw: refunds and rewards."""
        return int(await self.view("credit", account))

    async def is_refunded(self, receipt_digest: bytes) -> bool:
        """Whether the fee of a receipt went back to its payer."""
        return bool(await self.view("isRefunded", receipt_digest))

    def stake(self, role: Role, amount: int) -> ContractCall:
        """Bonds the sender's assets."""
        return self.call("stake", role, amount)

    def thaw(self, role: Role, amount: int) -> ContractCall:
        """Starts the thaw of so much."""
        return self.call("thaw", role, amount)

    def cancel_thaw(self, role: Role) -> ContractCall:
        """Bonds again what thaws."""
        return self.call("cancelThaw", role)

    def withdraw(self, role: Role) -> ContractCall:
        """Pays out what has thawed."""
        return self.call("withdraw", role)

    def withdraw_credit(self) -> ContractCall:
        """Pays the sender its refunds and rewards."""
        return self.call("withdrawCredit")

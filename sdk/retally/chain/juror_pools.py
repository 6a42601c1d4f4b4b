"""Juror pools: who may be drawn to judge a model under a profile."""

from __future__ import annotations

from dataclasses import dataclass

from retally.chain.contract import Contract, ContractCall
from retally.protocol.encoding import Address, Bytes32


@dataclass(frozen=True, slots=True)
class PoolEntry:
    """An operator in a pool; leaf 0 if it never enlisted, weight 0 when it resigned."""

    leaf: int
    weight: int
    since: int
    node: Address


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether cases of a pair can be judged, and by how many owners with how much stake."""

    ready: bool
    owners: int
    stake: int


class JurorPools(Contract):
    """Views and calls of the juror pools."""

    NAME = "JurorPools"

    async def pool_of(self, model_id: bytes, profile_id: bytes) -> int:
        """The pool of a pair; 0 if nobody has ever enlisted."""
        return int(await self.view("poolOf", model_id, profile_id))

    async def pair_of(self, pool: int) -> tuple[Bytes32, Bytes32]:
        """The model and the profile that a pool judges."""
        model_id, profile_id = await self.view("pairOf", pool)
        return Bytes32(model_id), Bytes32(profile_id)

    async def entry_of(self, pool: int, owner: Address) -> PoolEntry:
        """An operator's entry."""
        return PoolEntry(*await self.view("entryOf", pool, owner))

    async def readiness(self, model_id: bytes, profile_id: bytes) -> Readiness:
        """Whether cases of a pair can be judged."""
        return Readiness(*await self.view("readiness", model_id, profile_id))

    async def may_judge(self, pool: int, owner: Address) -> bool:
        """Whether a pool may judge this owner; a case before one that may not costs its opener the case fee."""
        return bool(await self.view("mayJudge", pool, owner))

    def enlist(self, node: Address) -> ContractCall:
        """Enlists the sender with the pair that its node declares."""
        return self.call("enlist", node)

    def resign(self, model_id: bytes, profile_id: bytes) -> ContractCall:
        """Takes the sender out of a pool."""
        return self.call("resign", model_id, profile_id)

    def refresh(self, model_id: bytes, profile_id: bytes, owner: Address) -> ContractCall:
        """Lowers an entry to what it is worth."""
        return self.call("refresh", model_id, profile_id, owner)

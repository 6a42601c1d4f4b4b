"""A payer proves what a node's own signatures show to be false, at the cost of gas alone (R-50)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from retally.chain.connection import Chain
from retally.chain.events import EventReader
from retally.chain.faults import Faults, claim_hash
from retally.chain.transactions import TxSender
from retally.errors import TransactionFailed, Unavailable
from retally.inclusion import Inclusion
from retally.receipt_faults import Fault

#: Of the struct that FaultProven shows and `punish` takes.
FAULT_FIELDS = ("kind", "owner", "key", "claimant", "subject", "receipt", "payer", "refund")


@dataclass(frozen=True, slots=True)
class Punished:
    """What a proven fault came to; amounts in the asset's smallest unit, `slashed` is beyond the refund."""

    owner: str
    slashed: int
    refunded: int


class Claimant:
    """Proves faults in its own name."""

    def __init__(self, chain: Chain, sender: TxSender) -> None:
        self._chain = chain
        self._sender = sender
        self._faults = Faults(chain.rpc, chain.deployment.address("Faults"))

    async def prove(self, fault: Fault) -> Punished:
        """Claims, proves in a later block, has it punished; raises TransactionFailed where the chain sees no fault.

        What was cut off goes on: a claim costs its gas and has a salt of its own, and a fault that is proven and not
        punished yet is punished.
        """
        start, salt = await self._chain.block_number(), secrets.token_bytes(32)
        if fault.inclusion is not None:
            await self._bind(fault.inclusion)
        hash_ = claim_hash(self._sender.address, fault.evidence, salt)
        # Waits until it is mined: what follows lies in a later block.
        await self._sender.send(self._faults.commit_claim(hash_))
        try:
            await self._sender.send(fault.proof(self._faults, salt))
            proven = await self._proven(start, lambda shown: shown["claimant"] == self._sender.address)
        except TransactionFailed as error:
            if error.error_name != "FaultsAlreadyProven":
                raise
            subjects = _values(error.error_args)
            begin = self._chain.deployment.deployed_block
            proven = await self._proven(begin, lambda shown: shown["subject"] in subjects)
            if proven is None or await self._is_punished(proven, begin):
                raise
        if proven is None:
            raise Unavailable("the RPC does not show the proof yet", hint="run the same command again")
        await self._sender.send(self._faults.punish(tuple(proven.values())))
        for event in reversed(await self._events("FaultPunished", start)):
            if event["subject"] == proven["subject"]:
                return Punished(str(event["owner"]), int(event["slashed"]), int(event["refunded"]))
        raise Unavailable("the RPC does not show the punishment yet", hint="`retally balance` shows the credit")

    async def _bind(self, inclusion: Inclusion) -> None:
        if await self._faults.is_bound(inclusion.leaf.receipt.digest(self._chain.domain)):
            return
        parts = (inclusion.commit, inclusion.leaf, inclusion.index, inclusion.proof, inclusion.leaf_count)
        await self._sender.send(self._faults.bind_leaf(*parts))

    async def _is_punished(self, proven: Mapping[str, Any], start: int) -> bool:
        return any(event["subject"] == proven["subject"] for event in await self._events("FaultPunished", start))

    async def _proven(self, start: int, wanted: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any] | None:
        """The latest proven fault since a block that is wanted: others prove theirs in the same blocks."""
        shown = [_named(event["fault"]) for event in await self._events("FaultProven", start)]
        return next((fault for fault in reversed(shown) if wanted(fault)), None)

    async def _events(self, name: str, start: int) -> list[Mapping[str, Any]]:
        head = await self._chain.block_number()
        return [event.args for event in await EventReader(self._chain, ("Faults",)).read_named(name, start, head)]


def _named(fault: Any) -> Mapping[str, Any]:
    return fault if isinstance(fault, Mapping) else dict(zip(FAULT_FIELDS, fault, strict=True))


def _values(arguments: Any) -> list[Any]:
    return list(arguments.values() if isinstance(arguments, Mapping) else arguments)

"""A payer proves what a node's own signatures show to be false, at the cost of gas alone (R-50)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from retally.chain.connection import Chain
from retally.chain.events import EventReader
from retally.chain.faults import Faults, claim_hash
from retally.chain.transactions import TxSender
from retally.inclusion import Inclusion
from retally.receipt_faults import Fault


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

        A claim that was cut off costs its gas and nothing else: the next one has a salt of its own.
        """
        start, salt = await self._chain.block_number(), secrets.token_bytes(32)
        if fault.inclusion is not None:
            await self._bind(fault.inclusion)
        hash_ = claim_hash(self._sender.address, fault.evidence, salt)
        # Waits until it is mined: what follows lies in a later block.
        await self._sender.send(self._faults.commit_claim(hash_))
        await self._sender.send(fault.proof(self._faults, salt))
        proven = await self._event("FaultProven", start)
        await self._sender.send(self._faults.punish(proven["fault"]))
        punished = await self._event("FaultPunished", start)
        return Punished(str(punished["owner"]), int(punished["slashed"]), int(punished["refunded"]))

    async def _bind(self, inclusion: Inclusion) -> None:
        if await self._faults.is_bound(inclusion.leaf.receipt.digest(self._chain.domain)):
            return
        parts = (inclusion.commit, inclusion.leaf, inclusion.index, inclusion.proof, inclusion.leaf_count)
        await self._sender.send(self._faults.bind_leaf(*parts))

    async def _event(self, name: str, start: int) -> dict[str, Any]:
        events = await EventReader(self._chain, ("Faults",)).read(start, await self._chain.block_number())
        return dict([event.args for event in events if event.name == name][-1])

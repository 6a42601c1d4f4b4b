"""A payer that compares its receipts with their trees and with what the node committed, and proves what is wrong.

Anybody may prove an objective fault (R-50): commit to a claim, prove it in a later block, have it punished.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from eth_abi.abi import encode

from retally.chain.connection import Chain
from retally.chain.contract import Contract, ContractCall
from retally.chain.events import EventReader
from retally.devnet.parties import Party
from retally.inclusion import Inclusion
from retally.job_evidence import Evidence
from retally.protocol.encoding import Bytes32, keccak, u32
from retally.protocol.merkle import CHUNK, leaf
from retally.protocol.receipt import ReceiptLeaf

PROMPT_TREE = 0
BLOCKS = 2


class Faults(Contract):
    """Calls of Faults."""

    NAME = "Faults"


class Claimant:
    """Proves faults from what it holds, at its own cost in gas alone."""

    def __init__(self, chain: Chain, party: Party) -> None:
        self._chain = chain
        self._party = party
        self._faults = Faults(chain.rpc, chain.deployment.address("Faults"))

    async def bind(self, inclusion: Inclusion) -> None:
        """Show that a receipt stands under a commit, so that it binds the owner wholly."""
        held = inclusion.leaf
        shown = (held.receipt.to_abi(), held.signature, inclusion.index, list(inclusion.proof))
        await self._party.send(self._faults.call("bindLeaf", inclusion.commit.to_abi(), shown, inclusion.leaf_count))

    async def miscount(self, held: ReceiptLeaf, prompt_ids: Sequence[int], *, bound: bool) -> dict[str, Any]:
        """The receipt's promptTokens is not the count inside its promptRoot."""
        digest = held.receipt.digest(self._chain.domain)
        salt = await self._claim(digest)
        top = top_of_ids(prompt_ids)
        arguments = (held.receipt.to_abi(), halves(held.signature), PROMPT_TREE, len(prompt_ids), top, bound, salt)
        return await self._prove(self._faults.call("proveMiscount", *arguments))

    async def deviation(self, held: ReceiptLeaf, evidence: Evidence, *, bound: bool) -> dict[str, Any]:
        """The receipt is not what its request asks for."""
        assert evidence.offer is not None
        assert evidence.request is not None
        salt = await self._claim(held.receipt.digest(self._chain.domain))
        references = (evidence.offer.to_abi(), evidence.request.to_abi())
        arguments = (held.receipt.to_abi(), halves(held.signature), *references, bound, salt)
        return await self._prove(self._faults.call("proveDeviation", *arguments))

    async def conflict(self, a: ReceiptLeaf, b: ReceiptLeaf) -> dict[str, Any]:
        """Two receipts with different content for one output of a job."""
        return await self._pair("proveConflict", a, b, bound=False)

    async def double_money(self, under_commit: ReceiptLeaf, held: ReceiptLeaf) -> dict[str, Any]:
        """Two receipts for the same money, of which the first was bound."""
        return await self._pair("proveDoubleMoney", under_commit, held, bound=True)

    async def _pair(self, function: str, a: ReceiptLeaf, b: ReceiptLeaf, *, bound: bool) -> dict[str, Any]:
        digests = [each.receipt.digest(self._chain.domain) for each in (a, b)]
        salt = await self._claim(keccak(encode(["bytes32", "bytes32"], digests)))
        signed = [part for each in (a, b) for part in (each.receipt.to_abi(), halves(each.signature))]
        return await self._prove(self._faults.call(function, *signed, bound, salt))

    async def _claim(self, evidence: bytes) -> bytes:
        salt = secrets.token_bytes(32)
        hash_ = keccak(encode(["address", "bytes32", "bytes32"], [self._party.address, evidence, salt]))
        await self._party.send(self._faults.call("commitClaim", hash_))
        await self._chain.rpc.request("anvil_mine", hex(BLOCKS))
        return salt

    async def _prove(self, call: ContractCall) -> dict[str, Any]:
        """The proof, its punishment, and what it came to."""
        start = await self._chain.block_number()
        await self._party.send(call)
        proven = await self._event("FaultProven", start)
        fault = proven["fault"]
        await self._party.send(self._faults.call("punish", tuple(fault.values()) if isinstance(fault, dict) else fault))
        punished = await self._event("FaultPunished", start)
        return {
            "by": call.label,
            "owner": punished["owner"],
            "slashed": punished["slashed"],
            "refunded": punished["refunded"],
            "convicted": punished["slashed"] > 0,
        }

    async def _event(self, name: str, start: int) -> Any:
        events = await EventReader(self._chain, ("Faults",)).read(start, await self._chain.block_number())
        return [event.args for event in events if event.name == name][-1]


def top_of_ids(ids: Sequence[int]) -> Bytes32:
    """The last node of a token-id tree, which its root seals with a count (R-13, R-16)."""
    nodes = [
        leaf(u32(start) + b"".join(u32(token) for token in ids[start : start + CHUNK]))
        for start in range(0, len(ids), CHUNK)
    ]
    while len(nodes) > 1:
        pairs = [keccak(b"\x01" + nodes[i] + nodes[i + 1]) for i in range(0, len(nodes) - 1, 2)]
        nodes = pairs + ([nodes[-1]] if len(nodes) % 2 else [])
    return nodes[0]


def halves(signature: bytes) -> tuple[bytes, bytes]:
    """r and vs of an EIP-2098 signature."""
    return signature[:32], signature[32:]

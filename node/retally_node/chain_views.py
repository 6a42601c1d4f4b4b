"""The node's ports over the real contracts."""

from __future__ import annotations

from collections.abc import Sequence

from retally.chain.connection import Chain
from retally.chain.escrow import CollectItem
from retally.chain.events import EventReader, collected_of
from retally.chain.staking import Role
from retally.chain.transactions import TxSender
from retally.protocol.encoding import Address
from retally.protocol.voucher import ChannelId, Reservation
from retally_node.settlement import MinedCommit


class EscrowCollect:
    """`CollectChain` over the Escrow; the hot key sends as the owner's delegate."""

    def __init__(self, chain: Chain, sender: TxSender, node: Address) -> None:
        self._chain = chain
        self._sender = sender
        self._node = node
        self._reader = EventReader(chain, ("Escrow",))

    async def collect(self, items: Sequence[CollectItem], root: bytes) -> None:
        """Send the transaction and wait until it is mined."""
        await self._sender.send(self._chain.escrow.collect(self._node, items, root))

    async def commits(self, from_block: int) -> tuple[list[MinedCommit], int]:
        """This node's commits from a block on, and the block to go on from."""
        head = await self._chain.block_number()
        if head < from_block:
            return [], from_block
        events = await self._reader.read(from_block, head)
        mined = [MinedCommit(collected_of(event), event.block) for event in events if event.name == "Collected"]
        return [commit for commit in mined if commit.collected.commit.node == self._node], head + 1

    async def collected(self, channels: Sequence[ChannelId]) -> list[int]:
        """What each channel has paid."""
        return await self._chain.escrow.channels(channels) if channels else []


class ChainAudits:
    """`AuditChain` over Staking, Registry and Audits."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    async def is_verifier(self, owner: Address) -> bool:
        """Whether this owner is bonded as a verifier."""
        return await self._chain.staking.is_active(owner, Role.VERIFIER)

    async def acts_for(self, owner: Address, who: Address) -> bool:
        """Whether one may act for an owner."""
        return await self._chain.registry.is_delegate(owner, who)

    async def seed_of(self, commit_id: int) -> bytes | None:
        """The seed of a commit, once fixed."""
        return await self._chain.audits.seed_of(commit_id)


class EscrowReserve:
    """`ReserveChain` over the Escrow."""

    def __init__(self, chain: Chain, sender: TxSender) -> None:
        self._chain = chain
        self._sender = sender

    async def reserve(self, reservation: Reservation, signature: bytes) -> None:
        """Send the reservation and wait until it is mined."""
        await self._sender.send(self._chain.escrow.reserve(reservation, signature))

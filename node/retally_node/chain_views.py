"""The node's ports over the real contracts."""

from __future__ import annotations

from collections.abc import Sequence

from retally.chain.connection import Chain
from retally.chain.escrow import CollectItem
from retally.chain.events import EventReader, collected_of
from retally.chain.silence import Challenge, ChallengeStatus
from retally.chain.staking import Role
from retally.chain.transactions import TxSender
from retally.protocol.encoding import Address
from retally.protocol.voucher import ChannelId, Reservation
from retally_node.ledger import OpenChallenge
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
        # The last blocks are read again each round: all that others collected would be decoded each time.
        events = await self._reader.read_named("Collected", from_block, head, node=self._node)
        return [MinedCommit(collected_of(event), event.block) for event in events], head + 1

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


class SilenceView:
    """`ChallengeChain` over Silence."""

    def __init__(self, chain: Chain, sender: TxSender, node: Address) -> None:
        self._chain = chain
        self._sender = sender
        self._node = node
        self._reader = EventReader(chain, ("Silence",))

    async def challenges(self, from_block: int) -> tuple[list[OpenChallenge], int]:
        """Challenges of this node from a block on, and the block to go on from."""
        head = await self._chain.block_number()
        if head < from_block:
            return [], from_block
        events = await self._reader.read_named("Challenged", from_block, head, node=self._node)
        said = [event.args for event in events]
        return [OpenChallenge(a["challengeId"], a["commitId"], a["channel"], a["point"]) for a in said], head + 1

    async def progress(self, challenge_id: bytes) -> Challenge | None:
        """How far the answer has come; None once the challenge is over."""
        state = await self._chain.silence.challenge_of(challenge_id)
        return state if state.status == ChallengeStatus.OPEN else None

    async def post(self, challenge_id: bytes, data: bytes) -> None:
        """Post the next part."""
        await self._sender.send(self._chain.silence.answer(challenge_id, data))

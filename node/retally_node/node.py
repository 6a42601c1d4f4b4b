"""A node: its parts, and what it says about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import retally
from retally.inference.chat_format import ChatFormat
from retally.inference.engine import Engine
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.embeddings import VectorSizes
from retally.protocol.encoding import Address, Bytes32, to_hex
from retally.protocol.params import EMBEDDINGS
from retally.protocol.voucher import ChannelId
from retally.protocol.wire import ChannelState
from retally_node.admission import Admission
from retally_node.answer_audit import Auditor
from retally_node.channels import Channel, ChannelBook
from retally_node.defence import Defence
from retally_node.ledger import Ledger
from retally_node.loops import Loops
from retally_node.metrics import Metrics
from retally_node.offers import Offers
from retally_node.serve_job import JobServer
from retally_node.settings import NodeSettings
from retally_node.settlement import Settlement
from retally_node.speed import Speed


@dataclass(frozen=True, slots=True)
class Served:
    """What this node serves."""

    model_name: str
    model_id: Bytes32
    profile_id: Bytes32
    max_context: int
    owner: Address
    #: The vectors that its engine makes; None where it answers in tokens.
    vectors: VectorSizes | None = None
    #: As measured at start; unknown if the engine failed at it.
    speed: Speed | None = None


@dataclass(frozen=True)
class Node:
    """All parts of a running node."""

    settings: NodeSettings
    key: SigningKey
    domain: Domain
    served: Served
    engine: Engine
    chat_format: ChatFormat
    ledger: Ledger
    book: ChannelBook
    offers: Offers
    admission: Admission
    server: JobServer
    settlement: Settlement
    auditor: Auditor
    defence: Defence
    loops: Loops
    metrics: Metrics = field(repr=False)

    @property
    def address(self) -> Address:
        """The hot key's address, which names the node."""
        return self.key.address

    @property
    def model_name(self) -> str:
        """The model's name for users."""
        return self.served.model_name

    def channel_state(self, channel_id: ChannelId) -> ChannelState:
        """How a channel stands; an unknown one is empty."""
        channel = self.book.find(channel_id.key)
        return (channel or Channel(channel_id)).state()

    async def info(self) -> dict[str, Any]:
        """What the node offers, and how busy it is."""
        signed = await self.offers.current()
        return {
            "node": self.address,
            "owner": self.served.owner,
            "model": self.served.model_name,
            "modelId": to_hex(self.served.model_id),
            "profileId": to_hex(self.served.profile_id),
            "offer": signed.offer.to_wire(),
            "offerSignature": to_hex(signed.signature),
            "maxContext": signed.offer.max_context,
            "load": {"running": self.server.room.running, "waiting": self.server.room.waiting},
            "endpoints": ["chat", "text"] if self.served.vectors is None else [EMBEDDINGS],
            "version": retally.__version__,
            **({} if self.served.vectors is None else {"embeddings": self.served.vectors.to_wire()}),
            **({} if self.served.speed is None else {"capacity": self.served.speed.to_wire()}),
        }

    def problems(self) -> list[str]:
        """What ails the node now."""
        broken = [] if self.ledger.broken is None else [f"ledger: {self.ledger.broken}"]
        return broken + [f"{name}: {problem}" for name, problem in sorted(self.loops.ailing.items())]

    async def status(self) -> dict[str, Any]:
        """The books in brief."""
        channels = self.book.all()
        commits = self.ledger.commits.commits()
        return {
            "node": self.address,
            "owner": self.served.owner,
            **{name: str(value) for name, value in self.ledger.jobs.totals().items()},
            "vouched": str(sum(min(channel.best, channel.last_cum) for channel in channels)),
            "collected": str(sum(commit.paid for commit in commits)),
            "uncollected": str(sum(channel.last_cum - channel.collected for channel in channels)),
            "commits": len(commits),
            "cases": self.defence.open_cases,
            "problems": self.problems(),
        }

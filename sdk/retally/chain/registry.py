"""The Registry: who owns which node, and what it serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retally.chain.contract import Contract, ContractCall
from retally.protocol.encoding import ZERO_ADDRESS, Address, Bytes32
from retally.protocol.voucher import NodeAuth


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """A registered node; `owner` is the zero address if it was never registered."""

    node: Address
    owner: Address
    model_id: Bytes32
    profile_id: Bytes32
    registered_at: int
    revoked_at: int
    endpoint: str

    @property
    def is_live(self) -> bool:
        """Whether it is registered and not revoked."""
        return self.owner != ZERO_ADDRESS and self.revoked_at == 0


@dataclass(frozen=True, slots=True)
class AuditLevel:
    """How densely an owner's next commits are audited."""

    step_units: int
    share_ppm: int


class Registry(Contract):
    """Views and calls of the Registry."""

    NAME = "Registry"

    async def node(self, node: Address) -> NodeEntry:
        """A node's entry."""
        return NodeEntry(node, *await self.view("node", node))

    async def nodes(self, nodes: Sequence[Address]) -> list[NodeEntry]:
        """Many nodes' entries, in one round trip."""
        found = await self.views("node", [(node,) for node in nodes])
        return [NodeEntry(node, *values) for node, values in zip(nodes, found, strict=True)]

    async def node_owner(self, node: Address) -> Address:
        """A node's owner, revoked or not."""
        return Address(await self.view("nodeOwner", node))

    async def is_delegate(self, owner: Address, who: Address) -> bool:
        """Whether one may act for an owner."""
        return bool(await self.view("isDelegate", owner, who))

    async def are_siblings(self, a: Address, b: Address) -> bool:
        """Whether two owners declared each other."""
        return bool(await self.view("areSiblings", a, b))

    async def audit_level(self, owner: Address) -> AuditLevel:
        """How densely an owner is audited."""
        return AuditLevel(*await self.view("auditLevel", owner))

    async def model_unit(self, model_id: bytes) -> int:
        """The audit unit of a model; 0 if it is unknown."""
        return int(await self.view("modelUnit", model_id))

    async def is_profile(self, profile_id: bytes) -> bool:
        """Whether a profile is known."""
        return bool(await self.view("isProfile", profile_id))

    async def calibration_from(self, calibration_hash: bytes) -> int:
        """From when on a calibration may be used; 0 if it is unknown."""
        return int(await self.view("calibrationFrom", calibration_hash))

    async def warned_until(self, owner: Address) -> int:
        """Until when an owner is on warning."""
        return int(await self.view("warnedUntil", owner))

    def register_node(
        self, auth: NodeAuth, signature: bytes, model_id: bytes, profile_id: bytes, endpoint: str
    ) -> ContractCall:
        """Registers a node of the sender."""
        r, vs = signature[:32], signature[32:]
        return self.call("registerNode", auth.node, model_id, profile_id, endpoint, auth.deadline, r, vs)

    def update_node(self, node: Address, endpoint: str, model_id: bytes, profile_id: bytes) -> ContractCall:
        """Changes what a node of the sender serves and where."""
        return self.call("updateNode", node, endpoint, model_id, profile_id)

    def revoke_node(self, node: Address) -> ContractCall:
        """Ends a node of the sender for ever."""
        return self.call("revokeNode", node)

    def set_delegate(self, delegate: Address, allowed: bool) -> ContractCall:
        """Lets another act for the sender."""
        return self.call("setDelegate", delegate, allowed)

    def declare_sibling(self, sibling: Address, declared: bool) -> ContractCall:
        """Declares that another owner is run by the sender too."""
        return self.call("declareSibling", sibling, declared)

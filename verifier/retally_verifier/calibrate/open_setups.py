"""From a plan's set-ups to running ones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field

from retally.cli.scorers import PaidNodes
from retally.errors import BadRequest
from retally.inference.model_files import ModelFiles
from retally.protocol.encoding import Address, Bytes32, to_hex
from retally_verifier.calibrate.canaries import Canaries
from retally_verifier.calibrate.plan import Plan, PlannedSetUp
from retally_verifier.calibrate.setups import NodeSetUp, ReferenceSetUp, SetUp, engine_set_up

#: Opens what buys scores of nodes, where a plan names some.
Market = Callable[[], AbstractAsyncContextManager[PaidNodes]]


@dataclass(slots=True)
class SetUps:
    """Opens set-ups; the stack closes them."""

    stack: AsyncExitStack
    plan: Plan
    files: ModelFiles
    canaries: Canaries
    #: What nodes that replay must be registered with.
    verifier_profile: Bytes32
    market: Market | None
    _paid: PaidNodes | None = None
    _owners: dict[Address, str] = field(default_factory=dict)

    async def open(self, planned: PlannedSetUp) -> SetUp:
        """One set-up, once it says that it is what the plan takes it for."""
        if planned.node is not None:
            return await self._node(planned.name, planned.node)
        if planned.url is None:
            label, eos = to_hex(self.files.model_id), self.canaries.eos_ids
            return ReferenceSetUp(planned.name, planned.owner, self.plan.model_dir, eos, label=label)
        setup = await engine_set_up(
            planned.name, planned.owner, planned.url, self.files.name, self.canaries.eos_ids, planned.at_once
        )
        self.stack.push_async_callback(setup.close)
        return setup

    async def _node(self, name: str, where: str) -> SetUp:
        if self._paid is None:
            if self.market is None:
                raise BadRequest(f"set-up {name} is a node, and no chain is known", param="setups")
            self._paid = await self.stack.enter_async_context(self.market())
        scorer = await self._paid.node(where, ())
        entry = scorer.entry
        if (entry.model_id, entry.profile_id) != (self.files.model_id, self.verifier_profile):
            hint = "name a node of this model and of the verifier's profile: see `retally nodes`"
            raise BadRequest(f"node {where} is registered with another model or profile", param="setups", hint=hint)
        if entry.owner in self._owners:
            hint = "name nodes of unrelated owners"
            other = self._owners[entry.owner]
            raise BadRequest(f"{name} and {other} are nodes of one owner, {entry.owner}", param="setups", hint=hint)
        self._owners[entry.owner] = name
        # A node scores what one payer asks for one after the other.
        return NodeSetUp(name, entry.owner, scorer, at_once=1)

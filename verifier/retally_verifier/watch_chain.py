"""From the chain's events to the books."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from retally.chain.connection import Chain
from retally.chain.events import ChainEvent, EventReader, collected_of
from retally.protocol.encoding import Bytes32
from retally_verifier.records import CaseRecord, NodeRecord
from retally_verifier.store import Store


class ChainWatch:
    """Follows nodes, commits and cases."""

    def __init__(self, chain: Chain, store: Store, confirmations: int) -> None:
        self._chain = chain
        self._store = store
        self._confirmations = confirmations
        self._reader = EventReader(chain, ("Registry", "Escrow", "Court"))
        self._handlers: Mapping[str, Callable[[ChainEvent], None]] = {
            "NodeRegistered": self._node,
            "NodeUpdated": self._node,
            "NodeRevoked": lambda event: store.revoke_node(event.args["node"]),
            "Collected": self._collected,
            "CaseOpened": self._case_opened,
            "CaseExecuted": lambda event: store.close_case(event.args["caseId"], event.args["verdict"]),
        }

    async def step(self) -> None:
        """Handles all blocks since the last one handled."""
        handled = self._store.cursor()
        start = self._chain.deployment.deployed_block if handled is None else handled + 1
        head = await self._chain.block_number() - self._confirmations
        if head < start:
            return
        events = await self._reader.read(start, head)
        with self._store.transaction("events"):
            for event in events:
                handler = self._handlers.get(event.name)
                if handler is not None:
                    handler(event)
            self._store.set_cursor(head)

    def _node(self, event: ChainEvent) -> None:
        args = event.args
        model, profile = Bytes32(args["modelId"]), Bytes32(args["profileId"])
        self._store.put_node(NodeRecord(args["node"], args["owner"], model, profile, args["endpoint"], False))

    def _collected(self, event: ChainEvent) -> None:
        collected = collected_of(event)
        self._store.add_commit(collected.commit, collected.packed_ranges)

    def _case_opened(self, event: ChainEvent) -> None:
        args = event.args
        hash_ = Bytes32(args["evidenceHash"])
        case = CaseRecord(args["caseId"], args["owner"], args["challenger"], hash_, args["shown"], False, 0)
        self._store.put_case(case)

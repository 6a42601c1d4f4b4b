"""Re-executors whose scores are given: what each owner says of a job, true or false."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from retally.chain.calibrations import Calibrations
from retally.chain.registry import Registry
from retally.errors import NodeUnavailable
from retally.node_client import NodeClient
from retally.protocol.calibration import PROBABILITY, Calibration, MarginTable
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import Address, Bytes32, keccak
from retally.protocol.params import ONE
from retally.protocol.scored_rows import ScoredRows
from retally.protocol.wire import AnswerBundle
from retally_verifier.records import NodeRecord
from retally_verifier.replay import Replayer
from retally_verifier.store import Store
from tests.contracts.court.crash_nodes import bundles_of
from tests.contracts.court.transcripts import MODEL, PROFILE, Tree, make_job
from tests.fakes_world import FakeClock

TABLE = MarginTable(
    edges=(1, 20_000, 500_000, 2_000_000),
    honest=(PROBABILITY, 10_000_000, 1_000_000, 200_000, 100_000),
    cheat=(600_000_000, 100_000_000, 100_000_000, 100_000_000, 100_000_000),
)
DOMAIN = Domain(31337, SigningKey(keccak(b"escrow")).address)
VERIFIER, ACCUSED = SigningKey(keccak(b"verifier")), SigningKey(keccak(b"accused"))
OWNERS = [SigningKey(keccak(f"owner {n}".encode())).address for n in range(9)]
WIDE = {"temperature": (0, 2 * ONE), "topP": (0, ONE), "topK": (0, 1 << 31), "outputTokens": (1, 1_000)}
#: Shares of tokens with margins of several nats, as a re-executor sees them.
HONEST, GUILTY, ODD = 0.0, 0.5, 0.02


class Siblings(Registry):
    """A Registry that knows which owners are siblings."""

    def __init__(self, *pairs: frozenset[Address]) -> None:
        self.pairs = set(pairs)

    async def are_siblings(self, a: Address, b: Address) -> bool:
        return frozenset((a, b)) in self.pairs


class OneCalibration(Calibrations):
    """One table for each profile but those that nobody calibrated."""

    def __init__(self, uncalibrated: frozenset[bytes] = frozenset()) -> None:
        self.uncalibrated = uncalibrated

    async def find(
        self, model_id: bytes, node_profile: bytes, verifier_profile: bytes, committed_at: int
    ) -> Calibration | None:
        if verifier_profile in self.uncalibrated:
            return None
        return Calibration(MODEL, PROFILE, Bytes32(verifier_profile), {"seeded": TABLE}, WIDE)


def rows(ids: Sequence[int], share: float, size: float = 6.0) -> ScoredRows:
    """Scores under which that share of the tokens, spread evenly, has a margin of about that size."""
    odd = {int(n / share) for n in range(int(len(ids) * share))} if share else set()
    top_ids = np.array([[token, 4_100] for token in ids], dtype=np.int32)
    logprobs = [(-40.0, -40.0 + size + 60) if n in odd else (-0.01, -60.0) for n in range(len(ids))]
    return ScoredRows(top_ids, np.array(logprobs, dtype=np.float32))


class GivenReplayer(Replayer):
    """Each owner's node says what it is given; one that is given nothing fails."""

    def __init__(self, folder: Path, says: Mapping[Address, float], **options: Any) -> None:
        self.says = says
        self.asked: list[Address] = []
        self.store = Store(folder / "verifier.sqlite")
        registry = options.pop("registry", Siblings())
        found = options.pop("calibrations", OneCalibration())
        client = cast(NodeClient, None)
        most = {"lane": 0, "replayers": 2, "most_replayers": 5, **options}
        super().__init__(self.store, client, registry, found, VERIFIER, DOMAIN, FakeClock(), **most)
        for owner in says:
            self.store.put_node(node_of(owner))

    async def score(self, node: NodeRecord, ids: Sequence[int], start: int) -> ScoredRows:
        self.asked.append(node.owner)
        share = self.says[node.owner]
        if share < 0:
            raise NodeUnavailable("this node does not answer")
        return rows(ids[start:], share)


def node_of(owner: Address, profile: Bytes32 = PROFILE) -> NodeRecord:
    """An owner's node."""
    node = SigningKey(keccak(f"node of {owner}".encode())).address
    return NodeRecord(node, owner, MODEL, profile, "http://node", False)


def a_bundle() -> AnswerBundle:
    """The answer that is replayed."""
    job = make_job(DOMAIN, ACCUSED, ACCUSED, now=1_000, output_tokens=64)
    return bundles_of(Tree.of([job]))[0]

"""What a devnet consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retally.devnet.tools import devnet_model_dir
from retally.protocol.params import EMBEDDINGS

RUSD = 1_000_000
"""One unit of the devnet's asset in its smallest unit."""


@dataclass(frozen=True, kw_only=True)
class NodeSpec:
    """One node: which engine it asks, which program it is, which settings differ from the usual."""

    name: str
    engine: str = "honest"
    serves: str = "completions"
    program: tuple[str, ...] = ("-m", "retally_node")
    arguments: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def embeds(self) -> bool:
        """Whether it serves embeddings, from an engine that makes nothing else."""
        return self.serves == EMBEDDINGS


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Amounts per million tokens that the devnet's nodes ask."""

    price_in: int = 2 * RUSD
    price_cached: int = 1 * RUSD
    price_out: int = 6 * RUSD


DEFAULT_NODES = (NodeSpec(name="node1"), NodeSpec(name="node2"), NodeSpec(name="node3"))


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """A network in one folder. An engine or a Redis that already runs is named by its address and left alone."""

    home: Path
    seed: int = 0
    nodes: tuple[NodeSpec, ...] = DEFAULT_NODES
    engines: Mapping[str, Path] = field(default_factory=lambda: {"honest": devnet_model_dir()})
    engine_urls: Mapping[str, str] = field(default_factory=dict)
    redis_url: str | None = None
    durable_redis: bool = False
    verifier: bool = True
    #: Which of their settings differ from the usual.
    verifier_settings: Mapping[str, object] = field(default_factory=dict)
    router_settings: Mapping[str, object] = field(default_factory=dict)
    familiar_ports: bool = False
    prices: Prices = Prices()
    stake: int = 5_000 * RUSD
    deposit: int = 1_000 * RUSD
    key_cap: int = 500 * RUSD
    time_scale: int = 1
    poll_seconds: float = 0.5
    log_level: str = "INFO"

    @property
    def model_dir(self) -> Path:
        """The genuine model: what the Registry names and what verifiers and clients know."""
        return self.engines.get("honest", next(iter(self.engines.values())))

    @property
    def to_launch(self) -> dict[str, tuple[Path, bool]]:
        """The engines that do not run yet: what each loads, and whether it makes vectors."""
        pooling = {spec.engine for spec in self.nodes if spec.embeds}
        folders = dict.fromkeys(pooling, self.model_dir) | dict(self.engines)
        return {name: (path, name in pooling) for name, path in folders.items() if name not in self.engine_urls}

    @property
    def mark(self) -> str:
        """What the network's processes carry in their environment."""
        return str(self.home.resolve())


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """What `retally devnet up` lets people choose."""

    seed: int = 0
    nodes: int = 3
    model_dir: str | None = None
    engine_url: str | None = None
    time_scale: int = 1
    embeddings: bool = False

    def network(self, folder: Path) -> NetworkOptions:
        """The network they describe."""
        nodes = [NodeSpec(name=f"node{number}") for number in range(1, self.nodes + 1)]
        if self.embeddings:
            nodes.append(NodeSpec(name="embedder", engine=EMBEDDINGS, serves=EMBEDDINGS))
        return NetworkOptions(
            home=folder,
            seed=self.seed,
            nodes=tuple(nodes),
            engines={"honest": Path(self.model_dir) if self.model_dir else devnet_model_dir()},
            engine_urls={"honest": self.engine_url} if self.engine_url else {},
            familiar_ports=True,
            time_scale=self.time_scale,
        )

"""What a devnet consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retally.devnet.tools import devnet_model_dir

RUSD = 1_000_000
"""One unit of the devnet's asset in its smallest unit."""


@dataclass(frozen=True, kw_only=True)
class NodeSpec:
    """One node: which engine it asks, which program it is, which settings differ from the usual."""

    name: str
    engine: str = "honest"
    program: tuple[str, ...] = ("-m", "retally_node")
    arguments: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)


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
    #: Which of its settings differ from the usual.
    verifier_settings: Mapping[str, object] = field(default_factory=dict)
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

    def network(self, folder: Path) -> NetworkOptions:
        """The network they describe."""
        return NetworkOptions(
            home=folder,
            seed=self.seed,
            nodes=tuple(NodeSpec(name=f"node{number}") for number in range(1, self.nodes + 1)),
            engines={"honest": Path(self.model_dir) if self.model_dir else devnet_model_dir()},
            engine_urls={"honest": self.engine_url} if self.engine_url else {},
            familiar_ports=True,
            time_scale=self.time_scale,
        )

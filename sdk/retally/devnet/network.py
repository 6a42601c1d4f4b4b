"""A whole network as one object: start it, use it, let its time pass, stop it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from retally.chain.connection import Chain
from retally.chain.deploy import ANVIL_KEY, deploy
from retally.chain.deployment import Deployment
from retally.chain.parameters import devnet_parameters
from retally.chain.staking import Role
from retally.devnet.anvil import Anvil
from retally.devnet.api_key import create_api_key
from retally.devnet.catalogue import devnet_market
from retally.devnet.configs import node_settings, router_settings, verifier_settings, write_config
from retally.devnet.engine_server import EngineServer, model_name_of, share_cores
from retally.devnet.keys import derive_key, derive_secret
from retally.devnet.options import NetworkOptions, NodeSpec
from retally.devnet.parties import APPEAL_FUNDS, Party, prepare_router, prepare_verifier
from retally.devnet.ports import HOST, free_port
from retally.devnet.processes import Service, end_marked
from retally.devnet.readiness import wait_answers, wait_node_routable, wait_routable
from retally.devnet.redis_server import RedisServer

Progress = Callable[[str], None]

ANVIL_PORT, REDIS_PORT, ENGINE_PORT, ROUTER_PORT, NODE_PORT, VERIFIER_PORT = 8545, 6390, 8000, 8080, 8100, 8200
SETTLE_SECONDS = 120
CLOCK_SECONDS = 3.0


@dataclass(frozen=True)
class RunningNode:
    """A node of the network: its key, its owner's account and its process."""

    spec: NodeSpec
    address: str
    owner: Party
    url: str
    admin_token: str
    service: Service


class Network:
    """Everything from the chain to a payer with an API key. `start` returns once all of it answers."""

    def __init__(self, options: NetworkOptions) -> None:
        self.options = options
        self.home = options.home
        self.nodes: list[RunningNode] = []
        self.engines: dict[str, EngineServer] = {}
        self.services: dict[str, Service] = {}
        self.router_url = ""
        self.verifier_url = ""
        self.api_key = ""
        self._ports: list[int] = []
        self.model_dir = options.model_dir
        self.model = model_name_of(self.model_dir)
        self.anvil = Anvil(self.logs, mark=options.mark, port=self._port(ANVIL_PORT), block_time_seconds=1)
        self.redis: RedisServer | None = None
        self.deployment_path = self.home / "deployment.json"
        self.market = devnet_market(self.model_dir)
        self.chain: Chain | None = None
        self.payer: Party

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def logs(self) -> Path:
        """Where each process writes."""
        return self.home / "logs"

    @property
    def rpc_url(self) -> str:
        """The chain's address."""
        return self.anvil.url

    async def start(self, progress: Progress = lambda _line: None) -> None:
        """Start everything; on failure nothing stays behind."""
        try:
            await self._start(progress)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End every process of the network, its strays included."""
        services = [*self.services.values(), *(engine.service for engine in self.engines.values())]
        if self.chain is not None:
            await self.chain.close()
        await asyncio.gather(*(service.stop(grace_seconds=8) for service in services))
        if self.redis is not None:
            await self.redis.stop()
        await self.anvil.stop()
        await asyncio.to_thread(end_marked, self.options.mark)

    async def add_node(self, spec: NodeSpec) -> RunningNode:
        """A further node of a new owner, while the network runs; returns once jobs can be sent to it."""
        await self._prepare_node(spec)
        node = self.nodes[-1]
        node.service.start()
        await wait_answers(f"{node.url}/healthz", node.service)
        await wait_node_routable(self.router_url, node.address, self.services["router"])
        return node

    async def settle_all(self) -> list[dict[str, Any]]:
        """Let every node commit and collect now."""
        return [await self.settle(node) for node in self.nodes]

    async def settle(self, node: RunningNode) -> dict[str, Any]:
        """Let one node commit and collect now."""
        headers = {"authorization": f"Bearer {node.admin_token}"}
        async with httpx.AsyncClient(timeout=SETTLE_SECONDS, trust_env=False) as client:
            answer = await client.post(f"{node.url}/retally/v1/admin/settle", headers=headers)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    async def jump(self, seconds: int) -> None:
        """Let chain time pass, and give the services' loops the time to see it."""
        await self.anvil.jump(seconds)
        await asyncio.sleep(max(CLOCK_SECONDS, 2 * self.options.poll_seconds))

    def summary(self) -> dict[str, Any]:
        """What `retally devnet up --json` prints."""
        return {
            "router_url": self.router_url,
            "base_url": f"{self.router_url}/v1",
            "api_key": self.api_key,
            "model": self.model,
            "rpc_url": self.rpc_url,
            "deployment": str(self.deployment_path),
            "model_dir": str(self.model_dir),
            "redis_url": self._redis_url,
            "verifier_url": self.verifier_url or None,
            "nodes": [
                {"name": node.spec.name, "address": node.address, "owner": node.owner.address, "url": node.url}
                | {"serves": node.spec.serves}
                for node in self.nodes
            ],
            "payer": {"address": self.payer.address, "key": "0x" + self.payer.key.secret.hex()},
            "logs": str(self.logs),
        }

    async def _start(self, progress: Progress) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        # The chain starts anew each time: what a ledger or a Redis remembers of the last one would be false.
        shutil.rmtree(self.home / "data", ignore_errors=True)
        progress("[1/6] engine: loading the model in the background")
        self._launch_engines()
        progress(f"[2/6] chain: anvil on {self.rpc_url}")
        await self.anvil.start()
        await self._start_redis()
        progress("[3/6] contracts: deploying")
        await self._deploy()
        progress("[4/6] accounts: stakes, bonds and a payer's deposit")
        await self._prepare_parties()
        progress("[5/6] engine: waiting for its first token")
        await asyncio.gather(*(engine.wait_ready() for engine in self.engines.values()))
        progress(f"[6/6] services: {len(self.nodes)} nodes, router, verifier")
        await self._start_services()
        cap = self.options.key_cap
        self.api_key = await create_api_key(self.router_url, self.payer, self._chain, self.anvil, cap)
        await wait_routable(self.router_url, self.model, len(self.nodes), self.services["router"])
        progress(f"ready: {self.router_url}")

    def _launch_engines(self) -> None:
        wanted = self.options.to_launch
        for (name, (model_dir, embeds)), cores in zip(wanted.items(), share_cores(len(wanted)), strict=True):
            engine = EngineServer(
                model_dir,
                self.logs,
                mark=self.options.mark,
                model_name=self.model,
                name=f"engine-{name}",
                port=self._port(ENGINE_PORT),
                cores=cores,
                embeds=embeds,
            )
            engine.launch()
            self.engines[name] = engine

    async def _deploy(self) -> None:
        parameters = devnet_parameters(self.options.time_scale)
        deployed = await asyncio.to_thread(deploy, self.rpc_url, ANVIL_KEY, parameters, self.market.catalogue)
        self.deployment_path.write_text(json.dumps(deployed, indent=2) + "\n", encoding="utf-8")
        self.chain = await Chain(self.rpc_url, Deployment.load(self.deployment_path)).start()

    async def _start_redis(self) -> None:
        if self.options.redis_url is None:
            self.redis = RedisServer(
                self.logs,
                mark=self.options.mark,
                port=self._port(REDIS_PORT),
                durable=self.options.durable_redis,
                data=self.home / "data" / "redis",
            )
            await self.redis.start()

    async def _prepare_parties(self) -> None:
        """Give every account what it needs; accounts are independent, so they go side by side."""
        await asyncio.gather(
            prepare_router(self._party("router")),
            *([prepare_verifier(self._party("verifier"))] if self.options.verifier else []),
            self._prepare_payer(),
            *(self._prepare_node(spec) for spec in self.options.nodes),
        )
        order = [spec.name for spec in self.options.nodes]
        self.nodes.sort(key=lambda node: order.index(node.spec.name))

    async def _prepare_payer(self) -> None:
        self.payer = self._party("payer")
        await self.payer.deposit(self.options.deposit)

    async def _prepare_node(self, spec: NodeSpec) -> None:
        """Stake and register one node under an owner of its own, and write its settings."""
        owner, key = self._party(f"{spec.name}/owner"), derive_key(self.options.seed, spec.name)
        port = self._port(NODE_PORT)
        url = f"http://{HOST}:{port}"
        await owner.stake(Role.OPERATOR, self.options.stake)
        await self._party(spec.name).fund(APPEAL_FUNDS)
        profile = self.market.embeddings_profile_id if spec.embeds else self.market.profile_id
        await owner.register_node(key, self.market.model_id, profile, url, is_juror=not spec.embeds)
        settings = node_settings(
            self.options,
            spec,
            port=port,
            rpc_url=self.rpc_url,
            deployment=self.deployment_path,
            engine_url=self._engine_url(spec.engine),
        )
        config = write_config(self.home / f"{spec.name}.toml", settings)
        service = self._service(spec.name, [*spec.program, "--config", str(config), *spec.arguments])
        token = derive_secret(self.options.seed, spec.name)
        self.nodes.append(RunningNode(spec, key.address, owner, url, token, service))

    async def _start_services(self) -> None:
        common: dict[str, Any] = {"rpc_url": self.rpc_url, "deployment": self.deployment_path}
        router_port, verifier_port = self._port(ROUTER_PORT), self._port(VERIFIER_PORT)
        self.router_url = f"http://{HOST}:{router_port}"
        settings = router_settings(self.options, port=router_port, redis_url=self._redis_url, **common)
        self._service(
            "router", ["-m", "retally_router", "--config", str(write_config(self.home / "router.toml", settings))]
        )
        urls = {node.spec.name: node.url for node in self.nodes} | {"router": self.router_url}
        if self.options.verifier:
            self.verifier_url = urls["verifier"] = f"http://{HOST}:{verifier_port}"
            settings = verifier_settings(self.options, port=verifier_port, **common)
            config = write_config(self.home / "verifier.toml", settings)
            self._service("verifier", ["-m", "retally_verifier", "--config", str(config)])
        for service in self.services.values():
            service.start()
        await asyncio.gather(*(wait_answers(f"{url}/healthz", self.services[name]) for name, url in urls.items()))

    def _service(self, name: str, arguments: list[str]) -> Service:
        log = self.logs / f"{name}.log"
        service = Service(name, [sys.executable, *arguments], log, mark=self.options.mark)
        self.services[name] = service
        return service

    def _party(self, name: str) -> Party:
        return Party(derive_key(self.options.seed, name), self.anvil, self._chain)

    @property
    def _chain(self) -> Chain:
        if self.chain is None:
            raise RuntimeError("the network was not started")
        return self.chain

    @property
    def _redis_url(self) -> str:
        return self.options.redis_url or (self.redis.url if self.redis else "")

    def _engine_url(self, name: str) -> str:
        return self.options.engine_urls.get(name) or self.engines[name].url

    def _port(self, wanted: int) -> int:
        port = free_port(wanted if self.options.familiar_ports else 0, self._ports)
        self._ports.append(port)
        return port

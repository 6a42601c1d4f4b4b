"""Embeddings on a real network: a pooling vLLM behind a node of its own, the stock client, and our own that checks."""

from __future__ import annotations

import asyncio
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from retally import AsyncClient, result_of
from retally.chain.connection import Chain
from retally.chain.deployment import Deployment
from retally.chain.staking import Role
from retally.devnet.configs import node_settings, write_config
from retally.devnet.engine_server import EngineServer, share_cores
from retally.devnet.keys import derive_key, derive_secret
from retally.devnet.network import Network
from retally.devnet.options import RUSD, NodeSpec
from retally.devnet.parties import Party
from retally.devnet.ports import HOST, free_port
from retally.devnet.processes import Service
from retally.devnet.readiness import wait_answers
from retally.inference.chat_format import ChatFormat
from retally.protocol.receipt import JobReceipt

pytestmark = pytest.mark.engine

TEXTS = ["count to three", "count to three again", "a list comprehension makes a list"]
NAME = "embedder"
DIMENSIONS = 256


class EmbeddingNode:
    """One node more in a running network, with an engine that pools."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.engine = EngineServer(
            network.model_dir,
            network.logs,
            mark=network.options.mark,
            model_name=network.model,
            name="engine-embeddings",
            cores=share_cores(1)[0],
            embeds=True,
        )
        self.chain = Chain(network.rpc_url, Deployment.load(network.deployment_path))
        self.key = derive_key(network.options.seed, NAME)
        self.owner = Party(derive_key(network.options.seed, f"{NAME}/owner"), network.anvil, self.chain)
        self.url = f"http://{HOST}:{free_port()}"
        self.service: Service | None = None

    async def start(self) -> None:
        self.engine.launch()
        await self.chain.start()
        await self._register()
        await self.engine.wait_ready()
        spec = NodeSpec(name=NAME, serves="embeddings")
        settings = node_settings(
            self.network.options,
            spec,
            port=int(self.url.rsplit(":", 1)[1]),
            rpc_url=self.network.rpc_url,
            deployment=self.network.deployment_path,
            engine_url=self.engine.url,
        )
        config = write_config(self.network.home / f"{NAME}.toml", settings)
        self.service = Service(
            NAME,
            [sys.executable, "-m", "retally_node", "--config", str(config)],
            self.network.logs / f"{NAME}.log",
            mark=self.network.options.mark,
        )
        self.service.start()
        await wait_answers(f"{self.url}/healthz", self.service)
        await self._listed(True)

    async def _register(self) -> None:
        await self.owner.stake(Role.OPERATOR, 5_000 * RUSD)
        await Party(self.key, self.network.anvil, self.chain).fund(0)
        market = self.network.market
        pair = (market.model_id, market.embeddings_profile_id)
        await self.owner.register_node(self.key, *pair, self.url, is_juror=False)

    async def _listed(self, wanted: bool) -> None:
        async with httpx.AsyncClient(timeout=30) as client, asyncio.timeout(60):
            while True:
                nodes = (await client.get(f"{self.network.router_url}/retally/v1/nodes")).json()["nodes"]
                if wanted == any(node["node"] == self.key.address and node["alive"] for node in nodes):
                    return
                await asyncio.sleep(0.2)

    async def settled(self) -> dict[str, Any]:
        token = derive_secret(self.network.options.seed, NAME)
        async with httpx.AsyncClient(timeout=60) as client:
            headers = {"authorization": f"Bearer {token}"}
            answer = await client.post(f"{self.url}/retally/v1/admin/settle", headers=headers)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    async def stop(self) -> None:
        # The network is the session's: nobody else shall find this node in it.
        if self.service is not None:
            await self.owner.send(self.chain.registry.revoke_node(self.key.address))
            await self._listed(False)
            await self.service.stop(grace_seconds=8)
        await self.chain.close()
        await self.engine.stop()


@pytest.fixture(scope="module")
def node(devnet: Network) -> Iterator[EmbeddingNode]:
    with asyncio.Runner() as runner:
        built = EmbeddingNode(devnet)
        try:
            runner.run(built.start())
            yield built
        finally:
            runner.run(built.stop())


async def test_the_stock_client_gets_the_engines_vectors_for_the_price_of_their_input(
    node: EmbeddingNode, devnet: Network, model_dir: Path
) -> None:
    async with openai.AsyncOpenAI(base_url=f"{devnet.router_url}/v1", api_key=devnet.api_key, timeout=60) as client:
        floats = await client.embeddings.create(model=devnet.model, input=TEXTS, encoding_format="float")
        plain = await client.embeddings.with_raw_response.create(model=devnet.model, input=TEXTS)
        # Completions go on as before beside it, to the other nodes.
        chat = await client.chat.completions.create(
            model=devnet.model, messages=[{"role": "user", "content": "count"}], max_tokens=4
        )
    ids = ChatFormat.load(model_dir).render_inputs({"inputs": TEXTS})
    async with httpx.AsyncClient(timeout=60) as direct:
        body = {"model": devnet.model, "input": ids, "encoding_format": "base64"}
        rows = (await direct.post(f"{node.engine.url}/v1/embeddings", json=body)).json()["data"]
    wanted = [np.frombuffer(b64decode(row["embedding"]), "<f4") for row in rows]
    got = np.array([row.embedding for row in floats.data], dtype=np.float32)
    assert got.shape == (3, DIMENSIONS)
    assert np.allclose(got, wanted, atol=1e-4)
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-4)
    extra: Any = floats.model_extra
    receipt = JobReceipt.from_wire(extra["retally"]["receipts"][0]["receipt"])
    assert receipt.node == node.key.address
    assert receipt.fee == sum(map(len, ids)) * devnet.options.prices.price_in // 10**6
    assert plain.headers["x-retally-cost"] == extra["retally"]["cost"] == str(receipt.fee)
    assert floats.usage.prompt_tokens == sum(map(len, ids))
    said: Any = chat.model_extra
    assert said["retally"]["node"] != node.key.address


async def test_our_client_checks_the_vectors_and_the_node_collects_for_them(
    node: EmbeddingNode, devnet: Network, model_dir: Path, tmp_path: Path
) -> None:
    deployment = Deployment.load(devnet.deployment_path)
    render = ChatFormat.load(model_dir).render
    options: Any = {"deployment": deployment, "home": tmp_path, "renderer": render}
    async with AsyncClient(base_url=devnet.router_url, api_key=devnet.api_key, **options) as client:
        result = result_of(await client.embeddings.create(model=devnet.model, input=TEXTS * 20))
    assert result.checks.complete
    assert result.checks.passed, result.checks.failures
    settled = await node.settled()
    assert int(settled["paid"]) >= result.cost

"""A real network whose parts die or hang: each request still gets an answer in time, in OpenAI's envelope."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.slow_engine import SlowEngine

from retally.devnet.network import Network
from retally.devnet.options import NetworkOptions, NodeSpec
from retally.devnet.processes import Service
from retally.devnet.readiness import wait_answers, wait_routable

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PATIENCE_SECONDS = 3.0
# What a machine may be late when it is busy.
SLACK_SECONDS = 12.0
DEEP = b"[" * 100_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(engine_url: str) -> AsyncIterator[SlowEngine]:
    """The session's engine, behind a relay that can hold it."""
    async with SlowEngine(engine_url) as relay:
        yield relay


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network(engine: SlowEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    """Two nodes and an impatient router."""
    home = tmp_path_factory.mktemp("hostile")
    nodes = (NodeSpec(name="node1"), NodeSpec(name="node2"))
    options = NetworkOptions(
        home=home, nodes=nodes, engine_urls={"honest": engine.url}, verifier=False, poll_seconds=0.25
    )
    names = ("FIRST_BYTE", "IDLE", "CHAIN", "CLIENT", "STANDING")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            seconds = 0.1 if name == "STANDING" else PATIENCE_SECONDS
            patch.setenv(f"RETALLY_ROUTER_{name}_SECONDS", str(seconds))
        async with Network(options) as running:
            yield running


@pytest_asyncio.fixture(loop_scope="module")
async def http(network: Network) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the payer's key."""
    headers = {"authorization": f"Bearer {network.api_key}"}
    async with httpx.AsyncClient(base_url=network.router_url, headers=headers, timeout=60, trust_env=False) as built:
        yield built


def body_of(network: Network, **changes: Any) -> dict[str, Any]:
    """A short request."""
    messages = [{"role": "user", "content": "What is a list?"}]
    return {"model": network.model, "messages": messages, "max_tokens": 12, **changes}


async def ask(http: httpx.AsyncClient, network: Network, **changes: Any) -> httpx.Response:
    """The answer to a short request, within the time that it may take."""
    began = time.monotonic()
    answer = await http.post("/v1/chat/completions", json=body_of(network, **changes))
    assert time.monotonic() - began < PATIENCE_SECONDS + SLACK_SECONDS
    return answer


def check_error(answer: httpx.Response, status: int, codes: set[str]) -> None:
    """The error in full form."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] in codes
    assert all(error[name] for name in ("message", "hint", "type"))
    assert "param" in error
    assert answer.headers["x-request-id"]
    assert "Traceback" not in answer.text


@contextmanager
def stopped(service: Service) -> Iterator[None]:
    """The process hangs: its connections stay open and silent."""
    os.kill(service.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(service.pid, signal.SIGCONT)


async def until(http: httpx.AsyncClient, network: Network, status: int, words: str = "") -> httpx.Response:
    """The first answer of that kind; asks until it comes."""
    deadline = time.monotonic() + 60
    while True:
        answer = await http.post("/v1/chat/completions", json=body_of(network))
        if answer.status_code == status and words in answer.text:
            return answer
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.5)


class TestInput:
    async def test_deep_json_ends_no_process(self, http: httpx.AsyncClient, network: Network) -> None:
        check_error(await http.post("/v1/chat/completions", content=DEEP), 400, {"invalid_json"})
        for node in network.nodes:
            for path in ("jobs", "vouchers", "answers"):
                answer = await http.post(f"{node.url}/retally/v1/{path}", content=DEEP)
                check_error(answer, 400, {"invalid_json"})
        assert (await ask(http, network)).status_code == 200

    async def test_what_the_model_can_not_read(self, http: httpx.AsyncClient, network: Network) -> None:
        text = {"model": network.model, "max_tokens": 4}
        for prompt in ([], [10**6], [2**31], [-1]):
            answer = await http.post("/v1/completions", json={**text, "prompt": prompt})
            check_error(answer, 400, {"bad_request"})
        check_error(await ask(http, network, logit_bias={str(10**6): 1}), 400, {"unsupported_parameter"})
        assert (await ask(http, network, max_tokens=10**9)).status_code == 200

    async def test_a_client_that_never_reads_holds_up_nobody(self, http: httpx.AsyncClient, network: Network) -> None:
        body = body_of(network, stream=True, n=8, max_tokens=400, min_tokens=300)
        request = http.build_request("POST", "/v1/chat/completions", json=body)
        unread = await http.send(request, stream=True)
        assert (await ask(http, network)).status_code == 200
        await unread.aclose()


class TestDeadParts:
    async def test_a_frozen_engine(self, engine: SlowEngine, http: httpx.AsyncClient, network: Network) -> None:
        engine.freeze()
        try:
            check_error(await ask(http, network), 504, {"upstream_timeout"})
        finally:
            engine.thaw()
        await until(http, network, 200)

    async def test_a_hanging_chain(self, http: httpx.AsyncClient, network: Network) -> None:
        await asyncio.sleep(0.2)
        with stopped(network.anvil.service):
            # A chain that is told to stop may still answer what reaches it first.
            check_error(await until(http, network, 503), 503, {"chain_unreachable"})
        await until(http, network, 200)

    async def test_a_hanging_store(self, http: httpx.AsyncClient, network: Network) -> None:
        assert network.redis is not None
        with stopped(network.redis.service):
            began = time.monotonic()
            answer = await http.post("/v1/chat/completions", json=body_of(network))
            assert time.monotonic() - began < 30
            check_error(answer, 503, {"unavailable"})
        await until(http, network, 200)

    async def test_no_node_alive(self, http: httpx.AsyncClient, network: Network) -> None:
        for node in network.nodes:
            node.service.kill()
        check_error(await ask(http, network), 503, {"node_unavailable"})
        check_error(await until(http, network, 503, "is alive"), 503, {"node_unavailable"})
        for node in network.nodes:
            node.service.start()
            await wait_answers(f"{node.url}/healthz", node.service)
        await wait_routable(network.router_url, network.model, len(network.nodes), network.services["router"])
        await until(http, network, 200)

    async def test_a_dead_chain(self, http: httpx.AsyncClient, network: Network) -> None:
        # Last: a chain that died comes back as another chain.
        network.anvil.service.kill()
        await asyncio.sleep(0.2)
        check_error(await ask(http, network), 503, {"chain_unreachable"})

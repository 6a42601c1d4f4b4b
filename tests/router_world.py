"""A whole router over fake nodes, a fake chain and a real Redis, behind real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
from redis.asyncio import Redis

from retally.protocol.eip712 import Address, Domain, SigningKey, keccak
from retally.protocol.encoding import to_hex
from retally.protocol.key_limits import KeyLimits
from retally.protocol.key_text import create_key_text, personal_digest
from retally_router.bootstrap import Outside, Router, build_router
from retally_router.joined_redis import open_store
from retally_router.native_server import bound
from retally_router.node_api import HttpNodeApi
from retally_router.ports import RegisteredNode
from retally_router.serve import native_server
from retally_router.settings import RouterSettings
from tests.fakes_router import FakeNode
from tests.fakes_world import DOMAIN, MODEL, NOW, FakeChainView, FakeClock, served

DATABASE = 5
ASSET = Address("0x" + "a5" * 20)


class AnyNode(Protocol):
    """An ASGI node that knows how the chain lists it."""

    url: str

    def registered(self) -> RegisteredNode: ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


YEAR = 365 * 86_400


@dataclass
class World:
    """A running router, its surroundings and a client with a funded API key."""

    router: Router
    chain: FakeChainView
    clock: FakeClock
    nodes: list[Any]
    redis: Redis
    http: httpx.AsyncClient
    url: str
    payer: SigningKey
    domain: Domain = DOMAIN
    api_key: str = ""

    @property
    def auth(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"}

    async def create_key(
        self, payer: SigningKey, *, cap: int = 10**9, fund: int = 10**9, limits: dict[str, int] | None = None
    ) -> dict[str, Any]:
        """A key of that payer, authorised and funded on the fake chain."""
        expiry, deadline = self.clock.time + YEAR, self.clock.time + 600
        text = create_key_text(self.domain, payer.address, cap, expiry, deadline, KeyLimits.from_wire(limits))
        body = {
            "payer": payer.address,
            "cap": str(cap),
            "expiry": expiry,
            "deadline": deadline,
            "limits": limits,
            "signature": to_hex(payer.sign(personal_digest(text))),
        }
        answer = await self.http.post("/retally/v1/keys", json=body)
        assert answer.status_code == 201, answer.text
        if fund:
            self.chain.fund(payer.address, fund, cap)
        return dict(answer.json())

    async def ask(self, body: dict[str, Any] | None = None, **changes: Any) -> httpx.Response:
        """One chat completion."""
        return await self.http.post(
            "/v1/chat/completions", json={**chat(), **(body or {}), **changes}, headers=self.auth
        )

    async def settled(self) -> bool:
        """Whether every node got its vouchers."""
        return await self.router.sender.drain(10.0)


def check_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The answer is that error in full form."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["type"]
    assert "param" in error
    assert answer.headers["x-request-id"]
    return dict(error)


def chat(**changes: Any) -> dict[str, Any]:
    """An ordinary chat request."""
    messages = [{"role": "user", "content": "count again and again"}]
    return {"model": MODEL, "messages": messages, "max_tokens": 20, "seed": 1, **changes}


def settings_of(redis_url: str, **changes: Any) -> RouterSettings:
    """Settings fit for tests: quick polls, no waiting."""
    values: dict[str, Any] = {
        "rpc_url": "http://127.0.0.1:1",
        "deployment": Path("unused.json"),
        "redis_url": redis_url,
        "key": "0x" + "11" * 32,
        "poll_seconds": 0.1,
        "node_stale_seconds": 0.5,
        "standing_seconds": 0.05,
        "first_byte_seconds": 3.0,
        "idle_seconds": 3.0,
        "connect_seconds": 1.0,
        "audited_owners": 1,
        "log_level": "ERROR",
    }
    return RouterSettings(**{**values, **changes})


def database_url(redis_url: str, number: int) -> str:
    """One numbered database of that Redis."""
    return redis_url.rstrip("/").removesuffix("/0") + f"/{number}"


@asynccontextmanager
async def serving(router: Router, settings: RouterSettings) -> AsyncIterator[str]:
    """The router behind the server that its settings name, on a free port."""
    if settings.server == "asgi":
        async with served(router.app, lifespan="on") as url:
            yield url
        return
    listener = bound("127.0.0.1", 0, shared=False)
    async with native_server(router.app, settings).running(listener):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def running_router(
    redis_url: str, nodes: Sequence[AnyNode], *, domain: Domain = DOMAIN, now: int = NOW, **changes: Any
) -> AsyncIterator[World]:
    """A router of its own over nodes that listen already and over what that database holds; it has no key yet."""
    async with AsyncExitStack() as stack:
        redis = Redis.from_url(redis_url)
        stack.push_async_callback(redis.aclose)
        chain, clock = FakeChainView([node.registered() for node in nodes]), FakeClock()
        clock.time = now
        settings = settings_of(redis_url, **changes)
        api = HttpNodeApi(
            connect_seconds=settings.connect_seconds,
            first_byte_seconds=settings.first_byte_seconds,
            idle_seconds=settings.idle_seconds,
        )
        store = open_store(redis_url, 5.0)
        stack.push_async_callback(store.aclose)
        outside = Outside(chain, clock, domain, store, api, SigningKey.from_hex("11" * 32), ASSET)
        router = build_router(settings, outside)
        url = await stack.enter_async_context(serving(router, settings))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20, trust_env=False))
        yield World(router, chain, clock, list(nodes), redis, http, url, SigningKey(keccak(b"payer")), domain)


@asynccontextmanager
async def router_world(
    redis_url: str,
    nodes: Sequence[AnyNode] | None = None,
    *,
    keep: bool = False,
    domain: Domain = DOMAIN,
    now: int = NOW,
    **changes: Any,
) -> AsyncIterator[World]:
    """A running world; its Redis database is empty at first unless it is kept."""
    async with AsyncExitStack() as stack:
        database = database_url(redis_url, DATABASE)
        if not keep:
            async with Redis.from_url(database) as redis:
                await redis.flushdb()
        fakes: list[Any] = list(nodes) if nodes is not None else [FakeNode("a"), FakeNode("b"), FakeNode("c")]
        for node in fakes:
            node.url = await stack.enter_async_context(served(node))
        running = running_router(database, fakes, domain=domain, now=now, **changes)
        world = await stack.enter_async_context(running)
        world.api_key = (await world.create_key(world.payer))["apiKey"]
        yield world

"""The ground a router stands on in tests: a chain in memory, a clock that stands still, servers on free ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from retally.errors import ChainUnreachable
from retally.protocol.eip712 import Address, Domain, keccak
from retally_router.ports import RegisteredNode, Standing

DOMAIN = Domain(31337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
MODEL = "retally/fake"
MODEL_ID = keccak(b"model")
PROFILE_ID = keccak(b"profile")
NOW = 1_800_000_000
STOP_ID = 7
VOCABULARY = 50


class FakeClock:
    """Chain time that stands still."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> int:
        return self.time


@dataclass
class FakeChainView:
    """What the chain says; `dead` makes its RPC unreachable."""

    registered: list[RegisteredNode] = field(default_factory=list)
    standings: dict[Address, Standing] = field(default_factory=dict)
    dead: bool = False

    async def standing(self, payer: Address, signer: Address) -> Standing:
        if self.dead:
            raise ChainUnreachable("the RPC does not answer")
        return self.standings.get(payer, Standing(0, 0, 0, 0))

    async def nodes(self) -> Sequence[RegisteredNode]:
        if self.dead:
            raise ChainUnreachable("the RPC does not answer")
        return self.registered

    def fund(self, payer: Address, balance: int = 10**9, cap: int = 10**9, used: int = 0) -> None:
        self.standings[payer] = Standing(balance, used, cap, NOW + 300 * 86_400)


@asynccontextmanager
async def served(app: Any, *, lifespan: str = "off") -> AsyncIterator[str]:
    """The app behind a real server on a free port."""
    config = uvicorn.Config(
        app,
        port=0,
        log_level="error",
        lifespan=lifespan,
        access_log=False,
        http="httptools",
        ws="none",
        timeout_graceful_shutdown=1,
    )  # type: ignore[arg-type]  # a literal
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        if task.done():
            task.result()
            raise RuntimeError("the server did not start")
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task

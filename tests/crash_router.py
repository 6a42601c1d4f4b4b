"""A router with a client, in a process of its own, that is killed at a named point of a named phase."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retally.crash_points import arm
from retally.protocol.encoding import to_hex
from retally.protocol.key_text import personal_digest, revoke_key_text
from tests.fakes_router import FakeNode
from tests.fakes_world import DOMAIN, NOW
from tests.router_world import World, chat, running_router

SHORT, LONG = 3, 60
# So low that the router's generous bound of a prompt prepays no output: each answer needs vouchers of its own.
PRICE_IN = 20_000
# Many routers share the machine: none of them is to give its nodes up for being slow.
PATIENCE: dict[str, Any] = {
    "node_stale_seconds": 60.0,
    "first_byte_seconds": 30.0,
    "idle_seconds": 30.0,
    "connect_seconds": 30.0,
}


def make_nodes() -> list[FakeNode]:
    """One node that breaks off after six tokens, one that is slow enough to be caught in mid-answer."""
    return [FakeNode("a", PRICE_IN, die_after=6), FakeNode("b", PRICE_IN, seconds_per_token=0.004)]


@dataclass(frozen=True)
class Life:
    """One life of a router: where its store and nodes are, and where it ends: `[leased:]POINT[@PHASE]`.

    Only one that is `leased` has its jobs take from a block; else each asks for itself, and meets each point.
    """

    redis_url: str
    node_urls: tuple[str, ...]
    folder: Path
    end: str

    @property
    def lease_jobs(self) -> int:
        """The router's setting."""
        return 32 if self.end.startswith("leased:") else 0

    def nodes(self) -> list[FakeNode]:
        """The nodes that run elsewhere, as the chain lists them."""
        nodes = make_nodes()
        for node, url in zip(nodes, self.node_urls, strict=True):
            node.url = url
        return nodes

    def enter(self, phase: str) -> None:
        """Arms the point if this is its phase."""
        point, _, wanted = self.end.removeprefix("leased:").partition("@")
        if phase == (wanted or "start"):
            arm(point)
            if point.startswith("random"):
                seconds = random.Random(point).uniform(0.0, 0.3)
                threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def saw(self, kind: str, value: object) -> None:
        """Writes down what came out of the router."""
        with (self.folder / "seen.jsonl").open("a") as file:
            file.write(json.dumps([kind, value]) + "\n")

    def seen(self, kind: str) -> list[Any]:
        """What an earlier life wrote down."""
        path = self.folder / "seen.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [value for line in lines for name, value in [json.loads(line)] if name == kind]


async def ask(world: World, life: Life, node: FakeNode, seed: int, **changes: Any) -> None:
    """One job, that node first; what its client got of receipts is written down."""
    body = chat(seed=seed, stream=True, provider={"order": [node.address]}, **changes)
    async with world.http.stream("POST", "/v1/chat/completions", json=body, headers=world.auth) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                receipt = json.loads(line[6:]).get("retally", {}).get("receipt")
                if receipt is not None:
                    life.saw("receipt", receipt)


async def recover(world: World) -> None:
    """A payer without funds asks: no job runs, but what earlier lives left open is taken up, until none is left."""
    world.chain.fund(world.payer.address, 0)
    # Until the router has forgotten what the chain said before.
    await asyncio.sleep(0.1)
    answer = await world.ask()
    assert answer.status_code in (401, 402), answer.text
    payer = world.payer.address
    for _ in range(300):
        holds = [name for name in await world.redis.hkeys(f"retally:{{{payer}}}:credit") if name.startswith(b"hold:")]
        if not holds and not await world.redis.hlen(f"retally:{{{payer}}}:open"):
            break
        await asyncio.sleep(0.05)
    assert await world.settled()


async def _first_life(life: Life) -> None:
    life.enter("start")
    broken, slow = nodes = life.nodes()
    async with running_router(life.redis_url, nodes, credit_lease_jobs=life.lease_jobs, **PATIENCE) as world:
        key = await world.create_key(world.payer)
        world.api_key = key["apiKey"]
        life.saw("key", world.api_key)
        life.enter("short")
        await ask(world, life, slow, 1, max_tokens=SHORT)
        assert await world.settled()
        life.enter("streams")
        await asyncio.gather(*[ask(world, life, slow, seed, max_tokens=LONG) for seed in (2, 3, 4)])
        assert await world.settled()
        life.enter("cut")
        await ask(world, life, broken, 5, max_tokens=20)
        await recover(world)
        life.enter("revoke")
        await _revoke(world, key["keyId"])


async def _revoke(world: World, key_id: str) -> None:
    text = revoke_key_text(DOMAIN, world.payer.address, key_id, NOW + 60)
    headers = {
        "x-retally-deadline": str(NOW + 60),
        "x-retally-signature": to_hex(world.payer.sign(personal_digest(text))),
    }
    assert (await world.http.delete(f"/retally/v1/keys/{key_id}", headers=headers)).is_success


async def _second_life(life: Life) -> None:
    life.enter("start")
    async with running_router(life.redis_url, life.nodes(), **PATIENCE) as world:
        (world.api_key,) = life.seen("key")
        await recover(world)


def first_life(life: Life) -> None:
    """Serves, is out of funds, revokes its key."""
    asyncio.run(_first_life(life))


def second_life(life: Life) -> None:
    """Only takes up what the first life left."""
    asyncio.run(_second_life(life))

"""Two routers over one Redis spend one payer's deposit, one of them killed half-way: to the last unit, and no more.

Nodes sign for real and answer at once; the chain is in memory. Each request costs the same; the deposit covers
nine in ten. A request that the kill cut off is sent again under its Idempotency-Key, as a client would.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from redis.asyncio import Redis

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fakes_router import FakeNode  # found beside this folder
from tests.fakes_world import DOMAIN, MODEL, NOW, served
from tests.serve_router import Orders, RouterProcess, free_port, stop

from retally.devnet.redis_server import RedisServer
from retally.protocol.eip712 import SigningKey, keccak
from retally.protocol.encoding import to_hex
from retally.protocol.key_text import create_key_text, personal_digest

PRICE = 100
PER = 1_000_000
YEAR = 365 * 86_400
#: What a client asks again about: no answer, a router that is not ready, a first request that is not known to be over.
AGAIN = (None, 409, 503)


@dataclass
class Spending:
    """One run: what was asked, and how it ended."""

    routers: list[RouterProcess]
    nodes: list[FakeNode]
    requests: int
    deposit: int
    concurrency: int
    kill: str
    redis_url: str
    statuses: Counter[int] = field(default_factory=Counter)
    answered: set[int] = field(default_factory=set)
    cut: set[int] = field(default_factory=set)
    told: Counter[int] = field(default_factory=Counter)
    jobs: set[str] = field(default_factory=set)
    recovery_seconds: float = 0.0
    go: asyncio.Event = field(default_factory=asyncio.Event)
    half: asyncio.Event = field(default_factory=asyncio.Event)
    api_key: str = ""

    async def run(self) -> float:
        """Sends all requests; answers the seconds it took."""
        began, numbers = time.monotonic(), itertools.count()
        self.go.set()
        async with aiohttp.ClientSession() as http:
            self.api_key = await create_key(http, self.routers[0].url)
            workers = [self._work(http, numbers) for _ in range(self.concurrency)]
            await asyncio.gather(*workers, self._interrupt(http, numbers))
        return time.monotonic() - began

    async def _work(self, http: aiohttp.ClientSession, numbers: Any) -> None:
        for number in iter(lambda: next(numbers), None):
            if number >= self.requests:
                return
            await self._ask_until_told(http, number)
            await self.go.wait()

    async def _ask_until_told(self, http: aiohttp.ClientSession, number: int) -> None:
        at = number % len(self.routers)
        while (status := await self._ask(http, at, number)) in AGAIN:
            # Cut off, told that this router is not ready or that the dead one's work is not known yet.
            at = (at + 1) % len(self.routers)
            self.told[status or 0] += 1
            await asyncio.sleep(0.05 if status is None else 0.25)
        assert status is not None
        self.statuses[status] += 1
        if self.statuses.total() == self.requests // 2:
            self.half.set()

    async def _ask(self, http: aiohttp.ClientSession, at: int, number: int) -> int | None:
        messages = [{"role": "user", "content": f"count {number}"}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 1, "seed": number}
        headers = {"authorization": f"Bearer {self.api_key}", "idempotency-key": f"request-{number}"}
        try:
            async with http.post(f"{self.routers[at].url}/v1/chat/completions", json=body, headers=headers) as answer:
                await answer.read()
                if answer.status == 200:
                    self.answered.add(number)
                    self.jobs.add(answer.headers["x-retally-job"])
                return answer.status
        except aiohttp.ClientConnectorError:
            return None
        except aiohttp.ClientError:
            self.cut.add(number)
            return None

    async def _interrupt(self, http: aiohttp.ClientSession, numbers: Any) -> None:
        if self.kill == "none":
            return
        await self.half.wait()
        self.routers[1].signal(getattr(signal, self.kill))
        self.go.clear()
        await asyncio.to_thread(self.routers[1].wait)
        # What the dead router left is owed until its nodes have said what of it they did.
        began = time.monotonic()
        async with Redis.from_url(self.redis_url) as redis:
            left = await held_on_lane(redis, 1)
            await asyncio.to_thread(self.routers[1].start)
            while left & await held_on_lane(redis, 1) or await redis.hlen(_key("open")):
                await self._ask_until_told(http, next(numbers))
                await asyncio.sleep(0.25)
        self.recovery_seconds = time.monotonic() - began
        self.go.set()


async def held_on_lane(redis: Any, lane: int) -> set[bytes]:
    """The jobs and leases that hold something there."""
    found = await redis.hgetall(_key("credit"))
    return {name for name, value in found.items() if name.startswith(b"hold:") and value.endswith(b"|%d" % lane)}


def _key(kind: str) -> str:
    return f"retally:{{{payer_key().address}}}:{kind}"


async def create_key(http: aiohttp.ClientSession, url: str, name: bytes = b"payer") -> str:
    """The API key of that payer."""
    payer = payer_key(name)
    text = create_key_text(DOMAIN, payer.address, 2**50, NOW + YEAR, NOW + 600)
    body = {"payer": payer.address, "cap": str(2**50), "expiry": NOW + YEAR, "deadline": NOW + 600}
    signed = {**body, "signature": to_hex(payer.sign(personal_digest(text)))}
    async with http.post(f"{url}/retally/v1/keys", json=signed) as answer:
        return str((await answer.json())["apiKey"])


def payer_key(name: bytes = b"payer") -> SigningKey:
    """A payer, by name."""
    return SigningKey(keccak(name))


async def measure(requests: int, concurrency: int, kill: str, folder: Path, lease_jobs: int = 32) -> dict[str, Any]:
    """One run as figures."""
    covered = requests * 9 // 10
    nodes = [FakeNode(name, 0, PRICE * PER) for name in ("a", "b")]
    async with AsyncExitStack() as stack:
        redis = RedisServer(folder / "redis", mark=str(folder))
        await redis.start()
        stack.push_async_callback(redis.stop)
        for node in nodes:
            node.url = await stack.enter_async_context(served(node))
        routers = [RouterProcess(_orders(redis.url, number, nodes, covered, lease_jobs), folder) for number in range(2)]
        stack.callback(stop, routers)
        for router in routers:
            await asyncio.to_thread(router.start)
        spending = Spending(routers, nodes, requests, covered * PRICE, concurrency, kill, redis.url)
        seconds = await spending.run()
        return _figures(spending, seconds)


def _orders(redis_url: str, number: int, nodes: list[FakeNode], covered: int, lease_jobs: int) -> Orders:
    patience = {"node_stale_seconds": 60.0, "first_byte_seconds": 30.0, "idle_seconds": 30.0, "connect_seconds": 30.0}
    deposits: dict[str, int] = {payer_key().address: covered * PRICE}
    urls = {node.name: node.url for node in nodes}
    # A hedged job may bill at both its nodes, and on a busy machine many are late: here each costs the same.
    more = {**patience, "lane_lease_seconds": 2.0, "hedge_share": 0.0, "credit_lease_jobs": lease_jobs}
    return Orders(redis_url, free_port(), number, urls, deposits, 0, PRICE * PER, more)


def _figures(spending: Spending, seconds: float) -> dict[str, Any]:
    served_count, refused = spending.statuses[200], spending.statuses[402]
    promised = sum(line.best for node in spending.nodes for line in node.lines.values())
    billed = sum(line.cum_to for node in spending.nodes for line in node.lines.values())
    return {
        "requests": spending.requests,
        "concurrency": spending.concurrency,
        "signal": spending.kill,
        "deposit": spending.deposit,
        "promised": promised,
        "billed": billed,
        "price": PRICE,
        "answered": served_count,
        "refused402": refused,
        "otherStatuses": {str(code): n for code, n in spending.statuses.items() if code not in (200, 402)},
        "paid": billed // PRICE,
        "jobs": len(spending.jobs),
        "cutOff": len(spending.cut),
        "cutOffAndAnswered": len(spending.cut & spending.answered),
        "told503": spending.told[503],
        "told409": spending.told[409],
        "recoverySeconds": round(spending.recovery_seconds, 1),
        "seconds": round(seconds, 1),
    }


def faults_of(figures: dict[str, Any]) -> list[str]:
    """What is wrong with a run; nothing, if it is as it must be."""
    checks = {
        "more promised than deposited": figures["promised"] <= figures["deposit"],
        "less promised than deposited": figures["promised"] == figures["deposit"],
        "the answers are not what was paid for": figures["answered"] == figures["jobs"] == figures["paid"],
        "other than one in ten refused": figures["refused402"] == figures["requests"] // 10,
        "other statuses than 200 and 402": not figures["otherStatuses"],
    }
    return [what for what, is_fine in checks.items() if not is_fine]


def main() -> int:
    """Runs, prints, and fails if money went astray."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--signal", choices=["SIGKILL", "SIGTERM", "none"], default="SIGKILL")
    parser.add_argument("--lease-jobs", type=int, default=32, help="credit_lease_jobs; 0 asks for each job")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="retally-deposit-") as folder:
        figures = asyncio.run(measure(args.requests, args.concurrency, args.signal, Path(folder), args.lease_jobs))
    figures["faults"] = faults_of(figures)
    for name, value in figures.items():
        print(f"{name:15} {value}")
    if args.json:
        print(json.dumps(figures))
    return 1 if figures["faults"] else 0


if __name__ == "__main__":
    raise SystemExit(main())

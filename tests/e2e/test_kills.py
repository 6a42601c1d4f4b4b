"""Ten kill -9 of each service with streams open: no voucher is lost, no token is paid twice, every book balances."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import RedisError
from tests.e2e.books import (
    billed_tokens,
    check_collected,
    check_escrow,
    check_tiling,
    count_open,
    read_books,
    read_router,
    read_verdicts,
    shown_best,
)

from chain_logs import Logs
from recompute_audit_points import recompute
from retally.chain.audits import unpack_verdicts
from retally.devnet.network import Network
from retally.devnet.options import NetworkOptions
from retally.devnet.processes import Service
from retally.devnet.readiness import wait_answers
from retally.protocol.case import VerdictKind
from retally.protocol.pricing import PER
from retally.protocol.voucher import ChannelId

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

SEED = 20_261_121
KILLS = 10
STREAMS = 4
LATEST_SECONDS = 1.5
REST_SECONDS = 90
AUDIT_SECONDS = 90
SLACK_TOKENS = 64
QUESTIONS = ("What is a generator?", "How do I read a file?", "What does zip do?", "What is a lambda?")


@dataclass
class Answers:
    """What clients saw."""

    whole: dict[bytes, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    truncated: list[list[int]] = field(default_factory=list)
    #: The most that was open at each node at once: a dead router's streams count until they are settled.
    most_open: Counter[str] = field(default_factory=Counter)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    """A network of its own, since others would not like what happens to it; its Redis keeps what it acknowledged."""
    home = tmp_path_factory.mktemp("kills")
    options = NetworkOptions(home=home, engine_urls={"honest": engine_url}, durable_redis=True, poll_seconds=0.25)
    async with Network(options) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(network: Network) -> AsyncIterator[openai.AsyncOpenAI]:
    """The unmodified client, without retries: what goes wrong shows."""
    url = f"{network.router_url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=network.api_key, max_retries=0, timeout=120) as built:
        yield built


@pytest.fixture(scope="module")
def answers() -> Answers:
    """All answers of this module."""
    return Answers()


class Acknowledged:
    """Follows the best voucher of every channel as the nodes show it, which must never fall, and what is open."""

    def __init__(self, network: Network, most_open: Counter[str]) -> None:
        self._network = network
        self._most_open = most_open
        self.best: dict[ChannelId, int] = {}
        #: Ends it; a cancellation that falls into a client's reconnecting may be lost there.
        self.is_enough = asyncio.Event()

    async def follow(self) -> None:
        """Look again and again until that is enough."""
        assert self._network.redis is not None
        store = Redis.from_url(self._network.redis.url, decode_responses=True)
        async with httpx.AsyncClient(timeout=5, trust_env=False) as http, store:
            while not self.is_enough.is_set():
                with suppress(httpx.TransportError):
                    await self.look(http)
                with suppress(RedisError):
                    self._most_open |= await count_open(store, self._network.payer.address)
                await asyncio.sleep(0.05)

    async def look(self, http: httpx.AsyncClient) -> None:
        """Each channel once."""
        for node in self._network.nodes:
            for channel in read_books(self._network, node).channels:
                shown = await shown_best(http, node, channel.id)
                assert shown >= self.best.get(channel.id, 0), f"{node.spec.name} lost a voucher of {channel.id}"
                self.best[channel.id] = shown


async def ask(client: openai.AsyncOpenAI, model: str, number: int, answers: Answers) -> None:
    """One streamed answer: whole, or ended by an error that the client raises."""
    messages: Any = [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}]
    ids: list[int] = []
    finish, job = None, b""
    try:
        stream = await client.chat.completions.create(
            model=model, messages=messages, stream=True, max_tokens=160, seed=number, extra_body={"min_tokens": 120}
        )
        async for chunk in stream:
            extra = (chunk.model_extra or {}).get("retally") or {}
            if extra.get("ids"):
                assert extra["outputFrom"] == len(ids), "a token is missing or comes twice"
                ids += extra["ids"]
            job = bytes.fromhex(extra["jobId"][2:]) if "jobId" in extra else job
            finish = next((choice.finish_reason for choice in chunk.choices if choice.finish_reason), finish)
    except (openai.APIError, httpx.TransportError) as error:
        answers.refused.append(f"{type(error).__name__}: {error}")
        return
    if finish in ("stop", "length"):
        answers.whole[job] = len(ids)
    else:
        answers.truncated.append(ids)


def victims_of(network: Network, kind: str) -> list[tuple[Service, str]]:
    """The processes of a kind and where each says that it is well."""
    if kind == "node":
        return [(node.service, f"{node.url}/healthz") for node in network.nodes]
    url = {"router": network.router_url, "verifier": network.verifier_url}[kind]
    return [(network.services[kind], f"{url}/healthz")]


async def kill_once(network: Network, kind: str, chance: random.Random) -> None:
    """Kill one service at a random moment, start it again and wait until it answers."""
    await asyncio.sleep(chance.uniform(0, LATEST_SECONDS))
    if kind == "redis":
        assert network.redis is not None
        network.redis.service.kill()
        await network.redis.start()
        return
    service, url = chance.choice(victims_of(network, kind))
    service.kill()
    service.start()
    await wait_answers(url, service)


async def settle_once(network: Network, chance: random.Random) -> None:
    """Let a node collect at a random moment, so that collecting and auditing are hit too."""
    await asyncio.sleep(chance.uniform(0, LATEST_SECONDS))
    with suppress(httpx.TransportError):
        await network.settle(chance.choice(network.nodes))


async def come_to_rest(network: Network, client: openai.AsyncOpenAI, answers: Answers) -> None:
    """Ask until an answer is whole, then wait until nothing of the payer is open and everything is paid."""
    deadline = time.monotonic() + REST_SECONDS
    whole = len(answers.whole)
    while len(answers.whole) == whole:
        assert time.monotonic() < deadline, answers.refused[-3:]
        await ask(client, network.model, len(answers.refused), answers)
        await asyncio.sleep(0.1)
    while owed := await what_is_owed(network):
        assert time.monotonic() < deadline, owed
        await asyncio.sleep(0.2)


async def what_is_owed(network: Network) -> list[str]:
    """Whatever the payer's side still has to do."""
    assert network.redis is not None
    books = await read_router(network.redis.url, network.payer.address)
    found = [f"{books.open_jobs} open jobs"] if books.open_jobs else []
    found += [f"hold {job} of {amount}" for job, amount in books.holds.items()]
    for node in network.nodes:
        for row in read_books(network, node).channels:
            if row.id.payer == network.payer.address and row.best < row.last_cum:
                found.append(f"{node.spec.name} lane {row.id.lane}: {row.best} of {row.last_cum}")
    return found


async def check_router(network: Network, most_open: Counter[str]) -> None:
    """Promises beyond what was earned stay within what streams that ran at once may run ahead."""
    assert network.redis is not None
    assert network.chain is not None
    books = await read_router(network.redis.url, network.payer.address)
    slack = SLACK_TOKENS * network.options.prices.price_out // PER + 1
    earned = {row.id: row.last_cum for node in network.nodes for row in read_books(network, node).channels}
    for channel, promised in books.promised.items():
        assert books.closed[channel] == earned.get(channel, 0)
        ahead = max(STREAMS, most_open[channel.node]) * (slack + largest_fee(network))
        assert earned.get(channel, 0) <= promised <= earned.get(channel, 0) + ahead
    for signer, promised in books.promised_by_signer.items():
        assert promised == sum(amount for channel, amount in books.promised.items() if channel.signer == signer)


def largest_fee(network: Network) -> int:
    """What a stream that was open at a crash may have been promised in advance."""
    prices = network.options.prices
    return (64 * prices.price_in + 160 * prices.price_out) // PER


@pytest.mark.parametrize("kinds", [("node", "verifier"), ("router",), ("redis",)], ids="+".join)
async def test_ten_kills_lose_nothing(
    kinds: tuple[str, ...], network: Network, client: openai.AsyncOpenAI, answers: Answers
) -> None:
    assert network.chain is not None
    chances = {kind: random.Random(f"{SEED}:{kind}") for kind in kinds}
    collecting = random.Random(f"{SEED}:collect")
    acknowledged = Acknowledged(network, answers.most_open)
    following = asyncio.create_task(acknowledged.follow())
    for number in range(KILLS):
        asked = [ask(client, network.model, number * STREAMS + stream, answers) for stream in range(STREAMS)]
        kills = [kill_once(network, kind, chance) for kind, chance in chances.items()]
        await asyncio.gather(*kills, settle_once(network, collecting), *asked)
    await come_to_rest(network, client, answers)
    acknowledged.is_enough.set()
    await following
    assert acknowledged.best
    assert answers.truncated == []
    assert answers.whole

    before = [read_books(network, node) for node in network.nodes]
    await network.settle_all()
    after = [read_books(network, node) for node in network.nodes]
    for old, new in zip(before, after, strict=True):
        check_tiling(new)
        await check_collected(network.chain, network.payer.address, old, new)
    billed = billed_tokens(after)
    assert {job: tokens for job, tokens in answers.whole.items() if billed.get(job, 0) > tokens} == {}
    await check_router(network, answers.most_open)
    check_escrow(network)


async def test_every_commit_is_audited_once_and_clean(network: Network) -> None:
    assert network.chain is not None
    deadline = time.monotonic() + AUDIT_SECONDS
    while left := await unaudited(network):
        assert time.monotonic() < deadline, f"no verdicts on {left}"
        await asyncio.sleep(1)
    verdicts = await read_verdicts(network.chain)
    assert verdicts
    assert all(len(reveals) == 1 for reveals in verdicts.values())
    points = [point for (packed,) in verdicts.values() for point in unpack_verdicts(packed)]
    assert VerdictKind.MISMATCH not in [point.verdict for point in points]


async def unaudited(network: Network) -> set[int]:
    """Commits with drawn points that no verdict is on, or whose seed nobody fixed."""
    assert network.chain is not None
    logs = await asyncio.to_thread(Logs, network.rpc_url, network.deployment_path)
    commits = await asyncio.to_thread(recompute, logs, None)
    drawn = {int(commit["commitId"]) for commit in commits if not commit["seed"] or commit["points"]}
    return drawn - (await read_verdicts(network.chain)).keys()

"""A node is killed in mid-answer: the one stream goes on elsewhere, token for token, and each node is paid its own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from tests.e2e.books import (
    NodeBooks,
    billed_tokens,
    check_collected,
    check_escrow,
    check_tiling,
    read_books,
    read_router,
)
from tests.slow_engine import SlowEngine

from retally.devnet.network import Network, RunningNode
from retally.devnet.options import NetworkOptions, NodeSpec
from retally.devnet.readiness import wait_answers, wait_routable
from retally.inference.chat_format import ChatFormat
from retally.inference.vllm_engine import VllmEngine
from retally.protocol.job import JobParams, client_seed_from_int, job_seed
from retally.protocol.margins import Replayed, robust_margins
from retally.protocol.pricing import PER
from retally.protocol.receipt import FinishReason, JobReceipt

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

KILLS = 10
NAT = 0.2
LEAST, MOST = 120, 150
LAST_KILL = 100
# Slow enough that a kill hits the stream and not its end.
SECONDS_PER_TOKEN = 0.015
REST_SECONDS = 60
QUESTIONS = ("What is a generator?", "How do I read a file?", "What does zip do?", "What is a lambda?")


@dataclass
class Answer:
    """What a client got."""

    node: str = ""
    job: bytes = b""
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish: str | None = None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    """Two nodes on one slowed engine."""
    home = tmp_path_factory.mktemp("failover")
    nodes = (NodeSpec(name="node1"), NodeSpec(name="node2"))
    async with SlowEngine(engine_url, seconds_per_event=SECONDS_PER_TOKEN) as engine:
        options = NetworkOptions(
            home=home, nodes=nodes, engine_urls={"honest": engine.url}, verifier=False, poll_seconds=0.25
        )
        async with Network(options) as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(network: Network) -> AsyncIterator[openai.AsyncOpenAI]:
    """The unmodified client, without retries."""
    url = f"{network.router_url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=network.api_key, max_retries=0, timeout=120) as built:
        yield built


def body_of(network: Network, seed: int) -> dict[str, Any]:
    """A seeded request with a long answer."""
    messages = [{"role": "user", "content": QUESTIONS[seed % len(QUESTIONS)]}]
    body = {"model": network.model, "messages": messages, "seed": seed, "max_tokens": MOST}
    return {**body, "temperature": 0.8, "extra_body": {"min_tokens": LEAST}}


async def undisturbed(client: openai.AsyncOpenAI, network: Network, seed: int) -> Answer:
    """The plain answer."""
    answer = await client.chat.completions.create(**body_of(network, seed))
    choice, extra = answer.choices[0], dict((answer.model_extra or {})["retally"])
    return Answer(extra["node"], b"", extra["ids"]["0"], choice.message.content or "", choice.finish_reason)


async def with_a_kill(client: openai.AsyncOpenAI, network: Network, seed: int, after: int) -> Answer:
    """The streamed answer, its node killed once so many tokens came."""
    raw = await client.chat.completions.with_raw_response.create(stream=True, **body_of(network, seed))
    answer = Answer(node=raw.headers["x-retally-node"])
    victim = node_of(network, answer.node)
    async for chunk in raw.parse():
        extra = (chunk.model_extra or {}).get("retally") or {}
        if extra.get("ids"):
            assert extra["outputFrom"] == len(answer.ids), "a token is missing or comes twice"
            answer.ids += extra["ids"]
        if "jobId" in extra:
            answer.job = bytes.fromhex(extra["jobId"][2:])
        for choice in chunk.choices:
            answer.text += choice.delta.content or ""
            answer.finish = choice.finish_reason or answer.finish
        if len(answer.ids) >= after:
            victim.service.kill()
    return answer


def node_of(network: Network, address: str) -> RunningNode:
    """The node with that address."""
    return next(node for node in network.nodes if node.address == address)


async def revive(network: Network, node: RunningNode) -> None:
    """Start a killed node and wait until jobs go there again."""
    assert not node.service.is_running
    node.service.start()
    await wait_answers(f"{node.url}/healthz", node.service)
    await wait_routable(network.router_url, network.model, len(network.nodes), network.services["router"])


async def margin_of(engine: VllmEngine, chat: ChatFormat, network: Network, seed: int, ids: list[int]) -> float:
    """How much better the sampler's best token was than the answer's, at its worst."""
    body = body_of(network, seed)
    extra = body.pop("extra_body")
    date = time.strftime("%Y-%m-%d", time.gmtime())
    params = JobParams.from_openai({**body, **extra}, "chat", MOST, date)
    prompt = chat.render({"messages": body["messages"]}, date)
    scores = await engine.score([*prompt, *ids], len(prompt))
    replayed = Replayed(params, job_seed(client_seed_from_int(seed), 0), prompt, [], ids, chat.eos_ids)
    return float(robust_margins(replayed, scores).max())


async def wait_paid(network: Network) -> list[NodeBooks]:
    """All books, once nothing of the payer is open and everything that was earned is promised."""
    assert network.redis is not None
    deadline = time.monotonic() + REST_SECONDS
    while True:
        books = [read_books(network, node) for node in network.nodes]
        owed = [row for one in books for row in one.channels if row.best < row.last_cum]
        router = await read_router(network.redis.url, network.payer.address)
        if not owed and not router.open_jobs and not router.holds:
            return books
        assert time.monotonic() < deadline, (owed, router)
        await asyncio.sleep(0.2)


def check_receipts(network: Network, answer: Answer, books: list[NodeBooks]) -> None:
    """Two receipts of two nodes: the killed one's up to where it had been promised money, then the other's."""
    mine = [receipt for one in books for receipt in one.receipts if receipt.job_id == answer.job]
    first, second = sorted(mine, key=lambda receipt: receipt.output_from)
    assert first.node == answer.node != second.node
    assert (first.finish_reason, FinishReason(second.finish_reason).name.lower()) == (FinishReason.MOVED, answer.finish)
    assert 0 == first.output_from <= first.output_to <= second.output_from < second.output_to == len(answer.ids)
    for receipt in (first, second):
        assert receipt.fee <= fee_at_most(network, receipt)


def fee_at_most(network: Network, receipt: JobReceipt) -> int:
    """The prices of its own tokens: what another node wrote is read as cached input."""
    prices, own = network.options.prices, receipt.output_to - receipt.output_from
    read = receipt.output_from + receipt.prompt_tokens
    price = prices.price_cached if receipt.output_from else prices.price_in
    return 0 if own == 0 else (read * price + own * prices.price_out) // PER


async def test_ten_kills_in_mid_stream(
    network: Network, client: openai.AsyncOpenAI, engine_url: str, model_dir: Path
) -> None:
    assert network.chain is not None
    engine, chat, chance = VllmEngine(engine_url, network.model), ChatFormat.load(model_dir), random.Random(20_261_121)
    seeds = range(KILLS)
    expected = await asyncio.gather(*(undisturbed(client, network, seed) for seed in seeds))
    answers: list[Answer] = []
    for seed in seeds:
        answer = await with_a_kill(client, network, seed, chance.randint(1, LAST_KILL))
        await revive(network, node_of(network, answer.node))
        answers.append(answer)

    assert [answer.finish for answer in answers] == [whole.finish for whole in expected]
    same = [(one.ids, one.text) == (whole.ids, whole.text) for one, whole in zip(answers, expected, strict=True)]
    assert sum(same) >= KILLS - 1
    for seed in [seed for seed in seeds if not same[seed]]:
        assert await margin_of(engine, chat, network, seed, answers[seed].ids) <= NAT
    await engine.close()

    books = await wait_paid(network)
    for answer in answers:
        check_receipts(network, answer, books)
    assert all(billed_tokens(books)[answer.job] <= len(answer.ids) for answer in answers)
    await network.settle_all()
    for before, node in zip(books, network.nodes, strict=True):
        after = read_books(network, node)
        check_tiling(after)
        await check_collected(network.chain, network.payer.address, before, after)
    check_escrow(network)

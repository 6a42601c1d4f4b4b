"""Streamed answers that are hit in the middle, and what their receipts must say afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai
from tests.e2e.books import NodeBooks, read_books, read_router

from retally.devnet.network import Network, RunningNode
from retally.devnet.readiness import wait_answers, wait_routable
from retally.inference.chat_format import ChatFormat
from retally.inference.vllm_engine import VllmEngine
from retally.protocol.job import JobParams, client_seed_from_int, job_seed
from retally.protocol.margins import Replayed, robust_margins
from retally.protocol.pricing import PER
from retally.protocol.receipt import FinishReason, JobReceipt

LEAST, MOST = 120, 150
#: A margin up to which an answer may go another way than the undisturbed one: another kernel would, too.
NAT = 0.2
#: Slow enough that a kill hits the stream and not its end.
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
    #: Seconds between one chunk and the next.
    gaps: list[float] = field(default_factory=list)


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


async def with_a_kill(
    client: openai.AsyncOpenAI, network: Network, seed: int, after: int, kill: Callable[[RunningNode], None]
) -> Answer:
    """The streamed answer, its node killed once so many tokens came."""
    raw = await client.chat.completions.with_raw_response.create(stream=True, **body_of(network, seed))
    answer = Answer(node=raw.headers["x-retally-node"])
    victim, last, is_hit = node_of(network, answer.node), time.monotonic(), False
    async for chunk in raw.parse():
        answer.gaps.append(time.monotonic() - last)
        last += answer.gaps[-1]
        extra = (chunk.model_extra or {}).get("retally") or {}
        if extra.get("ids"):
            assert extra["outputFrom"] == len(answer.ids), "a token is missing or comes twice"
            answer.ids += extra["ids"]
        if "jobId" in extra:
            answer.job = bytes.fromhex(extra["jobId"][2:])
        for choice in chunk.choices:
            answer.text += choice.delta.content or ""
            answer.finish = choice.finish_reason or answer.finish
        if len(answer.ids) >= after and not is_hit:
            kill(victim)
            is_hit = True
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


async def margins_of(engine: VllmEngine, chat: ChatFormat, network: Network, seed: int, ids: list[int]) -> list[float]:
    """How much better the sampler's best token was than the answer's, token by token."""
    body = body_of(network, seed)
    extra = body.pop("extra_body")
    date = time.strftime("%Y-%m-%d", time.gmtime())
    params = JobParams.from_openai({**body, **extra}, "chat", MOST, date)
    prompt = chat.render({"messages": body["messages"]}, date)
    scores = await engine.score([*prompt, *ids], len(prompt))
    replayed = Replayed(params, job_seed(client_seed_from_int(seed), 0), prompt, [], ids, chat.eos_ids)
    return [float(margin) for margin in robust_margins(replayed, scores)]


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

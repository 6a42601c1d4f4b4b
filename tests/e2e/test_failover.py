"""A node is killed in mid-answer: the one stream goes on elsewhere, token for token, and each node is paid its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
import pytest_asyncio
from tests.e2e.books import billed_tokens, check_collected, check_escrow, check_tiling, read_books
from tests.e2e.streams import (
    NAT,
    SECONDS_PER_TOKEN,
    Answer,
    check_receipts,
    margins_of,
    node_of,
    revive,
    undisturbed,
    wait_paid,
    with_a_kill,
)
from tests.slow_engine import SlowEngine

from retally.devnet.network import Network
from retally.devnet.options import NetworkOptions, NodeSpec
from retally.inference.chat_format import ChatFormat
from retally.inference.vllm_engine import VllmEngine

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

KILLS = 10
LAST_KILL = 100


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    """Two nodes on one slowed engine."""
    home = tmp_path_factory.mktemp("failover")
    nodes = (NodeSpec(name="node1"), NodeSpec(name="node2"))
    async with SlowEngine(engine_url, seconds_per_event=SECONDS_PER_TOKEN) as engine:
        options = NetworkOptions(
            home=home,
            nodes=nodes,
            engine_urls={"honest": engine.url},
            verifier=False,
            poll_seconds=0.25,
            # The other tests' routers are served over ASGI.
            router_settings={"server": "native"},
        )
        async with Network(options) as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(network: Network) -> AsyncIterator[openai.AsyncOpenAI]:
    """The unmodified client, without retries."""
    url = f"{network.router_url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=network.api_key, max_retries=0, timeout=120) as built:
        yield built


async def test_ten_kills_in_mid_stream(
    network: Network, client: openai.AsyncOpenAI, engine_url: str, model_dir: Path
) -> None:
    assert network.chain is not None
    engine, chat, chance = VllmEngine(engine_url, network.model), ChatFormat.load(model_dir), random.Random(20_261_121)
    seeds = range(KILLS)
    expected = await asyncio.gather(*(undisturbed(client, network, seed) for seed in seeds))
    answers: list[Answer] = []
    for seed in seeds:
        answer = await with_a_kill(
            client, network, seed, chance.randint(1, LAST_KILL), lambda node: node.service.kill()
        )
        await revive(network, node_of(network, answer.node))
        answers.append(answer)

    assert [answer.finish for answer in answers] == [whole.finish for whole in expected]
    same = [(one.ids, one.text) == (whole.ids, whole.text) for one, whole in zip(answers, expected, strict=True)]
    assert sum(same) >= KILLS - 1
    for seed in [seed for seed in seeds if not same[seed]]:
        assert max(await margins_of(engine, chat, network, seed, answers[seed].ids)) <= NAT
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

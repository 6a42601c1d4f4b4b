"""A real node on a real chain and a real engine: a paid job streamed and plain, collected, and audited."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tomli_w
from tests.conftest import RunningAnvil
from tests.e2e.real_node import (
    ADMIN,
    NODE,
    PAYER,
    RUSD,
    SESSION,
    VERIFIER,
    RealNode,
    Session,
    free_port,
    prepare,
    wait_until_up,
)

from retally.chain.connection import Chain
from retally.chain.deployment import Deployment
from retally.chain.events import EventReader, collected_of
from retally.chain.transactions import TxSender
from retally.inference.chat_format import ChatFormat
from retally.protocol.answer import AnswerContext, check_answer, find_deviation
from retally.protocol.audit_points import drawn_points
from retally.protocol.case import AnswerRequest
from retally.protocol.encoding import keccak
from retally.protocol.receipt import JobReceipt
from retally.protocol.scored_rows import ScoredRows
from retally.protocol.wire import AnswerBundle, SignedAnswerRequest

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def node(
    anvil: RunningAnvil,
    chain_deployment: Path,
    engine_url: str,
    model_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RealNode]:
    folder = tmp_path_factory.mktemp("node")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    real = RealNode(url, anvil.url, Deployment.load(chain_deployment), model_dir)

    async def set_up() -> None:
        async with real.chain() as chain:
            await prepare(chain, model_dir, url)

    asyncio.run(set_up())
    settings = {
        "rpc_url": anvil.url,
        "deployment": str(chain_deployment),
        "key": "0x" + NODE.secret.hex(),
        "port": port,
        "engine_url": engine_url,
        "model_dir": str(model_dir),
        "data_dir": str(folder / "data"),
        "price_in": 2 * RUSD,
        "price_cached": RUSD,
        "price_out": 6 * RUSD,
        "max_context": 1024,
        "admin_token": ADMIN,
        "poll_seconds": 0.3,
    }
    config = folder / "node.toml"
    config.write_text(tomli_w.dumps(settings))
    log = folder / "node.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "retally_node", "--config", str(config)], stdout=output, stderr=output
        )
    try:
        wait_until_up(process, url, log)
        yield real
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
async def client(node: RealNode) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=node.url, timeout=60) as opened:
        yield opened


def text_of(frames: list[dict[str, Any]]) -> str:
    return "".join(c["delta"].get("content", "") for frame in frames for c in frame["choices"])


async def test_streamed_and_plain_give_the_same_text_for_the_same_cost(
    node: RealNode, client: httpx.AsyncClient
) -> None:
    plain = await Session(node, client, 1).plain()
    frames = await Session(node, client, 2).streamed()
    assert text_of(frames) == plain["choices"][0]["message"]["content"] != ""
    assert frames[-1]["retally"]["cost"] == plain["retally"]["cost"]
    assert frames[-1]["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]


async def test_first_frame_comes_before_the_eighth_token(node: RealNode, client: httpx.AsyncClient) -> None:
    frames = await Session(node, client, 3).streamed(min_tokens=48)
    carried = [frame["retally"] for frame in frames if frame["retally"].get("ids")]
    assert len(carried[0]["ids"]) < 8
    assert len(carried) > 8


async def test_scores_a_transcript(node: RealNode, client: httpx.AsyncClient) -> None:
    session = Session(node, client, 4)
    answer = await session.plain()
    scored = await session.plain(2 * 10**5, max_tokens=1, prompt_logprobs=64)
    scores = scored["retally"]["promptLogprobs"]
    assert scores["start"] == 1
    rows = ScoredRows.from_wire(scores, 1, answer["usage"]["prompt_tokens"] - 1)
    assert rows.top_ids.shape[1] == 64
    assert (np.diff(rows.top_logprobs, axis=1) <= 0).all()


async def test_collects_and_answers_the_audit_of_a_drawn_point(node: RealNode, client: httpx.AsyncClient) -> None:
    session = Session(node, client, 5)
    costs = [int((await session.plain(10**6, min_tokens=48))["retally"]["cost"]) for _ in range(8)]
    settled = await client.post("/retally/v1/admin/settle", headers={"authorization": f"Bearer {ADMIN}"})
    assert settled.status_code == 200, settled.text
    state = (await client.get(f"/retally/v1/channels/{PAYER.address}/{SESSION.address}/5")).json()
    assert int(state["lastCumTo"]) == sum(costs)
    chat_format = ChatFormat.load(node.model_dir)
    async with node.chain() as chain:
        channel = session.voucher(0)[0].channel
        assert await chain.escrow.channel(channel) == sum(costs)
        bundles = await audited(node, chain, client, int(settled.json()["commits"][0]))
    assert bundles
    for context, bundle in bundles:
        check_answer(context, bundle)
        assert find_deviation(bundle, chat_format.render, chat_format.eos_ids) is None


async def audited(
    node: RealNode, chain: Chain, client: httpx.AsyncClient, commit_id: int
) -> list[tuple[AnswerContext, AnswerBundle]]:
    """Fix the seed of a commit, draw its points, and ask the node for each."""
    events = await EventReader(chain, ("Escrow",)).read(0, await chain.block_number())
    found = [collected_of(event) for event in events if event.name == "Collected"]
    collected = next(item for item in found if item.commit.id == commit_id)
    await node.mine(chain, 20)
    await TxSender(chain, VERIFIER).send(chain.audits.fix_seed(collected.commit))
    seed = await chain.audits.seed_of(commit_id)
    assert seed is not None
    answers = []
    commit = collected.commit
    for point in drawn_points(seed, collected.ranges, commit.node, commit.step):
        request = AnswerRequest(commit.id, point.channel, point.point, VERIFIER.address, chain.clock.now() + 60)
        signed = SignedAnswerRequest(request, VERIFIER.sign(request.digest(chain.domain)))
        response = await client.post("/retally/v1/answers", json=signed.to_wire())
        assert response.status_code == 200, response.text
        context = AnswerContext(chain.domain, commit, collected.ranges[point.range_index], point)
        answers.append((context, AnswerBundle.from_wire(response.json())))
    stranger = SignedAnswerRequest(replace(request, verifier=PAYER.address), PAYER.sign(keccak(b"x")))
    assert (await client.post("/retally/v1/answers", json=stranger.to_wire())).status_code == 401
    return answers


async def test_receipt_is_signed_and_kept(node: RealNode, client: httpx.AsyncClient) -> None:
    answer = await Session(node, client, 6).plain()
    (item,) = answer["retally"]["receipts"]
    receipt = JobReceipt.from_wire(item["receipt"])
    assert receipt.node == NODE.address
    kept = (await client.get(f"/retally/v1/receipts/{answer['retally']['jobId']}")).json()
    assert kept["receipts"] == [item]

"""A real node on a real chain and a real engine: a paid job streamed and plain, collected, and audited."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import tomli_w
from tests.conftest import RunningAnvil

from retally.chain.connection import Chain
from retally.chain.deployment import Deployment
from retally.chain.events import EventReader, collected_of
from retally.chain.staking import Role
from retally.chain.transactions import TxSender
from retally.devnet.catalogue import devnet_market
from retally.inference.chat_format import ChatFormat
from retally.protocol.answer import AnswerContext, check_answer, find_deviation
from retally.protocol.audit_points import drawn_points
from retally.protocol.case import AnswerRequest
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import ZERO_BYTES32, Bytes32, keccak
from retally.protocol.job import Assignment, JobParams, JobRequest, params_hash, prompt_hash
from retally.protocol.merkle import EMPTY_ROOT
from retally.protocol.offer import Offer
from retally.protocol.receipt import JobReceipt
from retally.protocol.voucher import NodeAuth, SignerAuth, Voucher
from retally.protocol.wire import AnswerBundle, JobOptions, JobSubmission, SignedAnswerRequest, SubmittedAssignment

pytestmark = pytest.mark.engine

RUSD = 10**6
ADMIN = "let me in"
START_SECONDS = 90
OWNER, NODE, PAYER, SESSION, VERIFIER = (
    SigningKey(keccak(b"node e2e " + name)) for name in (b"owner", b"node", b"payer", b"session", b"verifier")
)


@dataclass(frozen=True)
class RealNode:
    """A node process and what surrounds it."""

    url: str
    rpc_url: str
    deployment: Deployment
    model_dir: Path

    @asynccontextmanager
    async def chain(self) -> AsyncIterator[Chain]:
        async with Chain(self.rpc_url, self.deployment) as chain:
            yield chain

    async def mine(self, chain: Chain, blocks: int) -> None:
        await chain.rpc.request("anvil_mine", hex(blocks))


async def prepare(chain: Chain, model_dir: Path, endpoint: str) -> None:
    """Money, stake, a registered node, a session signer and a bonded verifier."""
    senders = {}
    for key, amount in ((OWNER, 5_000), (PAYER, 500), (VERIFIER, 2_000), (NODE, 0)):
        await chain.rpc.request("anvil_setBalance", key.address, hex(10**20))
        senders[key.address] = TxSender(chain, key)
        if amount:
            await senders[key.address].send(chain.asset.call("faucet", key.address, amount * RUSD))
    owner, payer, verifier = (senders[key.address] for key in (OWNER, PAYER, VERIFIER))
    await owner.send(chain.asset.approve(chain.staking.address, 5_000 * RUSD))
    await owner.send(chain.staking.stake(Role.OPERATOR, 5_000 * RUSD))
    market = devnet_market(model_dir)
    consent = NodeAuth(OWNER.address, NODE.address, chain.clock.now() + 3600)
    signature = NODE.sign(consent.digest(chain.domain))
    await owner.send(chain.registry.register_node(consent, signature, market.model_id, market.profile_id, endpoint))
    await verifier.send(chain.asset.approve(chain.staking.address, 2_000 * RUSD))
    await verifier.send(chain.staking.stake(Role.VERIFIER, 2_000 * RUSD))
    await payer.send(chain.asset.approve(chain.escrow.address, 500 * RUSD))
    await payer.send(chain.escrow.deposit(PAYER.address, 500 * RUSD))
    now = chain.clock.now()
    auth = SignerAuth(PAYER.address, SESSION.address, 100 * RUSD, now + 20 * 86_400, now + 3600)
    await payer.send(chain.escrow.authorize_signer(auth, SESSION.sign(auth.digest(chain.domain))))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the node ended: {log.read_text()[-3000:]}")
        try:
            httpx.get(f"{url}/healthz")
            return
        except httpx.HTTPError:
            time.sleep(0.2)
    pytest.fail(f"the node did not come up: {log.read_text()[-3000:]}")


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


class Session:
    """A session signer that pays as it streams."""

    def __init__(self, real: RealNode, client: httpx.AsyncClient, lane: int) -> None:
        self.real = real
        self.client = client
        self.lane = lane
        self.domain = real.deployment.domain

    def voucher(self, cumulative: int) -> tuple[Voucher, bytes]:
        voucher = Voucher(PAYER.address, SESSION.address, NODE.address, self.lane, cumulative)
        return voucher, SESSION.sign(voucher.digest(self.domain))

    async def submission(self, *, stream: bool, cumulative: int, **params: Any) -> JobSubmission:
        info = (await self.client.get("/retally/v1/info")).json()
        offer = Offer.from_wire(info["offer"])
        async with self.real.chain() as chain:
            now = chain.clock.now()
        prompt = {"messages": [{"role": "user", "content": "Tell me about the sea."}]}
        job_params = JobParams(**{"max_tokens": 48, "template_date": "2026-11-21", **params})
        nonce = Bytes32(secrets.token_bytes(32))
        request = JobRequest(
            payer=PAYER.address,
            signer=SESSION.address,
            model_id=offer.model_id,
            profile_id=ZERO_BYTES32,
            n=1,
            max_price_in=10**7,
            max_price_cached=10**7,
            max_price_out=10**7,
            prompt_hash=prompt_hash(nonce, prompt),
            params_hash=params_hash(job_params),
            max_output=job_params.max_tokens,
            max_fee=10**6,
            client_seed=Bytes32(bytes(31) + b"\x05"),
            audit_consent=True,
            nonce=nonce,
            deadline=now + 600,
        )
        job_id = request.digest(self.domain)
        assignment = Assignment(
            job_id, SESSION.address, 0, 1, secrets.randbits(48), NODE.address, offer.digest(self.domain), 0, 0, 0,
            EMPTY_ROOT, request.max_fee,
        )  # fmt: skip
        voucher, voucher_signature = self.voucher(cumulative)
        return JobSubmission(
            request=request,
            request_signature=SESSION.sign(job_id),
            prompt=prompt,
            params=job_params,
            assignments=(SubmittedAssignment(assignment, SESSION.sign(assignment.digest(self.domain))),),
            lane=self.lane,
            voucher=voucher,
            voucher_signature=voucher_signature,
            stream=stream,
            options=JobOptions(include_usage=True),
        )

    async def plain(self, cumulative: int = 10**5, **params: Any) -> dict[str, Any]:
        submission = await self.submission(stream=False, cumulative=cumulative, **params)
        response = await self.client.post("/retally/v1/jobs", json=submission.to_wire())
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def streamed(self, cumulative: int = 10**5, **params: Any) -> list[dict[str, Any]]:
        submission = await self.submission(stream=True, cumulative=cumulative, **params)
        frames = []
        async with self.client.stream("POST", "/retally/v1/jobs", json=submission.to_wire()) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    frames.append(json.loads(line[6:]))
        return frames


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
    assert len(scores["claimed"]) == answer["usage"]["prompt_tokens"] - 1
    assert {len(row) for row in scores["topIds"]} == {64}


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

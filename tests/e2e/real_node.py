"""What surrounds a node process in end-to-end tests: money, stake, and a session that pays."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from retally.chain.connection import Chain
from retally.chain.deployment import Deployment
from retally.chain.staking import Role
from retally.chain.transactions import TxSender
from retally.devnet.catalogue import devnet_market
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import ZERO_BYTES32, Bytes32, keccak
from retally.protocol.job import Assignment, JobParams, JobRequest, params_hash, prompt_hash
from retally.protocol.merkle import EMPTY_ROOT
from retally.protocol.offer import Offer
from retally.protocol.voucher import NodeAuth, SignerAuth, Voucher
from retally.protocol.wire import JobOptions, JobSubmission, SubmittedAssignment

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
    await owner.send(chain.registry.set_delegate(NODE.address, True))
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

"""A router and a node in one object, with real keys, signatures, counts and roots; only the model is a toy."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2

from retally.protocol.eip712 import SigningKey, check_signed_by
from retally.protocol.encoding import ZERO_BYTES32, keccak, parse_signature, to_hex
from retally.protocol.job import JobParams, JobRequest, client_seed_from_int, params_hash, prompt_hash
from retally.protocol.offer import Offer
from retally.protocol.openai_request import choices_of_body, prompt_of_body
from retally.protocol.pricing import input_fee_round_down, max_fee
from retally.protocol.voucher import Voucher
from tests.fakes_job import DATE, DOMAIN, MODEL, MODEL_ID, NOW, PROFILE_ID, FakeJob, Line

__all__ = ["API_KEY", "DOMAIN", "MODEL", "FakeMarket", "render"]

API_KEY = "rt-test"


def render(prompt: Any, template_date: str) -> list[int]:
    """The toy template: every byte is a token."""
    if "promptIds" in prompt:
        return list(prompt["promptIds"])
    text = prompt["prompt"] if "prompt" in prompt else "".join(item["content"] for item in prompt["messages"])
    return list(text.encode())


@dataclass
class FakeMarket:
    """Set the attributes to make it dishonest, dead or busy."""

    node_key: SigningKey = field(default_factory=lambda: SigningKey(keccak(b"node")))
    session_key: SigningKey = field(default_factory=lambda: SigningKey(keccak(b"session")))
    text: str = "Counting again is how you know."
    price_in: int = 2_000_000
    price_out: int = 6_000_000
    overbill: int = 0
    wrong_ids: bool = False
    foreign_signature: bool = False
    refuse: list[tuple[int, str]] = field(default_factory=list)
    drop: int = 0
    ask_more: int = 0
    credit: int = 0
    lose_vouchers: int = 0
    lines: dict[tuple[str, str, int], Line] = field(default_factory=dict)
    receipts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    jobs: list[str] = field(default_factory=list)
    vouchers: list[int] = field(default_factory=list)
    unpaid: int = 0
    seen: list[tuple[str, str]] = field(default_factory=list)
    running: dict[str, FakeJob] = field(default_factory=dict)

    @property
    def offer(self) -> Offer:
        return Offer(
            self.node_key.address,
            MODEL_ID,
            PROFILE_ID,
            self.price_in,
            self.price_in // 2,
            self.price_out,
            1024,
            NOW + 900,
        )

    def transport(self) -> httpx2.MockTransport:
        return httpx2.MockTransport(self.handle)

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        self.seen.append((request.method, path))
        if self.drop > 0 and path.endswith("completions"):
            self.drop -= 1
            raise httpx2.ConnectError("dropped", request=request)
        if self.refuse and path.endswith("completions"):
            status, code = self.refuse.pop(0)
            return error(status, code)
        routes: dict[str, Callable[[httpx2.Request], httpx2.Response]] = {
            "/v1/models": self.models,
            "/v1/chat/completions": self.complete,
            "/v1/completions": self.complete,
            "/retally/v1/quotes": self.quote,
            "/retally/v1/nodes": self.nodes,
            "/retally/v1/vouchers": self.vouch,
        }
        if path in routes:
            return routes[path](request)
        if path.startswith(("/v1/receipts/", f"/retally/v1/nodes/{self.offer.node}/receipts/")):
            job_id = path.rsplit("/", 1)[1]
            return httpx2.Response(200, json={"jobId": job_id, "receipts": self.receipts.get(job_id, [])})
        return error(404, "not_found")

    def models(self, request: httpx2.Request) -> httpx2.Response:
        facts = {"nodes": 1, "audited": True, "maxContext": 1024, "priceIn": "2000000", "priceOut": "6000000"}
        model = {"id": MODEL, "object": "model", "retally": facts}
        return httpx2.Response(200, json={"object": "list", "data": [model]})

    def nodes(self, request: httpx2.Request) -> httpx2.Response:
        node = {
            "node": self.offer.node,
            "model": MODEL,
            "offer": self.offer.to_wire(),
            "stake": "1000000000",
            "load": {"running": 0, "waiting": 0},
            "alive": True,
            "routable": True,
        }
        return httpx2.Response(200, json={"nodes": [node]})

    def quote(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        if body["model"] != MODEL:
            return error(404, "model_not_found")
        offer = self.offer
        answer = {
            "quoteId": "q1",
            "node": offer.node,
            "offer": offer.to_wire(),
            "offerSignature": to_hex(self.node_key.sign(offer.digest(DOMAIN))),
            "templateDate": DATE,
            "defaultMaxTokens": 64,
            "now": NOW,
        }
        return httpx2.Response(200, json=answer)

    def vouch(self, request: httpx2.Request) -> httpx2.Response:
        if self.lose_vouchers > 0:
            self.lose_vouchers -= 1
            raise httpx2.ReadTimeout("lost", request=request)
        for item in json.loads(request.content)["vouchers"]:
            self.take_voucher(Voucher.from_wire(item["voucher"]), parse_signature("signature", item["signature"]))
        return httpx2.Response(200, json={"channels": []})

    def take_voucher(self, voucher: Voucher, signature: bytes) -> Line:
        check_signed_by(voucher.digest(DOMAIN), signature, voucher.signer)
        assert voucher.node == self.node_key.address
        line = self.line(voucher.payer, voucher.signer, voucher.lane)
        line.best = max(line.best, voucher.cumulative)
        self.vouchers.append(voucher.cumulative)
        return line

    def line(self, payer: str, signer: str, lane: int) -> Line:
        return self.lines.setdefault((payer, signer, lane), Line())

    def complete(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        endpoint = "chat" if request.url.path.endswith("chat/completions") else "text"
        header = request.headers.get("x-retally-authorization")
        if header is not None and self.ask_more:
            required, self.ask_more = self.ask_more, 0
            return error(402, "voucher_too_low", {"required": str(required)})
        if header is not None:
            job = self.signed_job(body, endpoint, header)
        elif request.headers.get("authorization") == f"Bearer {API_KEY}":
            job = self.keyed_job(body, endpoint)
        else:
            return error(401, "invalid_api_key")
        headers = {"x-retally-job": to_hex(job.job_id)}
        if request.headers.get("x-retally-proof") == "1" and header is None:
            headers["x-retally-proof"] = job.proof()
        if body.get("stream"):
            headers["content-type"] = "text/event-stream"
            return httpx2.Response(200, headers=headers, stream=Frames(job.frames))
        return httpx2.Response(200, headers=headers, json=job.plain())

    def signed_job(self, body: dict[str, Any], endpoint: str, header: str) -> FakeJob:
        content = json.loads(urlsafe_b64decode(header + "=" * (-len(header) % 4)))
        request = JobRequest.from_wire(content["request"])
        signature = parse_signature("requestSignature", content["requestSignature"])
        check_signed_by(request.digest(DOMAIN), signature, request.signer)
        params = JobParams.from_json(content["params"])
        assert params_hash(params) == request.params_hash
        voucher = Voucher.from_wire(content["voucher"])
        line = self.take_voucher(voucher, parse_signature("voucherSignature", content["voucherSignature"]))
        return self.start(body, endpoint, request, signature, params, content["lane"], line, trusted=False)

    def keyed_job(self, body: dict[str, Any], endpoint: str) -> FakeJob:
        key, prompt = self.session_key, prompt_of_body(body, endpoint)
        params = JobParams.from_openai(body, endpoint, 64, DATE)
        nonce, n = keccak(str(len(self.jobs)).encode()), choices_of_body(body)
        prices = self.offer.prices
        request = JobRequest(
            payer=key.address,
            signer=key.address,
            model_id=MODEL_ID,
            profile_id=ZERO_BYTES32,
            n=n,
            max_price_in=prices.price_in,
            max_price_cached=prices.price_cached,
            max_price_out=prices.price_out,
            prompt_hash=prompt_hash(nonce, prompt),
            params_hash=params_hash(params),
            max_output=params.max_tokens,
            max_fee=max_fee(prices, prompt_tokens=1024, max_output=params.max_tokens, n=n),
            client_seed=client_seed_from_int(body.get("seed") or 0),
            audit_consent=True,
            nonce=nonce,
            deadline=NOW + 600,
        )
        line = self.line(key.address, key.address, 0)
        signature = key.sign(request.digest(DOMAIN))
        return self.start(body, endpoint, request, signature, params, 0, line, trusted=True)

    def start(
        self,
        body: dict[str, Any],
        endpoint: str,
        request: JobRequest,
        signature: bytes,
        params: JobParams,
        lane: int,
        line: Line,
        *,
        trusted: bool,
    ) -> FakeJob:
        job_id = request.digest(DOMAIN)
        prompt = prompt_of_body(body, endpoint)
        assert prompt_hash(request.nonce, prompt) == request.prompt_hash
        assert to_hex(job_id) not in self.jobs, "the same job twice"
        self.jobs.append(to_hex(job_id))
        prompt_ids = render(prompt, params.template_date)
        job = FakeJob(self, endpoint, request, signature, params, lane, line, prompt_ids, job_id, trusted, body)
        self.running[to_hex(job_id)] = job
        prepaid = input_fee_round_down(self.offer.prices, prompt_tokens=len(prompt_ids))
        for choice in range(request.n):
            line.open[f"{to_hex(job_id)}/{choice}"] = prepaid if choice == 0 else 0
        assert trusted or line.best >= line.due, f"prepaid {line.best} of {line.due}"
        return job


class Frames(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """The frames, made one by one as they are asked for: vouchers arrive in between."""

    def __init__(self, frames: Callable[[], Iterator[bytes]]) -> None:
        self._frames = frames

    def __iter__(self) -> Iterator[bytes]:
        yield from self._frames()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for frame in self._frames():
            yield frame


def error(status: int, code: str, details: dict[str, Any] | None = None) -> httpx2.Response:
    body: dict[str, Any] = {"message": code, "type": "invalid_request_error", "param": None, "code": code}
    return httpx2.Response(status, json={"error": body | ({"details": details} if details else {})})

"""The requests of scripts/bench_router: plain OpenAI ones, ones with an API key, ones signed by the payer."""

from __future__ import annotations

import json
import secrets
import struct
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench_router_market import DOMAIN, MODEL, NOW, PLENTY, PRICE_IN, PRICE_OUT, YEAR, payer_key
from bench_router_wire import SUBMISSION, Submission
from retally.protocol.encoding import Bytes32, to_hex
from retally.protocol.job import JobParams, JobRequest, client_seed_from_int, params_hash, prompt_hash
from retally.protocol.key_text import create_key_text, personal_digest
from retally.protocol.pricing import PER
from retally.protocol.voucher import Voucher

WORDS = "count again and again, "
PROMPT = (WORDS * 40)[:800]


@dataclass(frozen=True)
class Work:
    """One kind of load."""

    name: str
    tokens: int
    stream: bool
    connections: int
    pace_us: int = 0
    rate: float = 0.0

    def body(self) -> dict[str, Any]:
        """The OpenAI body, about 1 kB."""
        messages = [{"role": "system", "content": "Answer with words."}, {"role": "user", "content": PROMPT}]
        body = {"model": MODEL, "messages": messages, "max_tokens": self.tokens, "stream": self.stream}
        return {**body, "seed": self.pace_us} if self.stream else body

    @property
    def frames(self) -> int:
        """Events that an answer has at least."""
        return self.tokens + 1 if self.stream else 0


def raw_request(body: dict[str, Any], headers: dict[str, str]) -> bytes:
    """A request as it goes over the wire."""
    return raw_post("/v1/chat/completions", json.dumps(body, separators=(",", ":")).encode(), headers)


def raw_post(path: str, content: bytes, headers: dict[str, str]) -> bytes:
    """Any of them."""
    lines = [f"POST {path} HTTP/1.1", "host: bench", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"content-length: {len(content)}", "", ""]).encode() + content


def write_requests(path: Path, requests: Iterable[bytes]) -> Path:
    """The file that the load generator reads."""
    path.write_bytes(b"".join(struct.pack("<I", len(raw)) + raw for raw in requests))
    return path


def submissions(nodes: Iterable[str], work: Work) -> list[bytes]:
    """What a router sent to these nodes last of this kind of load, to be sent to another one without it.

    A node keeps the last ones of all kinds, which are answered at another pace.
    """
    asked = [httpx.get(f"{url}/retally/v1/bodies", trust_env=False).json() for url in nodes]
    bodies = [body.encode() for bodies in asked for body in bodies]
    return [raw_post("/retally/v1/jobs", body, {}) for body in bodies if _is_of(SUBMISSION.decode(body), work)]


def _is_of(job: Submission, work: Work) -> bool:
    return int(job.request.client_seed, 16) == work.pace_us and job.params.max_tokens == work.tokens


def create_api_key(url: str) -> str:
    """An API key of the payer, made over the router's own route."""
    payer, expiry, deadline = payer_key(), NOW + YEAR, NOW + 600
    text = create_key_text(DOMAIN, payer.address, PLENTY, expiry, deadline)
    body = {"payer": payer.address, "cap": str(PLENTY), "expiry": expiry, "deadline": deadline}
    answer = httpx.post(
        f"{url}/retally/v1/keys",
        json={**body, "signature": to_hex(payer.sign(personal_digest(text)))},
        trust_env=False,
    )
    answer.raise_for_status()
    return str(answer.json()["apiKey"])


def signed_requests(url: str, work: Work, count: int, lane: int) -> list[bytes]:
    """Requests that the payer signed, each with a voucher that pays for it and for those before it."""
    body = work.body()
    ask = {**body, "payer": payer_key().address, "signer": payer_key().address, "lane": lane}
    answer = httpx.post(f"{url}/retally/v1/quotes", json=ask, trust_env=False)
    answer.raise_for_status()
    return list(_signed(body, answer.json(), count, lane))


def _signed(body: dict[str, Any], quote: dict[str, Any], count: int, lane: int) -> Iterable[bytes]:
    key, prompt = payer_key(), {"messages": body["messages"]}
    params = JobParams.from_openai(body, "chat", default_max_tokens=512, template_date=quote["templateDate"])
    fee = (4096 * PRICE_IN + params.max_tokens * PRICE_OUT) // PER
    hashed, wire = params_hash(params), params.to_json()
    for number in range(count):
        nonce = Bytes32(secrets.token_bytes(32))
        seed = client_seed_from_int(body["seed"]) if "seed" in body else Bytes32(secrets.token_bytes(32))
        request = JobRequest(
            payer=key.address,
            signer=key.address,
            model_id=Bytes32(bytes.fromhex(quote["modelId"][2:])),
            profile_id=Bytes32(bytes(32)),
            n=1,
            max_price_in=PRICE_IN,
            max_price_cached=PRICE_IN,
            max_price_out=PRICE_OUT,
            prompt_hash=prompt_hash(nonce, prompt),
            params_hash=hashed,
            max_output=params.max_tokens,
            max_fee=fee,
            client_seed=seed,
            audit_consent=True,
            nonce=nonce,
            deadline=NOW + 3600,
        )
        # Ahead by more than the connections there are: they overtake each other.
        voucher = Voucher(key.address, key.address, quote["node"], lane, (number + 2048) * fee)
        content = {
            "quoteId": quote["quoteId"],
            "request": request.to_wire(),
            "requestSignature": to_hex(key.sign(request.digest(DOMAIN))),
            "params": wire,
            "lane": lane,
            "voucher": voucher.to_wire(),
            "voucherSignature": to_hex(key.sign(voucher.digest(DOMAIN))),
        }
        header = urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode().rstrip("=")
        yield raw_request(body, {"x-retally-authorization": header})

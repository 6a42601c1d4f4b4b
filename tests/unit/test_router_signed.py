"""Jobs that come signed by their own signer: what is wrong with one is said before any node hears of it."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.fakes_world import DOMAIN, NOW
from tests.router_world import World, chat, check_error, router_world

from retally.protocol.eip712 import Address, Domain, SigningKey, keccak
from retally.protocol.encoding import to_hex
from retally.protocol.job import JobParams, JobRequest, params_hash, prompt_hash
from retally.protocol.voucher import Voucher


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    async with router_world(redis_url) as built:
        yield built


def signed_header(world: World, domain: Domain = DOMAIN, **changes: Any) -> dict[str, str]:
    """A payer-signed job in full, with something wrong about it."""
    key, nonce = SigningKey(keccak(b"payer")), keccak(b"nonce")
    node = Address(changes.pop("node", world.nodes[0].address))
    params = JobParams(max_tokens=20, template_date="2027-01-15")
    values: dict[str, Any] = {
        "payer": key.address,
        "signer": key.address,
        "model_id": keccak(b"model"),
        "profile_id": bytes(32),
        "n": 1,
        "max_price_in": 10**7,
        "max_price_cached": 10**7,
        "max_price_out": 10**7,
        "prompt_hash": prompt_hash(nonce, {"messages": chat()["messages"]}),
        "params_hash": params_hash(params),
        "max_output": 20,
        "max_fee": 10**6,
        "client_seed": keccak(b"seed"),
        "audit_consent": True,
        "nonce": nonce,
        "deadline": NOW + 600,
    }
    request = JobRequest(**{**values, **changes})
    voucher = Voucher(key.address, key.address, node, 3, 5000)
    header = {
        "request": request.to_wire(),
        "requestSignature": to_hex(key.sign(request.digest(domain))),
        "params": params.to_json(),
        "lane": 3,
        "voucher": voucher.to_wire(),
        "voucherSignature": to_hex(key.sign(voucher.digest(domain))),
        "quoteId": "none",
    }
    return {"x-retally-authorization": urlsafe_b64encode(json.dumps(header).encode()).decode()}


class TestSignedJob:
    async def send(self, world: World, headers: dict[str, str]) -> httpx.Response:
        return await world.http.post("/v1/chat/completions", json=chat(), headers=headers)

    async def test_unreadable(self, world: World) -> None:
        check_error(await self.send(world, {"x-retally-authorization": "?"}), 401, "invalid_authorization")

    async def test_expired(self, world: World) -> None:
        check_error(await self.send(world, signed_header(world, deadline=NOW - 1)), 401, "deadline_passed")

    async def test_foreign_signature(self, world: World) -> None:
        stranger = SigningKey(keccak(b"stranger")).address
        check_error(await self.send(world, signed_header(world, signer=stranger)), 401, "invalid_signature")

    async def test_wrong_chain(self, world: World) -> None:
        headers = signed_header(world, Domain(1, DOMAIN.escrow))
        assert "31337" in check_error(await self.send(world, headers), 401, "invalid_signature")["hint"]

    async def test_other_prompt_than_signed(self, world: World) -> None:
        check_error(await self.send(world, signed_header(world, prompt_hash=keccak(b"other"))), 400, "request_mismatch")

    async def test_no_quote(self, world: World) -> None:
        check_error(await self.send(world, signed_header(world)), 400, "quote_expired")

"""Every bad input gets its documented status, OpenAI's envelope, a request id and a word on what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fakes_router import FakeNode
from tests.fakes_world import DOMAIN, MODEL, NOW
from tests.router_world import World, chat, check_error, router_world

from retally.devnet.redis_server import RedisServer
from retally.protocol.eip712 import SigningKey, keccak
from retally.protocol.encoding import to_hex
from retally.protocol.key_text import list_keys_text, personal_digest, revoke_key_text
from retally_router.ports import Standing


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    async with router_world(redis_url, max_body_bytes=50_000) as built:
        yield built


async def post(world: World, content: bytes, **headers: str) -> httpx.Response:
    return await world.http.post("/v1/chat/completions", content=content, headers={**world.auth, **headers})


class TestBody:
    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"model": NaN}', b"[" * 5000])
    async def test_unparsable(self, world: World, content: bytes) -> None:
        check_error(await post(world, content), 400, "invalid_json")

    async def test_too_large(self, world: World) -> None:
        check_error(await post(world, b" " * 60_000), 413, "payload_too_large")

    async def test_too_large_without_saying_so(self, world: World) -> None:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(60):
                yield b" " * 1000

        answer = await world.http.post("/v1/chat/completions", content=parts(), headers=world.auth)
        check_error(answer, 413, "payload_too_large")

    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"model": 7}, "model"),
            ({"model": None}, "model"),
            ({"messages": "hello"}, "messages"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"messages": ["hello"]}, "messages[0]"),
            ({"stream": "yes"}, "stream"),
            ({"stream_options": {"include_usage": True}}, "stream_options"),
        ],
    )
    async def test_wrong_types(self, world: World, change: dict[str, Any], param: str) -> None:
        assert check_error(await world.ask(change), 400, "bad_request")["param"] == param

    @pytest.mark.parametrize(
        "change",
        [
            {"frobnicate": 1},
            {"tools": [{"type": "function"}]},
            {"response_format": {"type": "json_object"}},
            {"temperature": "hot"},
            {"temperature": 3},
            {"temperature": -1},
            {"top_p": 0},
            {"n": 0},
            {"n": "two"},
            {"max_tokens": 0},
            {"max_tokens": 1.5},
            {"stop": [1]},
            {"stop": [""]},
            {"logit_bias": {"x": 1}},
            {"logit_bias": {"1": 101}},
            {"presence_penalty": 9},
            {"provider": {"colour": "blue"}},
            {"prompt_logprobs": 3},
            {"messages": [{"role": "wizard", "content": "hi"}]},
        ],
    )
    async def test_undefined_parameters(self, world: World, change: dict[str, Any]) -> None:
        check_error(await world.ask(change), 400, "unsupported_parameter")

    async def test_unknown_model(self, world: World) -> None:
        error = check_error(await world.ask(model="nobody/serves-this"), 404, "model_not_found")
        assert "/v1/models" in error["hint"]

    async def test_over_long_prompt(self, world: World) -> None:
        long = [{"role": "user", "content": "x" * 40_000}]
        check_error(await world.ask(messages=long), 400, "context_length_exceeded")

    async def test_price_above_what_the_client_takes(self, world: World) -> None:
        check_error(await world.ask(provider={"max_price": {"completion": 1}}), 400, "price_above_max")


class TestKey:
    async def test_none(self, world: World) -> None:
        answer = await world.http.post("/v1/chat/completions", json=chat())
        assert "keys create" in check_error(answer, 401, "missing_api_key")["hint"]

    @pytest.mark.parametrize("key", ["x", "sk-1234", "rtl-" + "0" * 16 + "-" + "A" * 43, "rtl-zz-é"])
    async def test_bad(self, world: World, key: str) -> None:
        headers = {"authorization": f"Bearer {key}".encode()}
        answer = await world.http.post("/v1/chat/completions", json=chat(), headers=headers)  # type: ignore[arg-type]  # bytes
        check_error(answer, 401, "invalid_api_key")

    async def test_right_id_with_wrong_secret(self, world: World) -> None:
        world.api_key = world.api_key[:-4] + ("AAAA" if not world.api_key.endswith("AAAA") else "BBBB")
        check_error(await world.ask(), 401, "invalid_api_key")

    async def test_revoked(self, world: World) -> None:
        key_id = world.api_key.split("-")[1]
        signature = world.payer.sign(personal_digest(revoke_key_text(DOMAIN, world.payer.address, key_id, NOW + 60)))
        headers = {"x-retally-deadline": str(NOW + 60), "x-retally-signature": to_hex(signature)}
        answer = await world.http.delete(f"/retally/v1/keys/{key_id}", headers=headers)
        assert answer.status_code == 200, answer.text
        check_error(await world.ask(), 401, "invalid_api_key")

    async def test_signer_unknown_to_the_chain(self, world: World) -> None:
        world.chain.standings.clear()
        await asyncio.sleep(0.1)
        check_error(await world.ask(), 401, "signer_not_authorized")

    async def test_signer_that_expires_too_soon(self, world: World) -> None:
        world.chain.standings[world.payer.address] = Standing(10**9, 0, 10**9, NOW + 3600)
        await asyncio.sleep(0.1)
        check_error(await world.ask(), 401, "signer_expired")


class TestKeyManagement:
    async def test_creating_needs_the_payers_signature(self, world: World) -> None:
        body = {"payer": world.payer.address, "cap": "5", "expiry": NOW + 90, "deadline": NOW + 60}
        stranger = SigningKey(keccak(b"stranger"))
        body["signature"] = to_hex(stranger.sign(keccak(b"anything")))
        check_error(await world.http.post("/retally/v1/keys", json=body), 401, "invalid_signature")

    async def test_late_text(self, world: World) -> None:
        body = {"payer": world.payer.address, "cap": "5", "expiry": NOW + 90, "deadline": NOW - 1, "signature": "0x"}
        check_error(await world.http.post("/retally/v1/keys", json=body), 400, "deadline_passed")

    @pytest.mark.parametrize("field", ["payer", "cap", "expiry", "deadline", "signature"])
    async def test_malformed(self, world: World, field: str) -> None:
        body = {"payer": world.payer.address, "cap": "5", "expiry": NOW + 90, "deadline": NOW + 60, "signature": "0x"}
        body[field] = "wrong"
        check_error(await world.http.post("/retally/v1/keys", json=body), 400, "bad_request")

    async def test_list_shows_no_secret(self, world: World) -> None:
        signature = world.payer.sign(personal_digest(list_keys_text(DOMAIN, world.payer.address, NOW + 60)))
        headers = {"x-retally-deadline": str(NOW + 60), "x-retally-signature": to_hex(signature)}
        answer = await world.http.get("/retally/v1/keys", params={"payer": world.payer.address}, headers=headers)
        (key,) = answer.json()["keys"]
        assert key["keyId"] == world.api_key.split("-")[1]
        assert not {"sealed", "nonce", "apiKey"} & key.keys()

    async def test_unknown_key(self, world: World) -> None:
        check_error(await world.http.delete("/retally/v1/keys/0000000000000000"), 404, "not_found")


class TestNodes:
    async def test_none_registered(self, redis_url: str) -> None:
        async with router_world(redis_url, []) as world:
            check_error(await world.ask(), 404, "model_not_found")

    async def test_all_dead(self, world: World) -> None:
        world.chain.registered = [replace(item, endpoint="http://127.0.0.1:9") for item in world.chain.registered]
        await asyncio.sleep(1.5)
        check_error(await world.ask(), 503, "node_unavailable")

    async def test_unaudited_are_left_out(self, redis_url: str) -> None:
        async with router_world(redis_url, [FakeNode("a")], audited_owners=3) as world:
            assert "allow_unaudited" in check_error(await world.ask(), 503, "node_unavailable")["hint"]
            assert (await world.ask(provider={"allow_unaudited": True})).status_code == 200

    async def test_one_that_never_answers(self, redis_url: str) -> None:
        slow = FakeNode("a", seconds_per_token=30)
        async with router_world(redis_url, [slow], first_byte_seconds=0.4) as world:
            body = {"model": MODEL, "prompt": "count", "max_tokens": 5}
            answer = await world.http.post("/v1/completions", json=body, headers=world.auth)
            check_error(answer, 504, "upstream_timeout")

    async def test_one_that_stalls(self, redis_url: str) -> None:
        slow = FakeNode("a", seconds_per_token=30)
        async with router_world(redis_url, [slow], idle_seconds=0.4) as world:
            check_error(await world.ask(), 504, "upstream_timeout")


class TestOnTheNativeServer:
    """What reaches the app through the bridge, and bodies that its own parser limits."""

    @pytest.fixture
    async def native(self, redis_url: str) -> AsyncIterator[World]:
        async with router_world(redis_url, max_body_bytes=50_000, server="native") as built:
            yield built

    async def test_bodies(self, native: World) -> None:
        for content in (b"", b"{", b"[]", b"\xff\xfe", b"null"):
            check_error(await post(native, content), 400, "invalid_json")
        check_error(await post(native, b" " * 60_000), 413, "payload_too_large")

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(60):
                yield b" " * 1000

        answer = await native.http.post("/v1/chat/completions", content=parts(), headers=native.auth)
        check_error(answer, 413, "payload_too_large")

    async def test_routes_of_the_app(self, native: World) -> None:
        check_error(await native.http.get("/v1/nothing"), 404, "not_found")
        check_error(await native.http.get("/v1/chat/completions"), 405, "method_not_allowed")
        check_error(await native.http.post("/v1/chat/completions", json=chat()), 401, "missing_api_key")
        assert (await native.http.get("/healthz", headers={"x-request-id": "mine"})).headers["x-request-id"] == "mine"
        assert (await native.http.get("/metrics")).text.startswith("# HELP")
        assert MODEL in (await native.http.get("/v1/models")).text


class TestRest:
    async def test_unknown_path(self, world: World) -> None:
        check_error(await world.http.get("/v1/nothing"), 404, "not_found")

    async def test_wrong_method(self, world: World) -> None:
        check_error(await world.http.get("/v1/chat/completions"), 405, "method_not_allowed")

    async def test_unknown_receipt(self, world: World) -> None:
        check_error(await world.http.get("/v1/receipts/0x" + "00" * 32), 404, "not_found")
        check_error(await world.http.get("/v1/receipts/7"), 400, "bad_request")

    async def test_unknown_node(self, world: World) -> None:
        answer = await world.http.post("/retally/v1/vouchers", json={"node": "0x" + "11" * 20, "vouchers": []})
        check_error(answer, 404, "not_found")

    async def test_request_id_is_echoed_if_harmless(self, world: World) -> None:
        assert (await world.http.get("/healthz", headers={"x-request-id": "mine"})).headers["x-request-id"] == "mine"
        odd = await world.http.get("/healthz", headers={"x-request-id": "a b"})
        assert odd.headers["x-request-id"].startswith("req_")

    async def test_lost_store_is_503(self, tmp_path: Path) -> None:
        store = RedisServer(tmp_path / "redis", mark=str(tmp_path))
        await store.start()
        try:
            async with router_world(store.url) as world:
                await store.stop()
                check_error(await world.ask(), 503, "unavailable")
                assert (await world.http.get("/healthz")).status_code == 503
        finally:
            await store.stop()

"""Serving a job: text, ids, receipts and money, over the node's real HTTP interface."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from tests.fakes_node import NODE_KEY, Customer, World, open_world

from retally.protocol.encoding import to_hex
from retally.protocol.merkle import ids_root, output_root
from retally.protocol.receipt import Chunk, FinishReason, JobReceipt
from retally.protocol.scored_rows import ScoredRows
from retally.protocol.wire import JobOptions
from retally_node.api import create_app


@asynccontextmanager
async def listening(world: World) -> AsyncIterator[httpx.AsyncClient]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(world.node), log_level="warning", lifespan="off"))
    task = asyncio.create_task(server.serve([sock]))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}", timeout=20) as client:
        yield client
    server.should_exit = True
    await task
    await world.close()


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await open_world(tmp_path)


def frames_of(text: str) -> list[dict[str, Any]]:
    lines = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]" or "error" in json.loads(lines[-1])
    return [json.loads(line) for line in lines if line != "[DONE]"]


def text_of(frames: list[dict[str, Any]], choice: int = 0) -> str:
    own = [c for frame in frames for c in frame.get("choices", ()) if c["index"] == choice]
    return "".join(c["delta"].get("content", "") for c in own)


class TestServe:
    async def test_streamed_and_plain_give_the_same_text_and_cost(self, world: World) -> None:
        customer = Customer()
        async with listening(world) as client:
            plain = await client.post("/retally/v1/jobs", json=(await customer.submission(world.node)).to_wire())
            assert plain.status_code == 200, plain.text
            options = JobOptions(include_usage=True, logprobs=2)
            streamed = await client.post(
                "/retally/v1/jobs",
                json=(await customer.submission(world.node, stream=True, options=options)).to_wire(),
            )
        body, frames = plain.json(), frames_of(streamed.text)
        assert body["choices"][0]["message"]["content"] == text_of(frames)
        assert frames[-1]["retally"]["cost"] == body["retally"]["cost"]
        assert frames[-1]["usage"] == body["usage"]
        assert int(body["retally"]["cost"]) > 0
        content = [
            entry
            for frame in frames[:-1]
            for c in frame["choices"]
            for entry in (c["logprobs"] or {}).get("content", ())
        ]
        assert len(content) == body["usage"]["completion_tokens"]
        assert all(len(entry["top_logprobs"]) == 2 for entry in content)

    async def test_receipt_holds_what_was_streamed(self, world: World) -> None:
        customer = Customer()
        submission = await customer.submission(
            world.node, stream=True, params=customer.params(max_tokens=40, min_tokens=40)
        )
        async with listening(world) as client:
            frames = frames_of((await client.post("/retally/v1/jobs", json=submission.to_wire())).text)
        carried = [frame["retally"] for frame in frames if "ids" in frame["retally"]]
        ids = [token for item in carried for token in item["ids"]]
        quantised = [q for item in carried for q in item["q"]]
        receipt = JobReceipt.from_wire(carried[-1]["receipt"])
        assert (receipt.output_from, receipt.output_to) == (0, len(ids))
        assert receipt.output_root == output_root(0, ids, quantised)
        prompt_ids = world.node.chat_format.render(submission.prompt, "2026-11-21")
        assert receipt.prompt_root == ids_root(prompt_ids)
        assert (receipt.cum_from, receipt.fee) == (0, (len(prompt_ids) * 2_000_000 + len(ids) * 6_000_000) // 10**6)
        chunks = [Chunk.from_wire(item["chunk"]) for item in carried if "chunk" in item]
        assert [chunk.output_to for chunk in chunks] == [16, 32, 40]
        assert chunks[-1].due == receipt.cum_to
        assert carried[0]["promptTokens"] == len(prompt_ids)

    async def test_choices_share_the_prompt_and_tile_the_line(self, world: World) -> None:
        customer = Customer()
        async with listening(world) as client:
            body = (
                await client.post("/retally/v1/jobs", json=(await customer.submission(world.node, n=3)).to_wire())
            ).json()
        assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
        receipts = [JobReceipt.from_wire(item["receipt"]) for item in body["retally"]["receipts"]]
        line = sorted(receipts, key=lambda receipt: receipt.cum_from)
        assert line[0].cum_from == 0
        assert all(a.cum_to == b.cum_from for a, b in itertools.pairwise(line))
        assert len({tuple(body["retally"]["ids"][str(n)]) for n in range(3)}) == 3

    async def test_same_request_again_gets_the_stored_answer(self, world: World) -> None:
        submission = (await Customer().submission(world.node)).to_wire()
        async with listening(world) as client:
            first = (await client.post("/retally/v1/jobs", json=submission)).json()
            again = (await client.post("/retally/v1/jobs", json=submission)).json()
            produced = world.engine.produced
            streamed = frames_of((await client.post("/retally/v1/jobs", json={**submission, "stream": True})).text)
        assert again["choices"][0]["message"] == first["choices"][0]["message"]
        assert again["retally"]["receipts"] == first["retally"]["receipts"]
        assert text_of(streamed) == first["choices"][0]["message"]["content"]
        assert world.engine.produced == produced

    async def test_continuation_goes_on_from_the_exact_token(self, world: World, tmp_path: Path) -> None:
        customer = Customer()
        params = customer.params(max_tokens=30, min_tokens=30, stop=("zzzz",))
        async with listening(world) as client:
            whole = frames_of(
                (
                    await client.post(
                        "/retally/v1/jobs",
                        json=(await customer.submission(world.node, stream=True, params=params)).to_wire(),
                    )
                ).text
            )
            ids = [token for frame in whole for token in frame["retally"].get("ids", ())]
            submission = await customer.submission(world.node, stream=True, params=params)
            offer = (await world.node.offers.current()).offer
            moved = submission.to_wire()
            moved["assignments"] = [customer.assign(submission.request, offer, ids[:10]).to_wire()]
            rest = frames_of((await client.post("/retally/v1/jobs", json=moved)).text)
        assert [token for frame in rest for token in frame["retally"].get("ids", ())] == ids[10:]
        assert text_of(whole).endswith(text_of(rest))
        receipt = JobReceipt.from_wire(rest[-1]["retally"]["receipt"])
        assert (receipt.output_from, receipt.output_to) == (10, 30)
        assert receipt.prefix_root == ids_root(ids[:10])

    async def test_scoring_job_returns_prompt_logprobs(self, world: World) -> None:
        customer = Customer()
        params = customer.params(max_tokens=1, prompt_logprobs=64, endpoint="text")
        submission = await customer.submission(world.node, params=params, prompt={"promptIds": list(range(2, 22))})
        async with listening(world) as client:
            body = (await client.post("/retally/v1/jobs", json=submission.to_wire())).json()
        scores = body["retally"]["promptLogprobs"]
        assert scores["start"] == 1
        rows = ScoredRows.from_wire(scores, 1, 19)
        expected = await world.engine.score(list(range(2, 22)), 1)
        np.testing.assert_array_equal(rows.top_ids, expected.top_ids)
        np.testing.assert_array_equal(rows.top_logprobs, expected.top_logprobs)
        assert scores["claimed"] == to_hex(expected.claimed_logprobs.tobytes())
        assert int(body["retally"]["cost"]) == 20 * 2 + 6


class TestBrokenStreams:
    async def test_client_that_leaves_pays_for_what_was_delivered(self, world: World) -> None:
        world.engine.delay_seconds = 0.02
        customer = Customer()
        submission = await customer.submission(
            world.node, stream=True, params=customer.params(max_tokens=200, min_tokens=200)
        )
        async with listening(world) as client:
            async with client.stream("POST", "/retally/v1/jobs", json=submission.to_wire()) as response:
                async for _ in response.aiter_lines():
                    if world.engine.produced > 20:
                        break
            receipts = []
            for _ in range(100):
                await asyncio.sleep(0.02)
                job_id = "0x" + submission.request.digest(customer.domain).hex()
                receipts = (await client.get(f"/retally/v1/receipts/{job_id}")).json()["receipts"]
                if receipts:
                    break
            assert world.engine.running == 0
        receipt = JobReceipt.from_wire(receipts[0]["receipt"])
        assert receipt.finish_reason == FinishReason.CANCELLED
        assert 10 < receipt.output_to < 60
        assert world.node.channel_state(customer.channel).open == 0

    async def test_engine_failure_ends_in_an_error_event_with_the_receipt(self, world: World) -> None:
        world.engine.fails_after = 10
        customer = Customer()
        async with listening(world) as client:
            response = await client.post(
                "/retally/v1/jobs", json=(await customer.submission(world.node, stream=True)).to_wire()
            )
        last = frames_of(response.text)[-1]
        assert last["error"]["code"] == "engine_unavailable"
        receipt = JobReceipt.from_wire(last["retally"]["receipts"][0]["receipt"])
        assert (receipt.finish_reason, receipt.output_to) == (FinishReason.MOVED, 10)

    async def test_engine_failure_before_the_first_token_is_503_and_free(self, world: World) -> None:
        world.engine.fails_after = 0
        customer = Customer()
        async with listening(world) as client:
            response = await client.post(
                "/retally/v1/jobs", json=(await customer.submission(world.node, stream=True)).to_wire()
            )
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_unavailable"
        assert world.node.channel_state(customer.channel).last_cum_to == 0

    async def test_secured_stream_stops_unpaid_one_chunk_ahead(self, tmp_path: Path) -> None:
        world = await open_world(tmp_path, credit_per_payer=0)
        standing = world.payers.standing_now
        world.payers.standing_now = type(standing)(standing.balance, 0, 10**9, standing.cap_left, standing.expiry)
        customer = Customer()
        submission = await customer.submission(
            world.node, stream=True, cumulative=200, params=customer.params(max_tokens=100, min_tokens=100)
        )
        async with listening(world) as client:
            response = await client.post("/retally/v1/jobs", json=submission.to_wire())
        last = frames_of(response.text)[-1]
        assert last["error"]["code"] == "voucher_too_low"
        receipt = JobReceipt.from_wire(last["retally"]["receipts"][0]["receipt"])
        assert (receipt.finish_reason, receipt.output_to) == (FinishReason.UNPAID, 48)
        assert world.node.channel_state(customer.channel).unpaid > 0


class TestHttp:
    async def test_every_error_has_an_envelope_and_a_request_id(self, world: World) -> None:
        async with listening(world) as client:
            cases = [
                (await client.post("/retally/v1/jobs", content=b"{"), 400, "invalid_json"),
                (await client.post("/retally/v1/jobs", json={}), 400, "bad_request"),
                (await client.post("/retally/v1/jobs", content=b"x" * 5_000_000), 413, "payload_too_large"),
                (await client.get("/nowhere"), 404, "not_found"),
                (await client.get("/retally/v1/jobs"), 405, "bad_request"),
                (await client.get("/retally/v1/receipts/0x12"), 400, "bad_request"),
                (await client.get("/retally/v1/receipts/0x" + "12" * 32), 404, "not_found"),
                (await client.get(f"/retally/v1/channels/0x12/{NODE_KEY.address}/1"), 400, "bad_request"),
                (await client.get(f"/retally/v1/channels/{NODE_KEY.address}/{NODE_KEY.address}/x"), 400, "bad_request"),
                (await client.post("/retally/v1/admin/settle"), 401, "unauthorized"),
                (await client.post("/retally/v1/answers", json=[]), 400, "bad_request"),
            ]
        for response, status, code in cases:
            assert (response.status_code, response.json()["error"]["code"]) == (status, code)
            assert response.headers["x-request-id"]

    async def test_info_health_and_metrics_answer(self, world: World) -> None:
        async with listening(world) as client:
            info = (await client.get("/retally/v1/info", headers={"x-request-id": "mine"})).json()
            assert info["load"] == {"running": 0, "waiting": 0}
            assert info["node"] == NODE_KEY.address
            assert (await client.get("/healthz")).json() == {"ok": True, "problems": []}
            assert "retally_node_uncollected" in (await client.get("/metrics")).text

    async def test_vouchers_count_once_and_strangers_are_not_kept(self, world: World) -> None:
        customer = Customer()
        async with listening(world) as client:
            submission = await customer.submission(world.node, cumulative=500)
            assert (await client.post("/retally/v1/jobs", json=submission.to_wire())).status_code == 200
            for cumulative, best in ((700, "700"), (600, "700")):
                voucher, signature = customer.voucher(cumulative)
                item = {"voucher": voucher.to_wire(), "signature": "0x" + signature.hex()}
                answer = (await client.post("/retally/v1/vouchers", json={"vouchers": [item]})).json()
                assert answer["channels"][0]["best"] == best
            voucher, signature = Customer(lane=9).voucher(5)
            item = {"voucher": voucher.to_wire(), "signature": "0x" + signature.hex()}
            assert (await client.post("/retally/v1/vouchers", json={"vouchers": [item]})).status_code == 404
            forged = {**item, "signature": "0x" + "11" * 64}
            assert (await client.post("/retally/v1/vouchers", json={"vouchers": [forged]})).status_code == 401


class TestShutdown:
    async def test_open_streams_end_as_moved_with_an_error_event(self, world: World) -> None:
        world.engine.delay_seconds = 0.02
        customer = Customer()
        params = customer.params(max_tokens=200, min_tokens=200)
        submission = await customer.submission(world.node, stream=True, params=params)
        async with listening(world) as client:
            streaming = asyncio.create_task(client.post("/retally/v1/jobs", json=submission.to_wire()))
            for _ in range(500):
                await asyncio.sleep(0.01)
                if world.engine.produced >= 20:
                    break
            await world.node.server.shutdown()
            last = frames_of((await streaming).text)[-1]
        assert last["error"]["code"] == "node_unavailable"
        receipt = JobReceipt.from_wire(last["retally"]["receipts"][0]["receipt"])
        assert receipt.finish_reason == FinishReason.MOVED
        assert receipt.output_to >= 19

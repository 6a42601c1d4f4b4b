"""The score route: what the engine keeps flat comes out as the numbers that completions give, in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import pytest
from fastapi import FastAPI
from tests.fakes import FakeEngine
from tests.fakes_held_job import vllm_app
from tests.fakes_world import served
from vllm import SamplingParams
from vllm.logprobs import FlatLogprobs, append_logprobs_for_next_position, create_prompt_logprobs

from retally.errors import BadRequest, EngineUnavailable
from retally.inference.vllm_engine import VllmEngine
from retally.inference.vllm_flags import SCORE_PATH
from retally.inference.vllm_score_route import ScoreRoute

MODEL = "retally/tiny"
IDS = [5, 9, 6, 7, 11]


class FakeClient:
    """What of vLLM's engine the route asks, with the numbers of a toy model."""

    def __init__(self) -> None:
        self.engine = FakeEngine(128)
        self.asked: list[SamplingParams] = []
        self.begun, self.dropped = asyncio.Event(), asyncio.Event()
        self.is_slow = self.is_odd = False
        self.rows_left_out = 0

    async def generate(self, prompt: dict[str, Any], params: SamplingParams, request_id: str) -> AsyncIterator[Any]:
        """The only output of a request that wants no text."""
        self.asked.append(params)
        ids, top = prompt["prompt_token_ids"], params.prompt_logprobs
        assert top is not None
        if max(ids) >= 128:
            raise ValueError(f"Token id {max(ids)} is out of vocabulary")
        if self.is_odd:
            raise TypeError("unhashable")
        if self.is_slow:
            await self._forever()
        yield SimpleNamespace(prompt_logprobs=await self._flat(ids, top))

    async def _forever(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.dropped.set()
            raise

    async def _flat(self, ids: list[int], top: int) -> FlatLogprobs:
        found = create_prompt_logprobs(flat_logprobs=True)
        assert isinstance(found, FlatLogprobs)
        scores = await self.engine.score(ids, 1, top)
        for n in range(len(ids) - 1 - self.rows_left_out):
            known = [ids[n + 1], *scores.top_ids[n].tolist()]
            values = [float(scores.claimed_logprobs[n]), *scores.top_logprobs[n].tolist()]
            append_logprobs_for_next_position(found, known, values, [None] * len(known), 1, top)
        return found


class Serving:
    """Holds the only model's name, as vLLM's own list of models does."""

    def is_base_model(self, name: str) -> bool:
        """Whether it is no adapter."""
        return name == MODEL


@asynccontextmanager
async def engine_of(client: object) -> AsyncIterator[tuple[VllmEngine, str]]:
    app = vllm_app(client.engine if isinstance(client, FakeClient) else FakeEngine(128))
    app.state.engine_client = client
    app.state.openai_serving_models = Serving()
    app.exception_handler(ValueError)(_refused)
    app.add_middleware(ScoreRoute)
    async with served(app, lifespan="on") as url:
        engine = VllmEngine(url, MODEL)
        yield engine, url
        await engine.close()


async def _refused(_request: object, error: Exception) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": {"message": str(error)}}, 400)


async def both_roads(client: FakeClient, start: int, top: int) -> None:
    async with engine_of(client) as (engine, url):
        flat = await engine.score(IDS, start, top)
        assert len(client.asked) == 1
        other = VllmEngine(url, MODEL, asks_score_route=False)
        text = await other.score(IDS, start, top)
        await other.close()
    assert len(client.asked) == 1
    for name in ("top_ids", "top_logprobs", "claimed_logprobs"):
        one, two = getattr(flat, name), getattr(text, name)
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


class TestNumbers:
    @pytest.mark.parametrize("start", [1, 3, len(IDS)])
    @pytest.mark.parametrize("top", [2, 64])
    async def test_are_those_of_completions(self, start: int, top: int) -> None:
        await both_roads(FakeClient(), start, top)

    async def test_ties_are_ordered_alike(self) -> None:
        client = FakeClient()
        # Three values for all tokens: the claimed one ties with some that are likely and some that are left out.
        client.engine.logits = lambda ids: np.arange(128, dtype=np.float32) % 3  # type: ignore[method-assign]
        for top in (1, 2, 50, 64):
            await both_roads(client, 1, top)
            client.asked.clear()

    async def test_no_text_and_no_objects_are_asked_for(self) -> None:
        client = FakeClient()
        async with engine_of(client) as (engine, _):
            await engine.score(IDS, 1)
        (params,) = client.asked
        assert (params.detokenize, params.flat_logprobs, params.max_tokens) == (False, True, 1)
        assert (params.temperature, params.prompt_logprobs) == (0, 64)


class TestRefusals:
    async def test_what_the_engine_refuses_is_the_callers_fault(self) -> None:
        async with engine_of(FakeClient()) as (engine, _):
            with pytest.raises(BadRequest, match="out of vocabulary"):
                await engine.score([1, 999], 1)

    @pytest.mark.parametrize("body", [b"?", b"{}", b'{"model": "m", "ids": [1], "start": 0, "top": 64}'])
    async def test_a_malformed_request_is_400(self, body: bytes) -> None:
        async with (
            engine_of(FakeClient()) as (_, url),
            aiohttp.ClientSession() as session,
            session.post(url + SCORE_PATH, data=body) as response,
        ):
            assert response.status == 400

    async def test_an_adapter_is_left_to_completions(self) -> None:
        client = FakeClient()
        async with engine_of(client) as (engine, _):
            engine.model_name = "an/adapter"
            assert (await engine.score(IDS, 1)).top_ids.shape == (4, 64)
        assert not client.asked

    async def test_an_engine_that_gives_too_few_rows_is_asked_for_completions(self) -> None:
        client = FakeClient()
        client.rows_left_out = 1
        async with engine_of(client) as (engine, _):
            assert (await engine.score(IDS, 1)).top_ids.shape == (4, 64)
            await engine.score(IDS, 1)
        assert len(client.asked) == 1

    async def test_a_vllm_of_another_shape_is_asked_for_completions(self) -> None:
        async with engine_of(object()) as (engine, _):
            assert (await engine.score(IDS, 1)).top_ids.shape == (4, 64)

    async def test_what_one_request_breaks_turns_the_route_off_for_no_other(self) -> None:
        client = FakeClient()
        client.is_odd = True
        async with engine_of(client) as (engine, _):
            with pytest.raises(EngineUnavailable):
                await engine.score(IDS, 1)
            # The server ends the connection of what it could not answer.
            await engine.close()
            client.is_odd = False
            assert (await engine.score(IDS, 1)).top_ids.shape == (4, 64)
        assert len(client.asked) == 2

    async def test_a_caller_that_leaves_costs_the_engine_no_more(self) -> None:
        client = FakeClient()
        client.is_slow = True
        async with engine_of(client) as (engine, _):
            asking = asyncio.create_task(engine.score(IDS, 1))
            await asyncio.wait_for(client.begun.wait(), 10)
            asking.cancel()
            await asyncio.wait_for(client.dropped.wait(), 10)


async def test_a_guarded_server_guards_the_route_too() -> None:
    """What stands before vLLM's routes, such as the check of its API key, stands before this one."""
    app = FastAPI()

    @app.middleware("http")
    async def guard(_request: object, _go_on: object) -> Any:
        from starlette.responses import Response

        return Response(status_code=401)

    app.add_middleware(ScoreRoute)
    async with served(app, lifespan="on") as url:
        engine = VllmEngine(url, MODEL)
        with pytest.raises((BadRequest, EngineUnavailable), match="refuses"):
            await engine.score(IDS, 1)
        await engine.close()

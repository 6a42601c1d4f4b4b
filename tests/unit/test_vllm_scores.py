"""The engine's client asks for scores: as arrays where the server gives them so, else as vLLM's own text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from tests.fakes_vllm_server import Handler, answering, engines, no_score_route

from retally.errors import BadRequest, EngineUnavailable
from retally.inference.vllm_engine import VllmEngine
from retally.inference.vllm_flags import SCORE_PATH


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[VllmEngine]]]:
    async with engines() as start:
        yield start


class TestScore:
    @staticmethod
    def body(*rows: dict[str, float] | None) -> dict[str, Any]:
        entries = [None if row is None else {key: {"logprob": value} for key, value in row.items()} for row in rows]
        return {"choices": [{"prompt_logprobs": entries}]}

    async def test_orders_rows_and_finds_the_claimed_token(self, serve: Any) -> None:
        body = self.body(None, {"9": -4.0, "3": -1.0, "2": -1.0}, {"6": -0.5, "7": -2.0})
        engine = await serve(no_score_route(answering(200, body)))
        scores = await engine.score([5, 9, 6], 1, top=2)
        assert scores.top_ids.tolist() == [[2, 3], [6, 7]]
        assert scores.top_logprobs.tolist() == [[-1.0, -1.0], [-0.5, -2.0]]
        assert scores.claimed_logprobs.tolist() == [-4.0, -0.5]

    @pytest.mark.parametrize("rows", [(), (None, {"3": -1.0}, {"6": -1.0}), (None, None, {"6": -1.0})])
    async def test_an_engine_without_prompt_logprobs_is_unavailable(self, serve: Any, rows: Any) -> None:
        engine = await serve(no_score_route(answering(200, self.body(*rows))))
        with pytest.raises(EngineUnavailable):
            await engine.score([5, 9, 6], 1)

    @pytest.mark.parametrize("status", [403, 404, 405, 501])
    async def test_a_server_without_the_route_is_asked_for_it_once(self, serve: Any, status: int) -> None:
        paths: list[str] = []

        async def handler(request: web.Request) -> web.StreamResponse:
            paths.append(request.path)
            if request.path == SCORE_PATH:
                return web.Response(status=status)
            return web.json_response(self.body(None, {"9": -4.0, "3": -1.0}))

        engine = await serve(handler)
        for _ in range(2):
            assert (await engine.score([5, 9], 1, top=2)).top_ids.tolist() == [[3, 9]]
        assert paths == [SCORE_PATH, "/v1/completions", "/v1/completions"]

    @staticmethod
    def arrays(ids: list[list[int]], logprobs: list[list[float]]) -> Handler:
        content = np.array(ids, "<i4").tobytes() + np.array(logprobs, "<f4").tobytes()

        async def handler(_request: web.Request) -> web.StreamResponse:
            return web.Response(body=content)

        return handler

    async def test_reads_the_routes_arrays(self, serve: Any) -> None:
        """The claimed token first, then the likeliest: it may be one of them."""
        engine = await serve(self.arrays([[9, 3, 2], [6, 6, 7]], [[-4.0, -1.0, -1.0], [-0.5, -0.5, -np.inf]]))
        scores = await engine.score([5, 9, 6], 1, top=2)
        assert scores.top_ids.tolist() == [[2, 3], [6, 7]]
        assert scores.top_logprobs.tolist() == [[-1.0, -1.0], [-0.5, -9999.0]]
        assert scores.claimed_logprobs.tolist() == [-4.0, -0.5]

    @pytest.mark.parametrize(
        ("ids", "logprobs"),
        [([[9, 3, 2]], [[-1.0, -2.0]]), ([[8, 3, 2]], [[-1.0, -1.0, -2.0]]), ([[9, 3, 2]], [[-1.0, np.nan, -2.0]])],
    )
    async def test_arrays_that_do_not_fit_are_no_scores(self, serve: Any, ids: Any, logprobs: Any) -> None:
        engine = await serve(self.arrays(ids, logprobs))
        with pytest.raises(EngineUnavailable, match=r"bytes of logprobs|other tokens|no number"):
            await engine.score([5, 9], 1, top=2)

    async def test_a_route_that_fails_for_now_is_not_given_up(self, serve: Any) -> None:
        statuses = [503, 404]

        async def handler(request: web.Request) -> web.StreamResponse:
            if request.path == SCORE_PATH:
                return web.Response(status=statuses.pop(0))
            return web.json_response(self.body(None, {"9": -4.0, "3": -1.0}))

        engine = await serve(handler)
        with pytest.raises(EngineUnavailable, match="503"):
            await engine.score([5, 9], 1, top=2)
        await engine.score([5, 9], 1, top=2)
        assert not statuses

    @pytest.mark.parametrize("start", [0, 4])
    async def test_refuses_a_start_outside(self, serve: Any, start: int) -> None:
        engine = await serve(answering(200, {}))
        with pytest.raises(BadRequest, match="start"):
            await engine.score([5, 9, 6], start)

"""The client of a pooling engine against a server that says what the test wants."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from tests.fakes_vllm_server import Handler, answering, engines_of

from retally.errors import BadRequest, EngineUnavailable
from retally.inference.engine import Embedder
from retally.inference.vllm_embedder import VllmEmbedder
from retally.inference.vllm_flags import EMBED_ARGUMENTS, SAMPLER_PLUGIN, engine_arguments
from retally_node.engine_start import check_abilities

Start = Callable[[Handler], Awaitable[VllmEmbedder]]


@pytest.fixture
async def serve() -> AsyncIterator[Start]:
    async with engines_of(VllmEmbedder) as start:
        yield start


def rows(*vectors: list[float], order: int = 1) -> dict[str, Any]:
    data = [
        {"index": index, "embedding": b64encode(np.array(vector, dtype="<f4").tobytes()).decode()}
        for index, vector in enumerate(vectors)
    ]
    return {"data": data[::order]}


def pooling(answer: dict[str, Any], status: int = 200) -> Handler:
    """A server with one model, and this to say of vectors."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/models"):
            return web.json_response({"data": [{"id": "m", "max_model_len": 64}]})
        if request.path.endswith("/version"):
            return web.json_response({"version": "0.32.0"})
        return web.json_response(answer, status=status)

    return handler


class TestEmbed:
    async def test_rows_come_in_the_order_of_the_inputs_bit_by_bit(self, serve: Start) -> None:
        engine = await serve(answering(200, rows([0.1, -0.0], [1e-45, 3.0], order=-1)))
        found = await engine.embed([[5], [6, 7]], 2)
        assert found.dtype == np.float32
        assert found.tobytes() == np.array([[0.1, -0.0], [1e-45, 3.0]], dtype=np.float32).tobytes()

    @pytest.mark.parametrize(
        "answer",
        [
            rows([1.0, 2.0]),
            rows([1.0], [2.0]),
            rows([1.0, 2.0], [float("nan"), 1.0]),
            rows([1.0, 2.0], [float("inf"), 1.0]),
            rows([1.0, 2.0], [1.0]),
            {"data": []},
            {"data": [{"index": 0, "embedding": "no base64"}]},
            {"error": "x"},
        ],
    )
    async def test_what_is_no_vector_of_each_input_is_refused(self, serve: Start, answer: dict[str, Any]) -> None:
        engine = await serve(answering(200, answer))
        with pytest.raises(EngineUnavailable):
            await engine.embed([[5], [6]], 2)

    async def test_answers_nothing_else(self, serve: Start) -> None:
        engine = await serve(answering(200, {}))
        assert isinstance(engine, Embedder)
        with pytest.raises(BadRequest, match="no tokens"):
            await engine.score([5, 6], 1)


class TestCheck:
    async def test_counts_the_components(self, serve: Start) -> None:
        info = await (await serve(pooling(rows([0.5, 0.5, 0.5])))).check()
        assert (info.dimensions, info.max_context, info.problems) == (3, 64, ())
        check_abilities(info)

    async def test_an_engine_that_answers_is_told_how_to_be_started(self, serve: Start) -> None:
        info = await (await serve(pooling({"detail": "Not Found"}, status=404))).check()
        with pytest.raises(EngineUnavailable, match="--runner pooling --convert embed"):
            check_abilities(info)


def test_flags_are_for_one_of_both() -> None:
    pooled, answered = engine_arguments("x", "m", 1, embeds=True), engine_arguments("x", "m", 1)
    assert set(EMBED_ARGUMENTS) <= set(pooled)
    assert SAMPLER_PLUGIN in answered
    assert SAMPLER_PLUGIN not in pooled

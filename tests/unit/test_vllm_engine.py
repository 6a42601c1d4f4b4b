"""The engine's client against a server that says what the test wants."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.fakes import FakeEngine
from tests.fakes_node import tiny_format
from tests.fakes_vllm_server import Handler, answering, engines

from retally.errors import BadRequest, EngineUnavailable, RetallyError
from retally.inference.engine import EngineChunk, EngineSampling
from retally.inference.sampler_check import form_problem, sampler_problem
from retally.inference.vllm_engine import ATTEMPTS, VllmEngine
from retally.protocol.params import ONE, JobParams

SAMPLING = EngineSampling(
    params=JobParams(max_tokens=8, template_date="2026-01-01"), seed=b"\x01" * 32, eos_ids=(1,), max_new_tokens=8
)
USAGE = {"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": 2}}}


def frame(ids: list[int], finish: str | None = None, **changes: Any) -> dict[str, Any]:
    choice = {"token_ids": ids, "logprobs": {"token_logprobs": [-0.5] * len(ids)}, "finish_reason": finish}
    return {"choices": [choice | changes]}


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[VllmEngine]]]:
    async with engines() as start:
        yield start


def streaming(*frames: dict[str, Any], cut: int | None = None, done: bool = True) -> Handler:
    """Write frames as events, in pieces of `cut` bytes."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        data = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in frames)
        data += b"data: [DONE]\n\n" if done else b""
        for begin in range(0, len(data), cut or len(data)):
            await response.write(data[begin : begin + (cut or len(data))])
        return response

    return handler


def writing(content: bytes) -> Handler:
    """Answer with those bytes, whatever was asked."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=content)

    return handler


async def collect(engine: VllmEngine) -> list[EngineChunk]:
    return [chunk async for chunk in engine.generate([5, 6], SAMPLING)]


class TestGenerate:
    @pytest.mark.parametrize("cut", [None, 7])
    async def test_reads_frames_however_they_arrive(self, serve: Any, cut: int | None) -> None:
        engine = await serve(streaming(frame([7]), frame([8, 9]), frame([1], "stop"), USAGE, cut=cut))
        chunks = await collect(engine)
        assert [chunk.ids for chunk in chunks] == [(7,), (8, 9), (1,)]
        assert chunks[-1] == EngineChunk((1,), (-0.5,), None, "stop", 2)

    async def test_asks_the_engine_for_nothing_but_the_plugin(self, serve: Any) -> None:
        bodies: list[dict[str, Any]] = []

        async def handler(request: web.Request) -> web.StreamResponse:
            bodies.append(await request.json())
            return await streaming(frame([1], "stop"), USAGE)(request)

        await collect(await serve(handler))
        (body,) = bodies
        assert (body["prompt"], body["temperature"], body["max_tokens"]) == ([5, 6], 0, 8)
        assert not {"seed", "top_p", "top_k", "frequency_penalty", "logit_bias", "stop"} & body.keys()
        argument = json.loads(body["vllm_xargs"]["retally"])
        rest = {"seed": "01" * 32, "position": 0, "eos": [1], "grammar": ""}
        assert argument == {"params": SAMPLING.params.to_json(), **rest}

    @pytest.mark.parametrize(
        "handler",
        [
            answering(500, {"detail": "boom"}),
            answering(404, {"detail": "no such model"}),
            streaming(frame([7]), {"error": {"message": "boom"}}),
            streaming(frame([7])),
            streaming(frame([7]), done=False),
            streaming(frame([7], "abort")),
            streaming(frame([7], logprobs=None)),
            streaming({"choices": "none"}),
            writing(b"data: <html>\n\n"),
            writing(b"data: \xff\n\n"),
        ],
    )
    async def test_a_failing_engine_is_unavailable(self, serve: Any, handler: Handler) -> None:
        engine = await serve(handler)
        with pytest.raises(EngineUnavailable):
            await collect(engine)

    async def test_a_refused_request_is_the_callers_fault(self, serve: Any) -> None:
        engine = await serve(answering(400, {"error": {"message": "too long"}}))
        with pytest.raises(BadRequest, match="too long"):
            await collect(engine)

    async def test_a_kept_connection_found_closed_is_replaced(self, serve: Any) -> None:
        """A server closes idle connections when it likes; the request that meets that is sent again."""
        asked: list[object] = []
        answer = streaming(frame([7]), frame([1], "stop"), USAGE)

        async def handler(request: web.Request) -> web.StreamResponse:
            asked.append(await request.json())
            if len(asked) < ATTEMPTS:
                assert request.transport is not None
                request.transport.close()
            return await answer(request)

        engine = await serve(handler)
        assert [chunk.ids for chunk in await collect(engine)] == [(7,), (1,)]
        assert asked == [asked[0]] * ATTEMPTS

    async def test_an_engine_that_always_hangs_up_is_unavailable(self, serve: Any) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.close()
            return web.Response()

        with pytest.raises(EngineUnavailable):
            await collect(await serve(handler))

    async def test_a_dead_engine_is_unavailable(self, unused_tcp_port: int) -> None:
        engine = VllmEngine(f"http://127.0.0.1:{unused_tcp_port}", "m")
        for work in (collect(engine), engine.score([1, 2], 1), engine.check()):
            with pytest.raises(EngineUnavailable, match="can't be reached"):
                await work
        await engine.close()


class TestNonsense:
    @pytest.mark.parametrize(
        "answer",
        [
            "<html>",
            "{}",
            '{"choices": []}',
            '{"choices": [{"prompt_logprobs": [null, {"x": {"logprob": 0}, "6": {"logprob": 0}}]}]}',
            '{"choices": [{"prompt_logprobs": [null, {"99999999999": {"logprob": 0}, "6": {"logprob": 0}}]}]}',
        ],
    )
    async def test_scores_that_make_no_sense_are_no_engines(self, serve: Any, answer: str) -> None:
        engine: VllmEngine = await serve(writing(answer.encode()))
        engine._lacks_score_route = True
        with pytest.raises(EngineUnavailable):
            await engine.score([5, 6], 1)

    @pytest.mark.parametrize("answer", ["<html>", "5", '{"text": "x"}'])
    async def test_nor_is_such_a_text(self, serve: Any, answer: str) -> None:
        with pytest.raises(EngineUnavailable):
            await (await serve(writing(answer.encode()))).text_of([5])


class TestCheck:
    @pytest.mark.parametrize(
        "body",
        [
            {"data": [{"id": "other", "max_model_len": 9}], "version": "1"},
            {"detail": "?"},
            5,
            {"data": 5, "version": 1},
        ],
    )
    async def test_something_else_on_that_port_is_refused(self, serve: Any, body: Any) -> None:
        engine = await serve(answering(200, body))
        with pytest.raises(RetallyError):
            await engine.check()


class Altered(FakeEngine):
    """An engine that samples a request by other parameters than those it was given."""

    def __init__(self, alter: Callable[[JobParams], JobParams]) -> None:
        super().__init__()
        self.alter = alter

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        return super().generate(prompt_ids, replace(sampling, params=self.alter(sampling.params)))


class Refusing(FakeEngine):
    """An engine whose plugin is of another version."""

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        raise BadRequest("malformed")


def without_plugin(asked: JobParams) -> JobParams:
    return JobParams(max_tokens=asked.max_tokens, template_date=asked.template_date, temperature=0)


def blind(asked: JobParams) -> JobParams:
    return replace(asked, frequency_penalty=0, repetition_penalty=ONE)


def penalising(asked: JobParams) -> JobParams:
    return asked if asked.temperature else replace(asked, logit_bias=tuple((n, 100_000_000) for n in range(99, 120)))


class TestSamplerCheck:
    async def test_passes_an_engine_with_the_sampler(self) -> None:
        assert await sampler_problem(FakeEngine()) is None

    @pytest.mark.parametrize(
        ("alter", "wrong"),
        [(without_plugin, r"\d+ seeded, \d+ penalised ones"), (penalising, r"each, \d+ greedy ones")],
    )
    async def test_tells_an_engine_without_it(self, alter: Callable[[JobParams], JobParams], wrong: str) -> None:
        problem = await sampler_problem(Altered(alter))
        assert problem is not None
        assert re.search(wrong, problem)
        assert "VLLM_USE_V2_MODEL_RUNNER=0" in problem

    async def test_tells_one_that_hides_earlier_tokens(self) -> None:
        engine = Altered(blind)
        # A model that repeats itself.
        engine.logits = lambda ids: FakeEngine.logits(engine, [3, 4])  # type: ignore[method-assign]
        problem = await sampler_problem(engine)
        assert problem is not None
        assert re.search(r"each, \d+ penalised ones", problem)

    async def test_passes_an_engine_that_holds_answers_to_a_form(self, tmp_path: Path) -> None:
        chat = tiny_format(tmp_path)
        engine = FakeEngine(chat.vocab_size)
        engine.grammars = chat.grammars

        async def text_of(ids: Sequence[int]) -> str:
            return chat.decode(ids)

        assert await form_problem(engine, text_of) is None
        engine.grammars = None
        problem = await form_problem(engine, text_of)
        assert problem is not None
        assert "does not hold answers to a form" in problem

    async def test_tells_one_that_refuses_a_form(self) -> None:
        async def text_of(ids: Sequence[int]) -> str:
            return ""

        problem = await form_problem(Refusing(), text_of)
        assert problem is not None
        assert "install xgrammar 0.2.8" in problem

    async def test_tells_one_that_refuses_the_argument(self) -> None:
        problem = await sampler_problem(Refusing())
        assert problem is not None
        assert "malformed" in problem
        assert "vllm_flags.engine_arguments" in problem

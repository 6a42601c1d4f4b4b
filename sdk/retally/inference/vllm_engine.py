"""Client of a vLLM server over its plain HTTP API: ids in, ids out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import msgspec
import numpy as np

from retally.errors import BadRequest, EngineUnavailable, UpstreamTimeout
from retally.inference.engine import EngineChunk, EngineInfo, EngineSampling, Scores
from retally.inference.sampler_check import form_problem, sampler_problem
from retally.inference.vllm_flags import SAMPLER_ARGUMENT, SCORE_PATH, SCORE_PLUGIN
from retally.inference.vllm_frames import Completion, Frame, chunk_of, scores_of, scores_of_arrays
from retally.keep_alive import SHY_CLIENT_SECONDS

CONNECT_SECONDS = 10
SILENCE_SECONDS = 120
ATTEMPTS = 3
DONE = b"[DONE]"
COMPLETIONS_PATH = "/v1/completions"
#: How a server, or what stands before it, says that it has no score route, or none that fits it.
NO_ROUTE = (403, 404, 405, 501)
SLOW_REPLAYS = f"replays cost this engine several times as much as need be: start vLLM with --middleware {SCORE_PLUGIN}"


class VllmEngine:
    """One vLLM server; opens its connections on first use."""

    def __init__(self, base_url: str, model_name: str, *, asks_score_route: bool = True) -> None:
        self._base_url = base_url.rstrip("/").removesuffix("/v1")
        self.model_name = model_name
        self._session: aiohttp.ClientSession | None = None
        self._asks_score_route = asks_score_route
        #: Found out at the first score, and again at each check.
        self._lacks_score_route = not asks_score_route

    async def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        """Stream an answer's tokens; closing the iterator cancels the request in the server."""
        held: EngineChunk | None = None
        cached = 0
        async for frame in self._frames(self._body(prompt_ids, sampling)):
            if frame.usage is not None and frame.usage.prompt_tokens_details is not None:
                cached = frame.usage.prompt_tokens_details.cached_tokens or 0
            if not frame.choices:
                continue
            with _understood():
                chunk = chunk_of(frame.choices[0], sampling.logprobs)
            if chunk.finish_reason is not None:
                # The usage frame, which knows the cached tokens, comes right behind.
                held = chunk
            elif chunk.ids:
                yield chunk
        if held is None:
            raise EngineUnavailable("the engine's stream ended before the answer did")
        yield EngineChunk(held.ids, held.logprobs, held.top_logprobs, held.finish_reason, cached)

    async def score(self, ids: Sequence[int], start: int, top: int = 64) -> Scores:
        """Return raw logprobs of ids[start:] from one prefill."""
        if not 1 <= start <= len(ids):
            raise BadRequest(f"start must lie between 1 and {len(ids)}", param="start")
        content = None if self._lacks_score_route else await self._arrays(ids, start, top)
        if content is not None:
            return scores_of_arrays(content, ids[start:], start, top)
        self._lacks_score_route = True
        return await self._score_in_text(ids, start, top)

    async def _arrays(self, ids: Sequence[int], start: int, top: int) -> bytes | None:
        """What the score route says, None where there is none."""
        body = {"model": self.model_name, "ids": list(ids), "start": start, "top": top}
        try:
            async with self._post(SCORE_PATH, body) as response:
                return None if response.status in NO_ROUTE else await self._content(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(error) from error

    async def _score_in_text(self, ids: Sequence[int], start: int, top: int) -> Scores:
        """The same by vLLM's own interface, which makes text of each alternative."""
        body = {**self._plain(ids), "max_tokens": 1, "prompt_logprobs": top}
        try:
            async with self._post(COMPLETIONS_PATH, body) as response:
                content = await self._content(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(error) from error
        with _understood():
            rows = msgspec.json.decode(content, type=Completion).choices[0].prompt_logprobs
            if rows is None or len(rows) != len(ids):
                hint = "start it with --max-logprobs 66"
                raise EngineUnavailable("the engine returned no prompt logprobs", hint=hint)
            return scores_of(rows[start:], ids[start:], start, top)

    async def check(self) -> EngineInfo:
        """Ask for the model, then try the sampler and the prompt logprobs for real."""
        served, version = await self.served()
        self._lacks_score_route = not self._asks_score_route
        scores = await self.score([5, 6, 7, 8], 1)
        has_logprobs = scores.top_ids.shape == (3, 64) and bool(np.isfinite(scores.top_logprobs).all())
        problem = await sampler_problem(self) if has_logprobs else "not tried: no prompt logprobs"
        problem = problem or await form_problem(self, self.text_of)
        problems = [] if has_logprobs else ["no 64 prompt logprobs: start vLLM with --max-logprobs 66"]
        return EngineInfo(
            model=self.model_name,
            max_context=int(served["max_model_len"]),
            version=f"vllm {version}",
            has_sampler=problem is None,
            has_prompt_logprobs=has_logprobs,
            problems=(*problems, *([problem] if problem else [])),
            hints=(SLOW_REPLAYS,) if self._lacks_score_route else (),
        )

    async def served(self) -> tuple[dict[str, Any], str]:
        """What the server says of the model and of its own version; raise EngineUnavailable if it serves another."""
        try:
            models = json.loads(await self._get("/v1/models"))["data"]
            version = str(json.loads(await self._get("/version"))["version"])
            named = {model["id"]: model for model in models}
        except (LookupError, TypeError, ValueError) as error:
            raise EngineUnavailable(f"{self._base_url} does not speak vLLM's API: {error!r:.300}") from error
        served: dict[str, Any] | None = named.get(self.model_name)
        if served is None:
            raise EngineUnavailable(f"the engine serves {[*named]}, not {self.model_name}")
        return served, version

    async def identity(self) -> str:
        """What is served, from where, how long and by which version: as much as a server tells of its model."""
        served, version = await self.served()
        return f"{served.get('root', self.model_name)} {served.get('max_model_len')} vllm {version}"

    async def text_of(self, ids: Sequence[int]) -> str:
        """The text of ids by the engine's own tokenizer, special tokens included."""
        body = {"model": self.model_name, "tokens": list(ids)}
        try:
            async with self._open().post(f"{self._base_url}/detokenize", json=body) as response:
                content = await self._content(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(error) from error
        with _understood():
            return str(json.loads(content)["prompt"])

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=SHY_CLIENT_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        return self._session

    @asynccontextmanager
    async def _post(self, path: str, body: dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, again when a kept connection turns out closed: asking twice changes nothing."""
        response = await self._answered(path, body, ATTEMPTS)
        async with response:
            yield response

    async def _answered(self, path: str, body: dict[str, Any], attempts: int) -> aiohttp.ClientResponse:
        try:
            return await self._open().post(self._base_url + path, json=body)
        except aiohttp.ServerDisconnectedError:
            if attempts == 1:
                raise
        return await self._answered(path, body, attempts - 1)

    def _plain(self, ids: Sequence[int]) -> dict[str, Any]:
        """Return a request that lets the engine itself change nothing."""
        return {
            "model": self.model_name,
            "prompt": list(ids),
            "temperature": 0,
            # A model's own default comes after the sampler, and would change what it leaves to the engine's argmax.
            "repetition_penalty": 1,
            "return_token_ids": True,
        }

    def _body(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> dict[str, Any]:
        return {
            **self._plain(prompt_ids),
            "max_tokens": sampling.max_new_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "logprobs": sampling.logprobs,
            "return_tokens_as_token_ids": True,
            "stop_token_ids": list(sampling.eos_ids),
            "vllm_xargs": {SAMPLER_ARGUMENT: sampler_argument(sampling)},
        }

    async def _frames(self, body: dict[str, Any]) -> AsyncIterator[Frame]:
        """Yield the events of a stream, split by hand: a first frame may be longer than a line buffer."""
        try:
            async with self._post(COMPLETIONS_PATH, body) as response:
                if response.status != 200:
                    await self._content(response)
                rest = b""
                async for data in response.content.iter_any():
                    *events, rest = (rest + data).split(b"\n\n")
                    for event in events:
                        payload = event.removeprefix(b"data:").strip()
                        if payload == DONE:
                            return
                        yield _decoded(payload)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(error) from error

    async def _get(self, path: str) -> bytes:
        try:
            async with self._open().get(self._base_url + path) as response:
                return await self._content(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(error) from error

    async def _content(self, response: aiohttp.ClientResponse) -> bytes:
        content = await response.read()
        if response.status == 200:
            return content
        text = content[:300].decode(errors="replace")
        if 400 <= response.status < 500 and response.status != 404:
            raise BadRequest(f"the engine refuses the request: {text}")
        raise EngineUnavailable(f"the engine answered {response.status}: {text}")


def sampler_argument(sampling: EngineSampling) -> str:
    """What the sampler's plugin is told of a request (`vllm_sampler.read_row` reads it)."""
    argument = {
        "params": sampling.params.to_json(),
        "seed": sampling.seed.hex(),
        "position": sampling.position,
        "eos": list(sampling.eos_ids),
        "grammar": sampling.grammar,
    }
    return json.dumps(argument)


@contextmanager
def _understood() -> Iterator[None]:
    """Reading what the engine wrote: what makes no sense means that there is no engine to speak of."""
    try:
        yield
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise EngineUnavailable(f"the engine's answer makes no sense: {error!r:.300}") from error


def _decoded(payload: bytes) -> Frame:
    with _understood():
        frame = msgspec.json.decode(payload, type=Frame)
    if frame.error is not None:
        raise EngineUnavailable(f"the engine failed in mid-answer: {frame.error}")
    return frame


def unreachable(error: Exception) -> EngineUnavailable | UpstreamTimeout:
    """What it means that a server did not answer."""
    if isinstance(error, asyncio.TimeoutError):
        return UpstreamTimeout("the engine did not answer in time")
    return EngineUnavailable(f"the engine can't be reached: {error}")

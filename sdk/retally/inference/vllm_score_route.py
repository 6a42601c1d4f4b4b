"""A route of vLLM's API server for replays: log-probabilities as plain arrays (`vllm_flags.SCORE_PLUGIN`).

vLLM's own routes write an object for each of 64 alternatives of each token, which costs more than the prefill. Its
engine can keep them flat and make no text of them (`flat_logprobs`, `detokenize`); this hands them out so.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Coroutine
from typing import Annotated, Any

import msgspec
import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from retally.inference.vllm_flags import SCORE_PATH

log = logging.getLogger(__name__)


class AskedScores(msgspec.Struct):
    """Whose log-probabilities are wanted: of ids[start:], with so many alternatives each."""

    model: str
    ids: list[int]
    start: int
    top: Annotated[int, msgspec.Meta(ge=1)]


class ScoreRoute:
    """Middleware that adds the route when the server starts, behind whatever guards its other routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; of all messages only the server's start is of interest."""
        if scope["type"] == "lifespan":
            scope["app"].router.add_route(SCORE_PATH, answer_scores, methods=["POST"])
        await self._app(scope, receive, send)


async def answer_scores(request: Request) -> Response:
    """Rows of the claimed token and its alternatives: all ids as int32, then all log-probabilities as float32."""
    try:
        asked = msgspec.json.decode(await request.body(), type=AskedScores)
    except msgspec.MsgspecError as error:
        return _refusal(400, str(error))
    if not 1 <= asked.start <= len(asked.ids):
        return _refusal(400, f"start must lie between 1 and {len(asked.ids)}")
    try:
        is_known = request.app.state.openai_serving_models.is_base_model(asked.model)
        generate, params = request.app.state.engine_client.generate, _params(asked.top)
    except (AttributeError, TypeError) as error:
        return _unfit(error)
    if not is_known:
        # An adapter, or nothing of this server: the interface for completions knows.
        return _refusal(404, f"{asked.model} is no model of this server")
    # Outside: what one odd request breaks says nothing about this vLLM.
    found = await _unless_left(request, _prefilled(generate, asked, params))
    try:
        return Response(_rows(found, asked), media_type="application/octet-stream")
    except (AttributeError, LookupError, TypeError) as error:
        return _unfit(error)


def _params(top: int) -> SamplingParams:
    return SamplingParams(
        temperature=0,
        max_tokens=1,
        prompt_logprobs=top,
        detokenize=False,
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


async def _prefilled(generate: Any, asked: AskedScores, params: SamplingParams) -> Any:
    found = None
    # The engine refuses what it can't take with a ValueError, which the server makes a 400 of.
    async for output in generate({"prompt_token_ids": asked.ids}, params, f"score-{uuid.uuid4().hex}"):
        found = output
    return found


def _rows(found: Any, asked: AskedScores) -> bytes:
    flat = found.prompt_logprobs
    width, count = asked.top + 1, len(asked.ids) - asked.start
    # The first token has no row: what begins at token 1 begins at 0.
    begin = (asked.start - 1) * width
    ids = np.array(flat.token_ids[begin:], dtype="<i4")
    logprobs = np.array(flat.logprobs[begin:], dtype="<f4")
    if len(ids) != width * count or len(logprobs) != width * count:
        raise LookupError(f"{len(ids)} log-probabilities for {count} tokens with {asked.top} alternatives each")
    return ids.tobytes() + logprobs.tobytes()


async def _unless_left(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """The work's result; once the client has gone, the engine is told to drop it."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


def _unfit(error: Exception) -> Response:
    """This vLLM keeps its log-probabilities otherwise: completions are asked from then on."""
    log.error("retally's score route does not fit this vLLM", exc_info=error)
    return _refusal(501, f"the score route does not fit this vLLM: {error!r}")


def _refusal(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message}}, status_code=status)

"""A server in vLLM's place that says what the test wants, and the real client that asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeVar

from aiohttp import web
from aiohttp.test_utils import TestServer

from retally.inference.vllm_engine import VllmEngine
from retally.inference.vllm_flags import SCORE_PATH

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


E = TypeVar("E", bound=VllmEngine)


@asynccontextmanager
async def engines_of(kind: Callable[[str, str], E]) -> AsyncIterator[Callable[[Handler], Awaitable[E]]]:
    """Opens clients of servers that answer every path with a handler."""
    async with AsyncExitStack() as stack:

        async def start(handler: Handler) -> E:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handler)
            server = TestServer(app)
            await server.start_server()
            stack.push_async_callback(server.close)
            engine = kind(str(server.make_url("/v1")), "m")
            stack.push_async_callback(engine.close)
            return engine

        yield start


def engines() -> AbstractAsyncContextManager[Callable[[Handler], Awaitable[VllmEngine]]]:
    """The same of the usual kind."""
    return engines_of(VllmEngine)


def answering(status: int, body: object) -> Handler:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return handler


def no_score_route(handler: Handler) -> Handler:
    """A server that has not loaded it."""

    async def routed(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404) if request.path == SCORE_PATH else await handler(request)

    return routed

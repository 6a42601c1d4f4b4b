"""The FastAPI app: everything but the completions themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from retally.errors import BadRequest, NotFound, RetallyError, Unavailable, UnknownModel, openai_envelope
from retally_router.directory import Directory, Listed
from retally_router.generation_api import GenerationApi
from retally_router.hot_path import error_headers
from retally_router.job_log import JobLog
from retally_router.market_api import MarketApi
from retally_router.metrics import Metrics
from retally_router.openapi_document import complete_document
from retally_router.store_errors import StoreError

log = structlog.get_logger(__name__)

Lifespan = Callable[[], AbstractAsyncContextManager[None]]


def build_api(
    directory: Directory, job_log: JobLog, market: MarketApi, metrics: Metrics, redis: Any, lifespan: Lifespan
) -> FastAPI:
    """The app with all its routes; `lifespan` starts and stops the router's background work."""

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        async with lifespan():
            yield

    app = FastAPI(title="retally router", lifespan=running, docs_url=None, redoc_url=None)
    _handle_errors(app)
    _add_models(app, directory)
    _add_state(app, directory, metrics, redis)
    complete_document(app)
    app.include_router(market.router())
    app.include_router(GenerationApi(job_log, directory, market.max_body_bytes).router())

    @app.get("/retally/v1/faults")
    async def faults() -> dict[str, Any]:
        return {"faults": await job_log.faults(100)}

    return app


def _add_models(app: FastAPI, directory: Directory) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": list(models_of(directory.nodes()).values())}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        found = models_of(directory.nodes()).get(name)
        if found is None:
            raise UnknownModel(name)
        return found


def models_of(nodes: list[Listed]) -> dict[str, dict[str, Any]]:
    """The models that are served, by name, with who serves them and from what price on."""
    models: dict[str, dict[str, Any]] = {}
    for node in sorted(nodes, key=lambda item: item.offer.price_out, reverse=True):
        known = models.get(node.model, {"retally": {"nodes": 0, "audited": False}})["retally"]
        models[node.model] = {
            "id": node.model,
            "object": "model",
            "created": 0,
            "owned_by": "retally",
            "retally": {
                "modelId": node.model_hex,
                "nodes": known["nodes"] + int(node.alive),
                "audited": known["audited"] or node.audited,
                "maxContext": node.offer.max_context,
                "priceIn": str(node.offer.price_in),
                "priceCached": str(node.offer.price_cached),
                "priceOut": str(node.offer.price_out),
            },
        }
    return models


def _add_state(app: FastAPI, directory: Directory, metrics: Metrics, redis: Any) -> None:
    @app.get("/healthz", response_model=None)
    async def healthz() -> Response:
        alive = sum(node.alive for node in directory.nodes())
        try:
            await redis.ping()
        except StoreError as error:
            return JSONResponse({"status": "failing", "redis": str(error), "nodesAlive": alive}, 503)
        return JSONResponse({"status": "ok" if alive else "no nodes", "nodesAlive": alive})

    @app.get("/metrics", response_model=None)
    async def metrics_text() -> Response:
        metrics.nodes_alive.set(sum(node.alive for node in directory.nodes()))
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _handle_errors(app: FastAPI) -> None:
    async def of_retally(_: Request, error: Exception) -> Response:
        assert isinstance(error, RetallyError)
        return envelope_response(error)

    async def of_redis(_: Request, error: Exception) -> Response:
        return envelope_response(Unavailable(f"the router's store does not answer: {error}"))

    async def of_validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or None
        return envelope_response(BadRequest(f"{where or 'the body'}: {first['msg']}", param=where))

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return envelope_response(NotFound(f"there is no {request.url.path}", hint="see /openapi.json"))
        plain = BadRequest(str(error.detail), code="method_not_allowed" if error.status_code == 405 else None)
        return JSONResponse(openai_envelope(plain), error.status_code, headers=dict(error.headers or {}))

    async def of_bug(request: Request, error: Exception) -> Response:
        log.error("request_failed", path=request.url.path, exc_info=error)
        return envelope_response(RetallyError("the router failed", hint="report this with the x-request-id"))

    for kind, handler in (
        (RetallyError, of_retally),
        (StoreError, of_redis),
        (RequestValidationError, of_validation),
        (HTTPException, of_http),
        (Exception, of_bug),
    ):
        app.add_exception_handler(kind, handler)


def envelope_response(error: RetallyError) -> Response:
    """The error in OpenAI's envelope."""
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return JSONResponse(openai_envelope(error), error.status, headers=headers)

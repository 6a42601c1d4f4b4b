"""The app: every route but the completions themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.resources import files
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from retally.errors import BadRequest, NotFound, RetallyError, Unavailable, UnknownModel, openai_envelope
from retally.protocol.params import EMBEDDINGS
from retally_router.directory import Directory, Listed
from retally_router.generation_api import GenerationApi
from retally_router.hot_path import ENDPOINTS, error_headers
from retally_router.job_log import JobLog
from retally_router.market_api import MarketApi
from retally_router.metrics import Metrics
from retally_router.responses_path import RESPONSES
from retally_router.served_route import ServedRoute
from retally_router.store_errors import StoreError

log = structlog.get_logger(__name__)

Lifespan = Callable[[], AbstractAsyncContextManager[None]]


def build_api(routes: list[ServedRoute], lifespan: Lifespan) -> Starlette:
    """The app with all its routes; `lifespan` starts and stops the router's background work."""

    @asynccontextmanager
    async def running(_: Starlette) -> AsyncIterator[None]:
        async with lifespan():
            yield

    async def document(_: Request) -> Response:
        return Response(openapi_text(), media_type="application/json")

    served = [route.for_starlette() for route in routes]
    return Starlette(
        routes=[*served, Route("/openapi.json", document)], lifespan=running, exception_handlers=_error_handlers()
    )


def openapi_text() -> str:
    """The OpenAPI document; `python -m retally_router.openapi_document` writes it anew."""
    return files("retally_router").joinpath("openapi.json").read_text(encoding="utf-8")


def routes_of(
    directory: Directory, job_log: JobLog, market: MarketApi, metrics: Metrics, redis: Any
) -> list[ServedRoute]:
    """All routes."""

    async def faults() -> dict[str, Any]:
        return {"faults": await job_log.faults(100)}

    return [
        *_model_routes(directory),
        *_state_routes(directory, metrics, redis),
        *[_in_front(path) for path in (*ENDPOINTS, RESPONSES)],
        *market.routes(),
        *GenerationApi(job_log, directory, market.max_body_bytes).routes(),
        ServedRoute("GET", "/retally/v1/faults", faults),
    ]


def _in_front(path: str) -> ServedRoute:
    """A route that never gets here: it makes other methods refused, and stands in the document."""

    async def served_in_front() -> None:
        raise Unavailable("completions are served in front of this app")

    return ServedRoute("POST", path, served_in_front)


def _model_routes(directory: Directory) -> list[ServedRoute]:
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": list(models_of(directory.nodes()).values())}

    async def model(name: str) -> dict[str, Any]:
        found = models_of(directory.nodes()).get(name)
        if found is None:
            raise UnknownModel(name)
        return found

    return [ServedRoute("GET", "/v1/models", models), ServedRoute("GET", "/v1/models/{name:path}", model)]


def models_of(nodes: list[Listed]) -> dict[str, dict[str, Any]]:
    """The models that are served, by name, with who serves them and from what price on."""
    models: dict[str, dict[str, Any]] = {}
    # What answers costs is shown, and last, of a model that is served both ways.
    for node in sorted(nodes, key=lambda item: (item.vectors is None, -item.offer.price_out)):
        known = models.get(node.model, {"retally": {"nodes": 0, "audited": False, "endpoints": []}})["retally"]
        own = ["chat", "text"] if node.vectors is None else [EMBEDDINGS]
        vectors = known.get("embeddings") if node.vectors is None else _vectors_view(node)
        models[node.model] = {
            "id": node.model,
            "object": "model",
            "created": 0,
            "owned_by": "retally",
            "retally": {
                "modelId": node.model_hex,
                "nodes": known["nodes"] + int(node.alive),
                "endpoints": [*known["endpoints"], *(name for name in own if name not in known["endpoints"])],
                "audited": known["audited"] or node.audited,
                "maxContext": node.offer.max_context,
                "priceIn": str(node.offer.price_in),
                "priceCached": str(node.offer.price_cached),
                "priceOut": str(node.offer.price_out),
                **({} if vectors is None else {"embeddings": vectors}),
            },
        }
    return models


def _vectors_view(node: Listed) -> dict[str, Any]:
    assert node.vectors is not None
    terms = {"priceIn": str(node.offer.price_in), "maxContext": node.offer.max_context, "audited": False}
    return {**node.vectors.to_wire(), **terms}


def _state_routes(directory: Directory, metrics: Metrics, redis: Any) -> list[ServedRoute]:
    async def healthz() -> Response:
        alive = sum(node.alive for node in directory.nodes())
        try:
            await redis.ping()
        except StoreError as error:
            return JSONResponse({"status": "failing", "redis": str(error), "nodesAlive": alive}, 503)
        return JSONResponse({"status": "ok" if alive else "no nodes", "nodesAlive": alive})

    async def metrics_text() -> Response:
        metrics.nodes_alive.set(sum(node.alive for node in directory.nodes()))
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return [ServedRoute("GET", "/healthz", healthz), ServedRoute("GET", "/metrics", metrics_text)]


def _error_handlers() -> dict[Any, Any]:
    async def of_retally(_: Request, error: Exception) -> Response:
        assert isinstance(error, RetallyError)
        return envelope_response(error)

    async def of_store(_: Request, error: Exception) -> Response:
        return envelope_response(Unavailable(f"the router's store does not answer: {error}"))

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return envelope_response(NotFound(f"there is no {request.url.path}", hint="see /openapi.json"))
        plain = BadRequest(str(error.detail), code="method_not_allowed" if error.status_code == 405 else None)
        return JSONResponse(openai_envelope(plain), error.status_code, headers=dict(error.headers or {}))

    async def of_bug(request: Request, error: Exception) -> Response:
        log.error("request_failed", path=request.url.path, exc_info=error)
        return envelope_response(RetallyError("the router failed", hint="report this with the x-request-id"))

    return {RetallyError: of_retally, StoreError: of_store, HTTPException: of_http, Exception: of_bug}


def envelope_response(error: RetallyError) -> Response:
    """The error in OpenAI's envelope."""
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return JSONResponse(openai_envelope(error), error.status, headers=headers)

"""The verifier's HTTP interface: evidence files for jurors, health, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from retally.errors import NotFound, RetallyError, openai_envelope
from retally.protocol.encoding import parse_bytes32, to_hex
from retally_verifier.loops import Loops
from retally_verifier.records import Finding
from retally_verifier.store import Store


def create_app(store: Store, loops: Loops, registry: CollectorRegistry) -> FastAPI:
    """The app around a verifier's books."""
    app = FastAPI(title="retally verifier", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(RetallyError)
    async def refused(_: Request, error: RetallyError) -> JSONResponse:
        return JSONResponse(openai_envelope(error), status_code=error.status)

    @app.get("/evidence/{hash_}", response_model=None)
    async def evidence(hash_: str) -> Response:
        data = store.evidence(parse_bytes32("hash", hash_))
        if data is None:
            raise NotFound(f"there is no evidence file {hash_}")
        return Response(data, media_type="application/json")

    @app.get("/healthz", response_model=None)
    async def healthz() -> Response:
        running = loops.is_running()
        body = {"ok": running and not loops.problems(), "problems": loops.problems(), "block": store.cursor()}
        return JSONResponse(body, status_code=200 if running else 503)

    @app.get("/retally/v1/findings")
    async def findings() -> dict[str, Any]:
        return {"findings": [finding_to_wire(found) for found in store.findings()]}

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def finding_to_wire(found: Finding) -> dict[str, Any]:
    """A finding without its answer: prompts leave in the evidence file of a case alone."""
    return {
        "commitId": str(found.commit_id),
        "rangeIndex": found.range_index,
        "k": found.k,
        "channel": to_hex(found.channel),
        "point": str(found.point),
        "owner": found.owner,
        "node": found.node,
        "payer": found.payer,
        "state": found.state.value,
        "verdict": found.verdict,
        "logE": round(found.log_e, 6),
        "receiptDigest": None if found.receipt_digest is None else to_hex(found.receipt_digest),
        "fee": str(found.fee),
        "detail": found.detail,
    }

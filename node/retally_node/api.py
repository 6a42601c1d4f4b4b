"""The node's HTTP interface."""

from __future__ import annotations

import hmac
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from retally.chain.recursion import bound_recursion
from retally.errors import BadRequest, NotFound, Unauthorized
from retally.protocol.eip712 import check_signed_by
from retally.protocol.encoding import parse_address, parse_bytes32, parse_object, parse_signature
from retally.protocol.voucher import MAX_VOUCHERS, ChannelId, Voucher
from retally.protocol.wire import JobSubmission, SignedAnswerRequest
from retally_node.answer import receipts_to_wire
from retally_node.http_edge import HttpEdge, install_error_handlers, read_json
from retally_node.inclusion import Inclusions
from retally_node.node import Node
from retally_node.run_job import run_job


def create_app(node: Node) -> FastAPI:
    """The app around a node."""
    bound_recursion()
    app = FastAPI(title="retally node", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(HttpEdge, max_body_bytes=node.settings.max_body_bytes)
    install_error_handlers(app)
    _add_market_routes(app, node)
    _add_audit_routes(app, node)
    _add_house_routes(app, node)
    return app


def _add_market_routes(app: FastAPI, node: Node) -> None:
    @app.get("/retally/v1/info")
    async def info() -> dict[str, Any]:
        return await node.info()

    @app.post("/retally/v1/jobs", response_model=None)
    async def jobs(request: Request) -> Any:
        submission = JobSubmission.from_wire(await read_json(request))
        return await run_job(node, submission, request.is_disconnected)

    @app.post("/retally/v1/vouchers")
    async def vouchers(request: Request) -> dict[str, Any]:
        body = parse_object("body", await read_json(request))
        items = body.get("vouchers")
        if not isinstance(items, list) or len(items) > MAX_VOUCHERS:
            raise BadRequest(f"vouchers must be a list of at most {MAX_VOUCHERS}", param="vouchers")
        return {"channels": [await _take_voucher(node, item) for item in items]}

    @app.get("/retally/v1/channels/{payer}/{signer}/{lane}")
    async def channel(payer: str, signer: str, lane: int) -> dict[str, Any]:
        if not 0 <= lane < 1 << 32:
            raise BadRequest("lane does not fit uint32", param="lane")
        channel_id = ChannelId(parse_address("payer", payer), parse_address("signer", signer), node.address, lane)
        return node.channel_state(channel_id).to_wire()


def _add_audit_routes(app: FastAPI, node: Node) -> None:
    inclusions = Inclusions(node.ledger)

    @app.get("/retally/v1/receipts/{job_id}")
    async def receipts(job_id: str) -> dict[str, Any]:
        key = parse_bytes32("jobId", job_id)
        if node.ledger.jobs.job(key) is None:
            raise NotFound(f"job {job_id} is not known here")
        return receipts_to_wire(key, node.ledger.jobs.receipts(key))

    @app.get("/retally/v1/receipts/{job_id}/inclusion")
    async def inclusion(job_id: str) -> dict[str, Any]:
        found = await inclusions.of(parse_bytes32("jobId", job_id))
        return {"jobId": job_id, "inclusions": [item.to_wire() for item in found]}

    @app.post("/retally/v1/answers", response_model=None)
    async def answers(request: Request) -> Response:
        signed = SignedAnswerRequest.from_wire(await read_json(request))
        # FastAPI's own way to JSON recurses some calls a level: a prompt that nests deep must not silence the node.
        body = msgspec.json.encode((await node.auditor.answer(signed)).to_wire())
        return Response(body, media_type="application/json")


def _add_house_routes(app: FastAPI, node: Node) -> None:
    @app.get("/healthz", response_model=None)
    async def healthz() -> Response:
        # A loop that waits for the chain does not stop the node from serving: it is named, not fatal.
        problems = node.problems()
        status = 200 if node.ledger.broken is None else 503
        return JSONResponse({"ok": not problems, "problems": problems}, status)

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        return Response(generate_latest(node.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/retally/v1/admin/settle", response_model=None)
    async def settle(request: Request) -> Response:
        _check_admin(node, request)
        outcome = await node.settlement.settle_now()
        return JSONResponse(outcome.to_wire())

    @app.get("/retally/v1/admin/status", response_model=None)
    async def status(request: Request) -> Response:
        _check_admin(node, request)
        return JSONResponse(await node.status())


async def _take_voucher(node: Node, item: object) -> dict[str, Any]:
    wire = parse_object("voucher", item)
    voucher = Voucher.from_wire(wire.get("voucher"))
    signature = parse_signature("signature", wire.get("signature"))
    if voucher.node != node.address:
        raise BadRequest("the voucher is for another node", param="voucher", code="voucher_mismatch")
    check_signed_by(voucher.digest(node.domain), signature, voucher.signer)
    channel = node.book.find(voucher.channel.key)
    if channel is None:
        # An unknown channel owes nothing: keeping strangers' promises would only fill the disk.
        raise NotFound("this node has no such channel; submit a job first")
    await node.ledger.money.keep_voucher(channel, voucher, signature)
    return channel.state().to_wire()


def _check_admin(node: Node, request: Request) -> None:
    token = node.settings.admin_token
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token is None or not hmac.compare_digest(given.encode(), token.get_secret_value().encode()):
        raise Unauthorized("this needs the node's admin token", hint="set admin_token and send it as Bearer")

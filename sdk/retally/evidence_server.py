"""Serves one evidence file to jurors while its case goes on."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from retally.errors import Conflict, NotFound, Unavailable, openai_envelope
from retally.keep_alive import SERVER_SECONDS
from retally.protocol.encoding import to_hex

_START_SECONDS = 10.0


def evidence_path(hash_: bytes) -> str:
    """Where a file of this hash lies under a server's address."""
    return f"/evidence/{to_hex(hash_)}"


def create_app(data: bytes, hash_: bytes) -> FastAPI:
    """An app that knows one file and nothing else."""
    app = FastAPI(title="retally evidence", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/evidence/{name}", response_model=None)
    async def evidence(name: str) -> Response:
        if name != to_hex(hash_):
            error = NotFound(f"there is no evidence file {name} here")
            return JSONResponse(openai_envelope(error), status_code=error.status)
        return Response(data, media_type="application/json")

    return app


@contextmanager
def serve_evidence(data: bytes, hash_: bytes, host: str, port: int) -> Iterator[int]:
    """The port on which the file is served while the block runs; 0 takes a free one."""
    listener = _listen(host, port)
    config = uvicorn.Config(
        create_app(data, hash_),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=SERVER_SECONDS,
    )
    server = uvicorn.Server(config)
    # A thread of its own: Ctrl-C stays with the command.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        _wait_started(server)
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(_START_SECONDS)
        listener.close()


def _wait_started(server: uvicorn.Server) -> None:
    until = time.monotonic() + _START_SECONDS
    while not server.started:
        if time.monotonic() >= until:
            raise Unavailable("the evidence could not be served in time", hint="nothing was opened; try again")
        time.sleep(0.01)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"port {port} is taken", code="port_taken", hint="choose another with --port") from error
        raise Conflict(f"{host}:{port} can't be bound: {error}", hint="choose others with --host, --port") from error
    return listener

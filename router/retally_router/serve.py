"""Serves a router in this process, on uvicorn or on the server of its own."""

from __future__ import annotations

import gc

import uvloop

from retally.keep_alive import SERVER_SECONDS
from retally_router.bootstrap import build_app
from retally_router.checked_settings import CheckedSettings
from retally_router.front import Front
from retally_router.logs import configure_logs
from retally_router.native_server import NativeServer, bound, serve_until_signal

GARBAGE_OBJECTS = 20_000


def run(settings: CheckedSettings) -> None:
    """Serves until a signal comes."""
    configure_logs(settings.log_level)
    serve(build_app(settings), settings)


def serve(app: Front, settings: CheckedSettings) -> None:
    """Serves an app until a signal comes."""
    # What was made so far stays: the collector need not look through it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 20, 50)
    if settings.server == "native":
        listener = bound(settings.host, settings.port, shared=settings.share_port)
        uvloop.run(serve_until_signal(native_server(app, settings), listener))
        return
    # Loaded here: the native server goes without it.
    import uvicorn

    from retally_router.http_protocol import RouterProtocol

    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=RouterProtocol,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=SERVER_SECONDS,
        timeout_graceful_shutdown=10,
    )


def native_server(app: Front, settings: CheckedSettings) -> NativeServer:
    """The native server over an app."""
    limits = {"max_body_bytes": settings.max_body_bytes}
    return NativeServer(app.hot, app.rest, **limits, client_seconds=settings.client_seconds)

"""`retally proxy`: serve OpenAI's API on this machine and pay with your own key."""

from __future__ import annotations

import errno
import socket
from typing import Annotated

import typer

from retally.cli.amounts import parse_amount
from retally.cli.jobs import renderer_of
from retally.cli.output import emit
from retally.cli.session import Session
from retally.errors import Conflict
from retally.keep_alive import SERVER_SECONDS

HOST = "127.0.0.1"


def proxy(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 8787,
    limit: Annotated[str | None, typer.Option(help="Refuse to spend more than this in this run, in rUSD.")] = None,
    daily_limit: Annotated[str | None, typer.Option(help="Refuse to spend more than this a day, in rUSD.")] = None,
) -> None:
    """Serve a local OpenAI endpoint that signs and pays with your own key, until Ctrl-C."""
    import uvicorn

    from retally.client import Client
    from retally.proxy import create_app
    from retally.wallet import Wallet

    session = Session(ctx)
    wallet = Wallet(session.key(), session.domain, session.home)
    client = Client(
        base_url=session.router_url,
        wallet=wallet,
        spending_limit=None if limit is None else parse_amount(limit),
        daily_limit=None if daily_limit is None else parse_amount(daily_limit),
        renderer=renderer_of(session),
        history=True,
        home=session.home,
    )
    listener = _listen(port)
    url = f"http://{HOST}:{listener.getsockname()[1]}/v1"
    view = f"{url} pays from {wallet.payer}; any API key will do. Ctrl-C ends it.\n"
    view += f"export OPENAI_BASE_URL={url} OPENAI_API_KEY=local"
    emit(ctx, {"baseUrl": url, "payer": wallet.payer, "router": session.router_url}, view)
    app = create_app(client.payment, session.router_url)
    config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_keep_alive=SERVER_SECONDS)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        wallet.close()


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"port {port} is taken", code="port_taken", hint="choose another with --port") from error
        raise
    return listener

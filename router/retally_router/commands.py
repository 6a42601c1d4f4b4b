"""`retally router`: serve, status."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.table import Table

from retally.cli.output import JsonGroup, emit, is_json
from retally.errors import Unavailable, error_of_envelope

app = typer.Typer(cls=JsonGroup, name="router", help="Run a router, or look at one.", no_args_is_help=True)

DEFAULT_URL = "http://127.0.0.1:8080"


class Server(StrEnum):
    """The HTTP servers that a router can run on."""

    ASGI = "asgi"
    NATIVE = "native"


@app.command()
def serve(
    ctx: typer.Context,
    config: Annotated[Path, typer.Option(help="TOML file with the router's settings.")],
    server: Annotated[Server | None, typer.Option(help="HTTP server, instead of the one in the settings.")] = None,
) -> None:
    """Serves until Ctrl-C."""
    from retally_router.settings import RouterSettings
    from retally_router.start import start

    settings = RouterSettings.load(config)
    chosen = settings if server is None else settings.model_copy(update={"server": server.value})
    start(chosen, as_json=is_json(ctx))


@app.command()
def status(
    ctx: typer.Context,
    url: Annotated[str, typer.Option(envvar="RETALLY_ROUTER_URL", help="The router's URL.")] = DEFAULT_URL,
) -> None:
    """Shows a router's health and its nodes."""
    with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
        health, nodes = _get(client, "/healthz"), _get(client, "/retally/v1/nodes")["nodes"]
    emit(ctx, {"health": health, "nodes": nodes}, _table(health, nodes))


def _get(client: httpx.Client, path: str) -> dict[str, Any]:
    try:
        answer = client.get(path)
    except httpx.TransportError as error:
        raise Unavailable(f"{client.base_url} does not answer: {error}", hint="does the router run?") from error
    body = answer.json()
    if answer.status_code >= 400 and "error" in body:
        raise error_of_envelope(answer.status_code, body)
    return dict(body)


def _table(health: dict[str, Any], nodes: list[dict[str, Any]]) -> Table:
    table = Table("node", "model", "in", "out", "load", "state", title=f"router: {health['status']}")
    for node in nodes:
        offer, load = node["offer"], node["load"]
        state = "routable" if node["routable"] else ("unaudited" if node["alive"] else "dead")
        busy = f"{load['running']}+{load['waiting']}"
        table.add_row(node["node"], node["model"], offer["priceIn"], offer["priceOut"], busy, state)
    return table

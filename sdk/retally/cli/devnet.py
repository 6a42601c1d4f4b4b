"""`retally devnet`: a whole network on this machine."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from retally.cli.output import NOT_FOUND, emit, table
from retally.cli.session import Session
from retally.devnet.control import down as end_devnet
from retally.devnet.control import processes
from retally.devnet.control import up as start_devnet
from retally.devnet.options import UpOptions
from retally.devnet.state import devnet_folder, read_state
from retally.errors import NotFound
from retally.protocol.params import EMBEDDINGS

app = typer.Typer(help="A whole network on this machine: chain, engine, nodes, router, verifier.", no_args_is_help=True)

_FOLLOW_SECONDS = 0.3


@app.command()
def up(
    ctx: typer.Context,
    seed: Annotated[int, typer.Option(help="Fixes every key of the network.")] = 0,
    nodes: Annotated[int, typer.Option(min=1, max=8, help="How many nodes share the engine.")] = 3,
    model_dir: Annotated[Path | None, typer.Option(help="Another model than the devnet's, with a manifest.")] = None,
    engine_url: Annotated[str | None, typer.Option(help="An engine that already serves the model.")] = None,
    time_scale: Annotated[int, typer.Option(min=1, max=1000, help="Divides every delay of the contracts.")] = 1,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="One node more that serves embeddings, with an engine of its own.")
    ] = False,
) -> None:
    """Start the network, wait until everything answers, and leave it running."""
    started = time.monotonic()
    errors = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(line: str) -> None:
        errors.print(f"{time.monotonic() - started:5.1f} s  {line}", markup=False)

    folder = str(model_dir.resolve()) if model_dir else None
    options = UpOptions(
        seed=seed,
        nodes=nodes,
        model_dir=folder,
        engine_url=engine_url,
        time_scale=time_scale,
        embeddings=embeddings,
    )
    state = start_devnet(Session(ctx).home, options, say)
    emit(ctx, state, _welcome(state))


@app.command()
def down(ctx: typer.Context) -> None:
    """End the network, whatever state it is in, with every process that belongs to it."""
    ended = end_devnet(Session(ctx).home)
    emit(ctx, {"ended": ended}, "the devnet has ended" if ended else "nothing was running")


@app.command()
def status(ctx: typer.Context) -> None:
    """Say whether the network runs, and what its processes take."""
    home = Session(ctx).home
    state, running = read_state(home), processes(home)
    emit(ctx, {"running": state is not None, "processes": running, "network": state}, _overview(state, running))
    if state is None:
        raise typer.Exit(NOT_FOUND)


@app.command()
def logs(
    ctx: typer.Context,
    service: Annotated[str | None, typer.Argument(help="Whose log; all of them are listed when left out.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines of the end.")] = 40,
) -> None:
    """Show what a process of the network wrote."""
    folder = devnet_folder(Session(ctx).home) / "logs"
    if service is None:
        sizes = {path.stem: path.stat().st_size for path in sorted(folder.glob("*.log"))}
        emit(ctx, {"folder": str(folder), "bytes": sizes})
        return
    path = folder / f"{service}.log"
    if not path.exists():
        raise NotFound(f"there is no log {path}", hint="`retally devnet logs` lists them")
    _show(path, lines, follow=follow)


def _show(path: Path, lines: int, *, follow: bool) -> None:
    with path.open(encoding="utf-8", errors="replace") as file:
        sys.stdout.write("".join(file.readlines()[-lines:] if lines else []))
        while follow:
            sys.stdout.write(file.read())
            sys.stdout.flush()
            time.sleep(_FOLLOW_SECONDS)


def _welcome(state: dict[str, Any]) -> Text:
    """Say what a newcomer needs next, ready to paste."""
    body = json.dumps({"model": state["model"], "messages": [{"role": "user", "content": "Hello"}], "stream": True})
    vectors = [
        f"  curl {state['router_url']}/v1/embeddings -H 'authorization: Bearer {state['api_key']}' \\",
        f"    -H 'content-type: application/json' -d '{json.dumps({'model': state['model'], 'input': 'Hello'})}'",
    ]
    embeds = any(node["serves"] == EMBEDDINGS for node in state["nodes"])
    lines = [
        f"Router    {state['router_url']}/v1",
        f"API key   {state['api_key']}",
        f"Model     {state['model']}",
        f"Chain     {state['rpc_url']} (31337)",
        *(f"Node      {node['url']}  {node['address']}  {node['serves']}" for node in state["nodes"]),
        "",
        "Try it:",
        f"  curl -N {state['router_url']}/v1/chat/completions -H 'authorization: Bearer {state['api_key']}' \\",
        f"    -H 'content-type: application/json' -d '{body}'",
        *(vectors if embeds else []),
        "",
        "retally devnet down ends it. Its keys are public: chain 31337 only.",
    ]
    return Text("\n".join(lines))


def _overview(state: dict[str, Any] | None, running: list[dict[str, Any]]) -> Text | Table:
    if state is None:
        strays = f" ({len(running)} stray processes: retally devnet down)" if running else ""
        return Text(f"no devnet runs{strays}")
    rows = table("pid", "MB", "command", title=f"devnet at {state['router_url']}")
    for row in running:
        rows.add_row(str(row["pid"]), str(row["rss_mb"]), row["command"])
    return rows

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

from retally.devnet.control import down as end_devnet
from retally.devnet.control import processes
from retally.devnet.control import up as start_devnet
from retally.devnet.state import devnet_folder, read_state, retally_home
from retally.devnet.supervisor import UpOptions

app = typer.Typer(help="A whole network on this machine: chain, engine, nodes, router, verifier.", no_args_is_help=True)

NOT_FOUND = 3
"""Exit code when there is nothing to act on."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
_FOLLOW_SECONDS = 0.3


@app.command()
def up(
    as_json: Json = False,
    seed: Annotated[int, typer.Option(help="Fixes every key of the network.")] = 0,
    nodes: Annotated[int, typer.Option(min=1, max=8, help="How many nodes share the engine.")] = 3,
    model_dir: Annotated[Path | None, typer.Option(help="Another model than the devnet's, with a manifest.")] = None,
    engine_url: Annotated[str | None, typer.Option(help="An engine that already serves the model.")] = None,
) -> None:
    """Start the network, wait until everything answers, and leave it running."""
    started = time.monotonic()
    errors = Console(stderr=True, highlight=False)

    def say(line: str) -> None:
        errors.print(f"{time.monotonic() - started:5.1f} s  {line}", markup=False, soft_wrap=True)

    folder = str(model_dir.resolve()) if model_dir else None
    options = UpOptions(seed=seed, nodes=nodes, model_dir=folder, engine_url=engine_url)
    state = start_devnet(retally_home(), options, say)
    if as_json:
        _print_json(state)
    else:
        _print_welcome(state)


@app.command()
def down(as_json: Json = False) -> None:
    """End the network, whatever state it is in, with every process that belongs to it."""
    ended = end_devnet(retally_home())
    if as_json:
        _print_json({"ended": ended})
    else:
        Console().print(f"ended {ended} processes" if ended else "nothing was running")


@app.command()
def status(as_json: Json = False) -> None:
    """Say whether the network runs, and what its processes take."""
    state, running = read_state(retally_home()), processes(retally_home())
    if as_json:
        _print_json({"running": state is not None, "processes": running, "network": state})
    elif state is None:
        Console().print(
            "no devnet runs" + (f" ({len(running)} stray processes: retally devnet down)" if running else "")
        )
    else:
        _print_processes(state, running)
    if state is None:
        raise typer.Exit(NOT_FOUND)


@app.command()
def logs(
    service: Annotated[str | None, typer.Argument(help="Whose log; all of them are listed when left out.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines of the end.")] = 40,
) -> None:
    """Show what a process of the network wrote."""
    folder = devnet_folder() / "logs"
    if service is None:
        for path in sorted(folder.glob("*.log")):
            Console().print(f"{path.stem:20} {path.stat().st_size:>10} bytes  {path}", soft_wrap=True)
        return
    path = folder / f"{service}.log"
    if not path.exists():
        Console(stderr=True).print(f"there is no log {path}; `retally devnet logs` lists them", soft_wrap=True)
        raise typer.Exit(NOT_FOUND)
    _show(path, lines, follow=follow)


def _show(path: Path, lines: int, *, follow: bool) -> None:
    with path.open(encoding="utf-8", errors="replace") as file:
        sys.stdout.write("".join(file.readlines()[-lines:] if lines else []))
        while follow:
            sys.stdout.write(file.read())
            sys.stdout.flush()
            time.sleep(_FOLLOW_SECONDS)


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


def _print_welcome(state: dict[str, Any]) -> None:
    """Say what a newcomer needs next, ready to paste."""
    body = json.dumps({"model": state["model"], "messages": [{"role": "user", "content": "Hello"}], "stream": True})
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\nRouter    {state['router_url']}/v1")
    console.print(f"API key   {state['api_key']}")
    console.print(f"Model     {state['model']}")
    console.print(f"Chain     {state['rpc_url']} (31337)")
    for node in state["nodes"]:
        console.print(f"Node      {node['url']}  {node['address']}")
    console.print("\nTry it:")
    console.print(
        f"  curl -N {state['router_url']}/v1/chat/completions -H 'authorization: Bearer {state['api_key']}' \\"
    )
    console.print(f"    -H 'content-type: application/json' -d '{body}'", markup=False)
    console.print("\nretally devnet down ends it. Its keys are public: chain 31337 only.")


def _print_processes(state: dict[str, Any], running: list[dict[str, Any]]) -> None:
    table = Table("pid", "MB", "command", title=f"devnet at {state['router_url']}")
    for row in running:
        table.add_row(str(row["pid"]), str(row["rss_mb"]), row["command"])
    Console().print(table)

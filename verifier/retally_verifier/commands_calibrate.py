"""`retally verifier calibrate` measures honest margins; `retally verifier calibrations` shows what is at hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from retally.cli.amounts import parse_amount
from retally.cli.output import emit, note, table
from retally.errors import BadRequest
from retally.protocol.calibration import Calibration
from retally.protocol.encoding import to_hex

Folder = Annotated[Path, typer.Argument(help="Folder of calibration files.", exists=True, file_okay=False)]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", help="TOML file with model, profiles and set-ups.", exists=True, dir_okay=False)
]
EngineUrl = Annotated[
    str | None, typer.Option(help="On a devnet, in place of --plan: its engine, measured as three set-ups.")
]
Cheaper = Annotated[
    list[str] | None, typer.Option(help="NAME=FOLDER of cheaper weights that a cheat might serve; with --engine-url.")
]
DeploymentFile = Annotated[
    Path | None, typer.Option(help="Deployment file; fills the command that registers the hash.", exists=True)
]


def calibrate(
    ctx: typer.Context,
    plan: PlanFile = None,
    engine_url: EngineUrl = None,
    cheaper: Cheaper = None,
    jobs: Annotated[int, typer.Option(min=1, help="Seeded honest jobs; half as many greedy ones.")] = 240,
    tokens: Annotated[int, typer.Option(min=1, max=900, help="Length of each answer.")] = 64,
    out: Annotated[Path, typer.Option(help="Where the calibration and its report go.")] = Path("calibrations"),
    shards: Annotated[Path, typer.Option(help="Where what is measured is kept; a second run goes on from it.")] = Path(
        ".retally-calibration"
    ),
    deployment: DeploymentFile = None,
    limit: Annotated[str, typer.Option(help="Pay nodes that the plan names no more than this, in rUSD.")] = "1",
) -> None:
    """Measure honest margins on at least three set-ups; write the calibration, its report and how to register it."""
    from retally_verifier.calibrate.run import Sizes
    from retally_verifier.calibrate.run import calibrate as measure

    planned = _plan(plan, engine_url, cheaper or [])
    market = _market(ctx, parse_amount(limit))
    work = measure(planned, Sizes(jobs, tokens), shards, out, deployment, lambda text: note(ctx, text), market)
    made = asyncio.run(work)
    data = {
        "file": str(made.path),
        "report": str(made.report),
        "hash": to_hex(made.calibration.hash),
        "modelId": to_hex(made.calibration.model_id),
        "nodeProfile": to_hex(made.calibration.node_profile),
        "verifierProfile": to_hex(made.calibration.verifier_profile),
        "measured": dict(made.calibration.measured),
        "register": made.command,
    }
    emit(ctx, data, _made_view(made))


def _made_view(made: Any) -> Group:
    lines = [f"{made.path}: {to_hex(made.calibration.hash)}", f"report: {made.report}"]
    for mode, outcome in made.outcomes.items():
        held = outcome.held
        lines.append(f"{mode}: {held.jobs} honest jobs held out, largest log e {held.largest_log_e:.2f}")
        lines += [
            f"  {name}: {outcome.power(name):.0%} of jobs held out are a mismatch" for name in outcome.held_cheats
        ]
    lines += [
        "",
        "It judges nothing before the Registry holds its hash. The owner of the contracts registers it by",
        "",
    ]
    return Group(*(Text(line) for line in (*lines, made.command)))


def _market(ctx: typer.Context, limit: int) -> Any:
    """Opens the chain and the key of this command's context when a plan names nodes."""
    from retally.cli.scorers import paying
    from retally.cli.session import Session

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        session = Session(ctx)
        async with session.chain() as chain, paying(session, chain, limit, lambda text: note(ctx, text)) as paid:
            yield paid

    return opened


def _plan(path: Path | None, engine_url: str | None, cheaper: list[str]) -> Any:
    from retally.devnet.tools import devnet_model_dir
    from retally_verifier.calibrate.plan import Plan

    if (path is None) == (engine_url is None):
        hint = "write a plan as verifier/examples/calibrate.toml shows; on a devnet pass its engine's URL"
        raise BadRequest("name the set-ups by either --plan or --engine-url", param="plan", hint=hint)
    if path is not None:
        return Plan.load(path)
    folders = {}
    for each in cheaper:
        name, is_pair, folder = each.partition("=")
        if not is_pair or not Path(folder).is_dir():
            raise BadRequest(f"{each!r} is not NAME=FOLDER", param="cheaper", hint="for example --cheaper int4=weights")
        folders[name] = Path(folder)
    return Plan.of_devnet(devnet_model_dir(), engine_url or "", folders)


def calibrations(ctx: typer.Context, folder: Folder) -> None:
    """Check calibration files and show the hashes that the Registry must hold."""
    found = [(path, _read(path)) for path in sorted(folder.glob("*.json"))]
    data = [
        {
            "file": str(path),
            "hash": to_hex(each.hash),
            "modelId": to_hex(each.model_id),
            "nodeProfile": to_hex(each.node_profile),
            "verifierProfile": to_hex(each.verifier_profile),
            "measured": dict(each.measured),
        }
        for path, each in found
    ]
    view = table("file", "hash", "tables")
    for path, each in found:
        view.add_row(path.name, to_hex(each.hash), ", ".join(sorted(each.tables)))
    emit(ctx, {"calibrations": data}, view)


def _read(path: Path) -> Calibration:
    try:
        return Calibration.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, BadRequest) as error:
        hint = "leave calibration files alone in their folder, or measure anew: retally verifier calibrate"
        raise BadRequest(f"{path} is no calibration: {error}", param="folder", hint=hint) from error

"""`retally verifier …`: what a verifier has found and what it judges by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from retally.chain.deployment import Deployment
from retally.cli.output import JsonGroup, emit, table
from retally.keystore import service_key
from retally.protocol.case import VerdictKind
from retally.protocol.encoding import to_hex
from retally_verifier.api import finding_to_wire
from retally_verifier.commands_calibrate import calibrate, calibrations
from retally_verifier.records import CommitState
from retally_verifier.settings import VerifierSettings
from retally_verifier.store import Store

app = typer.Typer(cls=JsonGroup, no_args_is_help=True, help="Run and look into a verifier.")
app.command()(calibrate)
app.command()(calibrations)

Config = Annotated[Path, typer.Option("--config", help="verifier.toml", exists=True, dir_okay=False)]


@app.command()
def serve(config: Config) -> None:
    """Run a verifier with the settings of a file."""
    from retally_verifier.bootstrap import run

    run(VerifierSettings.load(config))


@app.command()
def status(ctx: typer.Context, config: Config) -> None:
    """How far the verifier is, and what it has under way."""
    settings = VerifierSettings.load(config)
    deployment = Deployment.load(settings.deployment)
    store = Store(settings.data_dir / "verifier.sqlite")
    try:
        cases = [
            {"case": case.id, "owner": case.owner, "closed": case.closed, "verdict": case.verdict}
            for case in store.cases()
        ]
        data = {
            "verifier": service_key(settings, deployment.chain_id).address,
            "block": store.cursor(),
            "commits": {state.value: len(store.commits(state)) for state in CommitState},
            "cases": cases,
            "challenges": [{"id": to_hex(each.id), "closed": each.closed} for each in store.challenges()],
        }
    finally:
        store.close()
    emit(ctx, data)


@app.command()
def audits(
    ctx: typer.Context, config: Config, limit: Annotated[int, typer.Option(help="How many, latest first.")] = 100
) -> None:
    """The findings on drawn points."""
    settings = VerifierSettings.load(config)
    store = Store(settings.data_dir / "verifier.sqlite")
    try:
        found = store.findings(limit)
    finally:
        store.close()
    rows = [
        [str(each.commit_id), str(each.point), each.node, each.state.value, _name(each.verdict), f"{each.log_e:.2f}"]
        for each in found
    ]
    view = _view(["commit", "point", "node", "state", "verdict", "log e"], rows)
    emit(ctx, {"audits": [finding_to_wire(each) for each in found]}, view)


def _view(columns: list[str], rows: list[list[str]]) -> Table:
    view = table(*columns)
    for row in rows:
        view.add_row(*row)
    return view


def _name(verdict: int) -> str:
    return VerdictKind(verdict).name.lower() if verdict else ""

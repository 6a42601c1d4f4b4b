"""`retally verifier …`: what a verifier has found and what it judges by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from retally.chain.deployment import Deployment
from retally.cli.output import JsonGroup, emit, table
from retally.keystore import service_key
from retally.protocol.case import VerdictKind
from retally.protocol.encoding import to_hex
from retally_verifier.api import finding_to_wire
from retally_verifier.audit_commit import suspects_of
from retally_verifier.commands_calibrate import calibrate, calibrations
from retally_verifier.records import CommitState, Freeze
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
def work(
    config: Config,
    lane: Annotated[int, typer.Option(min=1, help="Of this worker alone; the leader's is in the file.")],
) -> None:
    """Judge points for the verifier that serves with this file; sends no transaction."""
    from retally_verifier.bootstrap import run

    settings = VerifierSettings.load(config)
    own = {"lane": lane, "data_dir": settings.data_dir / f"worker-{lane}"}
    run(settings.model_copy(update=own), as_worker=True)


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
            "frozen": [_freeze_to_wire(freeze) for freeze in store.freezes()],
            "suspects": [
                {"owner": each.owner, "alone": each.alone, "replays": each.replays, "reason": each.reason}
                for each in suspects_of(store, _last_time(store)).values()
            ],
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


def _freeze_to_wire(freeze: Freeze) -> dict[str, Any]:
    pair = freeze.pair
    return {
        "model": to_hex(pair.model_id),
        "nodeProfile": to_hex(pair.node_profile),
        "verifierProfile": to_hex(pair.verifier_profile),
        "since": freeze.since,
        "until": freeze.until,
        "reason": freeze.reason,
        "next": "measure the pair anew (retally verifier calibrate) or take its file out of calibration_dir",
    }


def _last_time(store: Store) -> int:
    """The time of the latest finding: this command asks no chain."""
    return max((found.time for found in store.findings(1)), default=0)


def _view(columns: list[str], rows: list[list[str]]) -> Table:
    view = table(*columns)
    for row in rows:
        view.add_row(*row)
    return view


def _name(verdict: int) -> str:
    return VerdictKind(verdict).name.lower() if verdict else ""

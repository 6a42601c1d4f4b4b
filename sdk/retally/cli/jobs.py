"""`retally jobs | receipt | verify-receipt`: what you paid for, and proof of it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from retally.checks import run_checks
from retally.cli.amounts import show_amount
from retally.cli.held_job import find_job, held_prompt, read_json, read_text
from retally.cli.output import FAILED, emit, table
from retally.cli.prove_inclusion import prove_inclusion
from retally.cli.session import Session
from retally.job_evidence import Checks, PromptRenderer
from retally.job_history import JobHistory
from retally.stored_job import evidence_of


def jobs(
    ctx: typer.Context, limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many.")] = 20
) -> None:
    """Show your latest jobs from this machine's history."""
    session = Session(ctx)
    found = JobHistory(session.home / "jobs.sqlite").list(limit)
    view = table("job", "when", "model", "cost", "checks")
    for job in found:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job["at"]))
        passed = "passed" if job["passed"] else "FAILED"
        view.add_row(job["jobId"][:18], when, job["model"], show_amount(int(job["cost"])), passed)
    emit(ctx, {"jobs": found}, view if found else "no jobs yet; try: retally chat")


def receipt(
    ctx: typer.Context,
    job_id: Annotated[str, typer.Argument(help="The job's id, or its beginning.")],
    inclusion: Annotated[
        bool, typer.Option("--inclusion", help="Also prove, against the chain, which commits hold the receipts.")
    ] = False,
) -> None:
    """Show a job's receipts: from this machine's history, else from the router."""
    session = Session(ctx)
    content = find_job(session, job_id)
    view = table("choice", "node", "in", "cached", "out", "fee", "money line", title=f"job {content['jobId']}")
    for item in content["receipts"]:
        signed = item["receipt"]
        fee = int(signed["cumTo"]) - int(signed["cumFrom"])
        out = signed["outputTo"] - signed["outputFrom"]
        counts = (str(signed["promptTokens"]), str(signed["cachedTokens"]), str(out))
        line = f"[{signed['cumFrom']}, {signed['cumTo']})"
        view.add_row(str(signed["choice"]), signed["node"], *counts, show_amount(fee), line)
    if inclusion:
        proven = prove_inclusion(session, content)
        content = {**content, "inclusion": proven}
        for entry in proven:
            committed = Text("committed", style="green")
            view.add_row(str(entry["choice"]), committed, "", "", "", f"commit {entry['commitId']}", "")
    emit(ctx, content, view)


def verify_receipt(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="What `retally receipt JOB --json` printed; `-` for standard input.")],
    prompt: Annotated[
        Path | None, typer.Option(help='The prompt as JSON: {"messages": […]}, {"prompt": "…"} or {"promptIds": […]}.')
    ] = None,
) -> None:
    """Make every offline check of a stored job again; exit code 1 when one fails."""
    session = Session(ctx)
    content = read_json(sys.stdin.read() if file == "-" else read_text(Path(file)), file)
    asked = held_prompt(prompt, None)
    domain = None if session.context.deployment is None else session.domain
    checks = run_checks(evidence_of(content, domain=domain, prompt=asked, renderer=renderer_of(session)))
    emit(
        ctx,
        {
            "jobId": content.get("jobId"),
            "passed": checks.passed,
            "complete": checks.complete,
            "checks": checks.as_dict(),
            "details": {check.name: check.detail for check in checks if check.detail},
        },
        checks_view(checks),
    )
    if not checks.passed:
        raise typer.Exit(FAILED)


def checks_view(checks: Checks) -> Any:
    """The checks as a table."""
    view = table("check", "", "")
    marks = {True: ("passed", "green"), False: ("FAILED", "red"), None: ("unknown", "dim")}
    for check in checks:
        view.add_row(check.name, Text(*marks[check.passed]), check.detail)
    return view


def renderer_of(session: Session) -> PromptRenderer | None:
    """The model's own template and tokenizer, where its files are at hand."""
    folder = session.context.model_dir
    if folder is None or not folder.exists():
        return None
    # Only here: the client itself never imports the inference package.
    from retally.inference.chat_format import ChatFormat

    return ChatFormat.load(folder).render

"""`retally verify`: re-execute one of your jobs and see, token by token, whether the answer is the model's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retally.cli.amounts import parse_amount
from retally.cli.held_job import AskText, HeldJob, ModelDir, PromptFile, Receipt, held_job
from retally.cli.output import emit, note, verdict_code
from retally.cli.session import Session, run
from retally.errors import BadRequest
from retally.job_evidence import Evidence
from retally.protocol.encoding import Bytes32, parse_bytes32

if TYPE_CHECKING:
    from retally.verify_job import JobReport


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who shall replay, by what calibrations, for how much."""

    engine_url: str | None
    engine_model: str | None
    profile: str | None
    profile_file: Path | None
    nodes: tuple[str, ...]
    calibrations: Path | None
    limit: int


EngineUrl = Annotated[
    str | None, typer.Option(help="Your own vLLM with the job's model; it needs --max-logprobs 66, no sampler.")
]
EngineModel = Annotated[str | None, typer.Option(help="The model's name there, if it is another.")]
Profile = Annotated[
    str | None, typer.Option(help="Profile id that your engine runs under; else taken to be the node's.")
]
ProfileFile = Annotated[
    Path | None, typer.Option(help="That profile as a file; replays of an exact one are judged by equality (R-72).")
]
Nodes = Annotated[
    list[str] | None, typer.Option(help="A node of another owner, by address or URL, that scores for money.")
]
Limit = Annotated[str, typer.Option(help="Pay nodes no more than this, in rUSD.")]
CalibrationDir = Annotated[
    Path | None, typer.Option(help="Folder of calibration files; else those of the devnet's model.")
]


def verify(
    ctx: typer.Context,
    receipt: Receipt,
    prompt: PromptFile = None,
    ask: AskText = None,
    engine_url: EngineUrl = None,
    engine_model: EngineModel = None,
    profile: Profile = None,
    profile_file: ProfileFile = None,
    node: Nodes = None,
    limit: Limit = "1",
    model_dir: ModelDir = None,
    calibrations: CalibrationDir = None,
) -> None:
    """Re-execute a job: broken rules first, then a replay token by token, then the verdict (R-35).

    Exit codes: 0 match, 6 mismatch, 7 inconclusive; 2 where receipt and prompt are not one job's, 3 for an unknown one.
    """
    session = Session(ctx)
    nodes, most = tuple(node or ()), parse_amount(limit)
    wanted = Wanted(engine_url, engine_model, profile, profile_file, nodes, calibrations, most)
    job = held_job(session, receipt, prompt, ask, model_dir)

    from retally.cli.verify_view import report_json, report_view
    from retally.inference.profile_files import exact_profiles

    exact = exact_profiles([profile_file] if profile_file else [])
    job = replace(job, kit=replace(job.kit, exact=exact))
    report, text = run(lambda: _verified(ctx, session, wanted, job)), job.chat_format.token_text
    emit(ctx, report_json(report, text), report_view(report, text, job.model))
    raise typer.Exit(verdict_code(report.verdict))


async def _verified(ctx: typer.Context, session: Session, wanted: Wanted, job: HeldJob) -> JobReport:
    from retally.chain.calibrations import CalibrationFiles
    from retally.cli.scorers import UncheckedCalibrations
    from retally.verify_job import verify_job

    # What needs no replay comes before anybody is paid or asked for a password.
    unchecked = UncheckedCalibrations(CalibrationFiles())
    alone = await verify_job(job.evidence, session.domain, job.kit, (), unchecked)
    if not alone.awaits_replay:
        return alone
    async with _replaying(ctx, session, wanted, job.evidence, job.model) as (scorers, known):
        return await verify_job(job.evidence, session.domain, job.kit, scorers, known)


@asynccontextmanager
async def _replaying(
    ctx: typer.Context, session: Session, wanted: Wanted, evidence: Evidence, model: str
) -> AsyncIterator[tuple[Sequence[Any], Any]]:
    """The re-executors that are wanted, and the calibrations that judge by them."""
    from retally.chain.calibrations import CalibrationFiles, Calibrations
    from retally.cli.scorers import UncheckedCalibrations
    from retally.devnet.catalogue import CALIBRATIONS
    from retally.inference.own_engine import own_engine

    folder = wanted.calibrations or CALIBRATIONS
    async with AsyncExitStack() as stack:
        scorers: list[Any] = []
        if wanted.engine_url is not None:
            name = wanted.engine_model or model
            scorer, engine = await own_engine(wanted.engine_url, name, _profile(wanted, evidence))
            stack.push_async_callback(engine.close)
            scorers.append(scorer)
        if session.context.rpc_url is None and not wanted.nodes:
            files = CalibrationFiles()
            files.load(folder)
            note(ctx, "no chain is known: whether the calibration may judge already is not checked")
            yield scorers, UncheckedCalibrations(files)
            return
        chain = await stack.enter_async_context(session.chain())
        known = Calibrations(chain.registry)
        known.load(folder)
        if wanted.nodes:
            scorers += await _paid_nodes(ctx, session, stack, chain, wanted, evidence)
        yield scorers, known


async def _paid_nodes(
    ctx: typer.Context, session: Session, stack: AsyncExitStack, chain: Any, wanted: Wanted, evidence: Evidence
) -> list[Any]:
    from retally.cli.scorers import paying

    paid = await stack.enter_async_context(paying(session, chain, wanted.limit, lambda text: note(ctx, text)))
    receipts = [leaf.receipt for leaf in evidence.receipts]
    note(ctx, f"{paid.payer} pays {len(wanted.nodes)} nodes for scores; they see the prompt and the answer")
    return [await paid.node(where, receipts) for where in wanted.nodes]


def _profile(wanted: Wanted, evidence: Evidence) -> Bytes32:
    if wanted.profile_file is not None:
        from retally.inference.profile_files import ProfileFile

        named = ProfileFile.load(wanted.profile_file)
        if wanted.profile is not None:
            named.check_declared(parse_bytes32("profile", wanted.profile))
        return named.profile_id
    if wanted.profile is not None:
        return parse_bytes32("profile", wanted.profile)
    profiles = {leaf.receipt.profile_id for leaf in evidence.receipts}
    if len(profiles) > 1:
        hint = "say which one your engine runs under: --profile"
        raise BadRequest("the job's receipts are of several profiles", param="profile", hint=hint)
    return profiles.pop()

"""One calibration from its plan to its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from retally.errors import BadRequest
from retally.inference.chat_format import ChatFormat
from retally.inference.model_files import ModelFiles
from retally.protocol.calibration import Calibration
from retally.protocol.encoding import to_hex
from retally_verifier.calibrate.canaries import RANGES, Canaries
from retally_verifier.calibrate.measure import Bench, Progress
from retally_verifier.calibrate.open_setups import Market, SetUps
from retally_verifier.calibrate.outcome import LEAST_JOBS, Outcome, TooFewJobs, check_noise, notes, outcome_of
from retally_verifier.calibrate.plan import Plan, profile_of
from retally_verifier.calibrate.registering import command_to_register
from retally_verifier.calibrate.report import report_html
from retally_verifier.calibrate.setups import ReferenceSetUp, SetUp
from retally_verifier.calibrate.shards import Shards, write_whole


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    jobs: int
    tokens: int

    @property
    def greedy_jobs(self) -> int:
        """Greedy jobs differ less."""
        return self.jobs // 2


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What a run gave."""

    calibration: Calibration
    outcomes: Mapping[str, Outcome]
    path: Path
    report: Path
    command: str


async def calibrate(
    plan: Plan,
    sizes: Sizes,
    shards: Path,
    out: Path,
    deployment: Path | None,
    say: Progress,
    market: Market | None = None,
) -> Calibrated:
    """Measures what is planned and writes the calibration and its report."""
    plan.check()
    node, verifier = profile_of(plan.node_profile), profile_of(plan.verifier_profile)
    files = ModelFiles.load(plan.model_dir)
    files.check_unchanged()
    share = sizes.greedy_jobs // sum(setup.url is not None for setup in plan.setups)
    if share < LEAST_JOBS:
        raise TooFewJobs(f"with --jobs {sizes.jobs} each set-up that answers", share)
    async with AsyncExitStack() as stack:
        canaries = Canaries(ChatFormat.load(plan.model_dir))
        opening = SetUps(stack, plan, files, canaries, verifier.id, market)
        setups = [await opening.open(planned) for planned in plan.setups]
        bench = Bench(setups, canaries, Shards(shards), say)
        outcomes = await _outcomes(bench, plan, sizes, canaries, (node.dtype, verifier.dtype))
    measured = {"tokensPerJob": sizes.tokens, **{mode: notes(outcome) for mode, outcome in outcomes.items()}}
    tables = {mode: outcome.table for mode, outcome in outcomes.items()}
    made = Calibration(files.model_id, node.id, verifier.id, tables, RANGES, measured)
    path = out / f"{to_hex(made.model_id)[2:10]}-{to_hex(made.node_profile)[2:10]}.json"
    if verifier.id != node.id:
        path = path.with_stem(f"{path.stem}-{to_hex(verifier.id)[2:10]}")
    command = command_to_register(made, deployment)
    report = path.with_suffix(".html")
    write_whole(path, json.dumps(made.to_json(), indent=1, sort_keys=True) + "\n")
    write_whole(report, report_html(made, outcomes, command))
    return Calibrated(made, outcomes, path, report, command)


async def _outcomes(
    bench: Bench, plan: Plan, sizes: Sizes, canaries: Canaries, dtypes: tuple[str, str]
) -> dict[str, Outcome]:
    cheaper: dict[str, SetUp] = {}
    for name, folder in plan.cheaper.items():
        label = _label_of(folder)
        cheaper[name] = ReferenceSetUp(name, name, folder, canaries.eos_ids, label=label, answers=True)
    await bench.check()
    outcomes = {}
    for mode, count in (("seeded", sizes.jobs), ("greedy", sizes.greedy_jobs)):
        cheats = max(8, count // 5)
        measured = await bench.measure(count, cheats, sizes.tokens, greedy=mode == "greedy", cheaper=cheaper)
        check_noise(measured, dtypes)
        outcomes[mode] = outcome_of(measured)
    return outcomes


def _label_of(folder: Path) -> str:
    """What stands for weights that have no manifest."""
    digest = hashlib.sha256()
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise BadRequest(f"{folder} holds no *.safetensors", param="cheaper", hint="name a folder of weights")
    for path in weights:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

"""Measure how much evidence audits give; `scripts/measure_evidence` runs it.

Set-ups are visited one after the other, each as long as it has shards to make; what is there already is not measured
again, so an interrupted run goes on, and several runs with different `--only` can share the work. Then tables are made
from three quarters of the honest jobs at a time, and judge the fourth. Usage: scripts/measure_evidence --help
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import evidence_report
from evidence_jobs import CHUNK, WEIGHTS, Prompts
from evidence_plan import HF16, HF32, VLLM16, VLLM32, Batch, Engine, Plan, SetUp
from evidence_runners import ReferenceRunner, Runner, VllmRunner, replay_of
from evidence_shards import FOLDER, Segment, Shards
from retally.devnet.tools import devnet_model_dir

CHEAPER = tuple(Engine("vllm", "float32", weights) for weights in WEIGHTS)
#: Jobs a shard of a run that is only a test.
QUICK_JOBS = 4
#: What may not run at all comes last.
ENGINES = (VLLM32, *CHEAPER, HF32, HF16, VLLM16)


class Measurement:
    """A plan, and the engines that carry it out."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.skipped: dict[Engine, str] = {}

    def run(self, engines: Sequence[Engine]) -> None:
        """Visit engines while any of them has something to do."""
        busy = True
        while busy:
            busy = False
            for engine in engines:
                if engine not in self.skipped and self.has_work(engine):
                    busy = True
                    self.visit(engine)

    def has_work(self, engine: Engine) -> bool:
        """Whether a shard is missing that this engine can make now."""
        return any(self._is_answerable(batch, engine) or self._verifiers(batch, engine) for batch in self._batches())

    def visit(self, engine: Engine) -> None:
        """Load it and make all shards that it can."""
        started = time.monotonic()
        try:
            with closing(self._load(engine)) as runner:
                say(f"{engine.library} {engine.dtype} {engine.weights}: ready in {time.monotonic() - started:.0f} s")
                for batch in self._batches():
                    self._do(batch, engine, runner)
        except RuntimeError as error:
            if engine.dtype == "float32":
                raise
            # Some processors can't serve bfloat16; the rest of the measurement goes on without it.
            self.skipped[engine] = str(error).splitlines()[0]
            say(f"{engine}: skipped: {error}")

    def _load(self, engine: Engine) -> Runner:
        folder = self.plan.folder(engine.weights)
        eos = self.plan.prompts.form.eos_ids
        if engine.library == "vllm":
            return VllmRunner(folder, engine.dtype, eos)
        return ReferenceRunner(folder, engine.dtype, eos)

    def _batches(self) -> list[Batch]:
        return list(self.plan.batches())

    def _is_answerable(self, batch: Batch, engine: Engine) -> bool:
        path = self.plan.answer_path(batch)
        return batch.node.engine == engine and path is not None and not path.exists()

    def _verifiers(self, batch: Batch, engine: Engine) -> list[SetUp]:
        answers = self.plan.answer_path(batch)
        if answers is None or not answers.exists():
            return []
        missing = [each for each in self.plan.verifiers(batch) if not self.plan.replay_path(answers, each).exists()]
        return [each for each in missing if each.engine == engine]

    def _do(self, batch: Batch, engine: Engine, runner: Runner) -> None:
        plan, started = self.plan, time.monotonic()
        if self._is_answerable(batch, engine):
            segments, path = plan.segments(batch), plan.answer_path(batch)
            if segments is not None and path is not None:
                answers = answered(runner, segments, batch.node.at_once)
                plan.shards.save_answers(path, answers)
                say_shard(f"{batch.node.name} answers", batch, sum(map(len, answers)), started)
        for verifier in self._verifiers(batch, engine):
            started = time.monotonic()
            source = plan.answer_path(batch)
            if source is not None:
                pairs = list(zip(plan.jobs(batch), plan.shards.load_answers(source), strict=True))
                scores = runner.score(pairs, verifier.at_once)
                eos = plan.prompts.form.eos_ids
                rows = [replay_of(job, ids, each, eos) for (job, ids), each in zip(pairs, scores, strict=True)]
                plan.shards.save_replays(plan.replay_path(source, verifier), rows)
                say_shard(
                    f"{verifier.name} replays {batch.node.name}", batch, sum(len(ids) for _, ids in pairs), started
                )


def answered(runner: Runner, segments: Sequence[Segment], at_once: int) -> list[tuple[int, ...]]:
    """Whole answers: what was given and what was sampled behind it."""
    open_ones = [segment for segment in segments if not segment.is_whole]
    sampled = iter(runner.answer(open_ones, at_once))
    return [each.given if each.is_whole else (*each.given, *next(sampled)) for each in segments]


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def say_shard(what: str, batch: Batch, tokens: int, started: float) -> None:
    """A line for a finished shard."""
    name = f"{batch.cheat or 'honest'}{' base' if batch.is_base else ''}"
    say(f"  {what}: {name} {batch.chunk}, {tokens} tokens in {time.monotonic() - started:.1f} s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then make and print the tables."""
    options = _options(arguments)
    model_dir = options.model
    with tempfile.TemporaryDirectory(prefix="evidence-") as scratch:
        folder = options.cache or (Path(scratch) if options.quick else FOLDER)
        prompts = Prompts.of(model_dir, QUICK_JOBS if options.quick else CHUNK)
        plan = Plan(prompts, model_dir, Shards(folder), is_quick=options.quick, scale=options.scale)
        measurement = Measurement(plan)
        if not options.no_run:
            wanted = options.only or ["vllm", "transformers"]
            engines = [engine for engine in ENGINES if {engine.library, engine.weights, engine.dtype} & set(wanted)]
            measurement.run(engines)
        if options.only:
            return 0
        notes = {f"{engine.library} {engine.dtype}": why for engine, why in measurement.skipped.items()}
        report = evidence_report.report(plan, notes, owners=options.owners)
    print(evidence_report.markdown(report))
    if options.write:
        evidence_report.write(report)
    if options.json:
        print(json.dumps(evidence_report.compact(report)))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    parser.add_argument("--quick", action="store_true", help="few jobs in a folder of their own: only a test")
    parser.add_argument("--only", action="append", help="make shards of one library, weights or dtype; no tables")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the honest jobs")
    parser.add_argument("--owners", type=int, default=5_000, help="honest owners of the bootstrap")
    parser.add_argument("--no-run", action="store_true", help="tables from the shards that are there")
    parser.add_argument("--write", action="store_true", help="write docs/data")
    parser.add_argument("--model", type=Path, default=devnet_model_dir())
    parser.add_argument("--cache", type=Path, help=f"the folder of the shards, else {FOLDER.name}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

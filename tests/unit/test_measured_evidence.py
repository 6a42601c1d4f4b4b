"""The measurement of evidence: shards go on where they stopped, tables hold, owners count as the protocol says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import evidence_bootstrap
import evidence_pairs
import evidence_plan
import evidence_report
import evidence_results
import evidence_tables
import evidence_weights
import measure_evidence
from economics_evidence import distribution
from evidence_jobs import CHEATS, CHUNK, UNSEEN, Prompts, edit, lie
from evidence_plan import BATCHED, FEW, REFERENCE, Batch, Engine, Plan
from evidence_runners import Scores, replay_of
from evidence_shards import Job, Replay, Segment, Shards
from make_cheaper_weights import MODEL
from retally.protocol.calibration import PROBABILITY
from retally.protocol.encoding import Address
from retally.protocol.evidence import JobEvidence, margin_log_e, owner_wealth_log
from retally.protocol.margins import TOP

PROMPTS = Prompts.of(MODEL, 4)
VOCABULARY = 200
TOKENS = 16


@pytest.fixture(autouse=True)
def _short_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evidence_jobs.TOKENS", TOKENS)
    # No weights are made: a name is enough where nothing loads them.
    monkeypatch.setattr(Plan, "sha", lambda self, weights: weights)


class FakeRunner:
    """A model that likes the token after the last one; a cheaper one shifts its taste by one."""

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift
        self.answered = self.scored = 0

    def answer(self, segments: Sequence[Segment], at_once: int) -> list[tuple[int, ...]]:
        self.answered += len(segments)
        return [self._ids(each) for each in segments]

    def score(self, jobs: Sequence[tuple[Job, Sequence[int]]], at_once: int) -> list[Scores]:
        self.scored += len(jobs)
        return [self._scores(job, ids) for job, ids in jobs]

    def close(self) -> None:
        """Nothing to let go."""

    def _ids(self, segment: Segment) -> tuple[int, ...]:
        ids = [*segment.job.prompt_ids, *segment.given]
        count = TOKENS - len(segment.given)
        return tuple(self._next(ids[-1] + step) for step in range(count))

    def _next(self, before: int) -> int:
        return 10 + (before + 1 + self.shift) % VOCABULARY

    def _scores(self, job: Job, ids: Sequence[int]) -> Scores:
        best = np.array([[10 + (token + offset) % VOCABULARY for offset in range(TOP)] for token in ids])
        falling = np.tile(-0.01 - np.arange(TOP) * 30.0, (len(ids), 1)).astype(np.float32)
        if self.shift:
            falling = falling[:, ::-1]
        return Scores(best.astype(np.int32), falling, falling[:, 0])


def plan_in(folder: Path) -> Plan:
    return Plan(PROMPTS, MODEL, Shards(folder), is_quick=True)


def jobs(count: int, rate: float, size: float, seed: int, tokens: int = 256) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.where(rng.random(tokens) < rate, rng.exponential(size, tokens), 0.0) for _ in range(count)]


class TestShards:
    def test_name_says_all_that_determines_them(self, tmp_path: Path) -> None:
        plan = plan_in(tmp_path)
        batch = Batch(BATCHED, 0)
        paths = {
            plan.answer_path(batch),
            plan.answer_path(Batch(BATCHED, 1)),
            plan.answer_path(Batch(FEW, 0)),
            plan.answer_path(Batch(REFERENCE, 0)),
        }
        assert len(paths) == 4
        assert plan.answer_path(batch) == plan_in(tmp_path).answer_path(batch)

    def test_another_version_measures_anew(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shards = Shards(tmp_path)
        before = shards.path("answers", [1])
        monkeypatch.setattr("evidence_shards.VERSION", 99)
        assert shards.path("answers", [1]) != before

    def test_come_back_as_they_were_saved(self, tmp_path: Path) -> None:
        shards = Shards(tmp_path)
        replay = Replay(np.array([0.0, 0.25, 0.0, 10.0]), np.array([-1.5, -0.25, -3.0, -12.0]))
        shards.save_replays(tmp_path / "r", [replay])
        (found,) = shards.load_replays(tmp_path / "r")
        assert found.margins.tolist() == replay.margins.tolist()
        assert found.logprobs.tolist() == replay.logprobs.tolist()
        shards.save_answers(tmp_path / "a", [(1, 2), (3,)])
        assert shards.load_answers(tmp_path / "a") == [(1, 2), (3,)]

    def test_an_interrupted_run_goes_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        runner = FakeRunner()
        monkeypatch.setattr(measure_evidence.Measurement, "_load", lambda self, engine: runner)
        engine = BATCHED.engine
        plan = plan_in(tmp_path)
        measure_evidence.Measurement(plan).run([engine])
        first = (runner.answered, runner.scored)
        assert all(first)
        measure_evidence.Measurement(plan_in(tmp_path)).run([engine])
        assert (runner.answered, runner.scored) == first
        path = plan.answer_path(Batch(BATCHED, 0))
        assert path is not None
        replayed = plan.replay_path(path, BATCHED)
        replayed.unlink()
        measure_evidence.Measurement(plan_in(tmp_path)).run([engine])
        assert (runner.answered, runner.scored) == (first[0], first[1] + 4)
        assert replayed.exists()


class TestCheats:
    def test_each_runs_something_else_than_was_asked(self) -> None:
        for cheat in CHEATS:
            job = PROMPTS.cheated(cheat, 1)[0]
            ran = lie(cheat, job, PROMPTS).job
            assert (ran == job) == (cheat in (*evidence_plan.WEIGHTS, *evidence_plan.EDITS))

    def test_a_splice_replaces_one_token(self) -> None:
        job = PROMPTS.cheated("splice", 1)[0]
        honest = list(range(100, 100 + TOKENS))
        given = edit("splice", job, honest, PROMPTS).given
        assert given[:-1] == tuple(honest[: len(given) - 1])
        assert given[-1] != honest[len(given) - 1]

    def test_an_early_stop_ends_at_the_half(self) -> None:
        job = PROMPTS.cheated("early-stop", 1)[0]
        segment = edit("early-stop", job, list(range(100, 180)), PROMPTS)
        assert segment.is_whole
        assert len(segment.given) == 41
        assert segment.given[-1] in PROMPTS.form.eos_ids
        assert job.params.min_tokens == 0

    def test_answer_is_what_was_given_and_what_was_sampled(self) -> None:
        job = PROMPTS.cheated("splice", 1)[0]
        segments = [Segment(job, (1, 2), is_whole=True), Segment(job, (3,))]
        whole, spliced = measure_evidence.answered(FakeRunner(), segments, 8)
        assert whole == (1, 2)
        assert spliced[0] == 3
        assert len(spliced) == TOKENS

    @pytest.mark.parametrize("kind", ["int4", "int8", "fp8"])
    def test_rounded_weights_keep_the_embedding(self, kind: str) -> None:
        genuine = evidence_weights.load_file(MODEL / evidence_weights.WEIGHTS)
        cheap = evidence_weights.rounded(kind, MODEL)
        changed = {name for name, value in genuine.items() if not value.float().equal(cheap[name])}
        assert changed
        assert all("embed" not in name and genuine[name].dim() == 2 for name in changed)

    def test_eight_bits_are_finer_than_four(self) -> None:
        weight = evidence_weights.load_file(MODEL / evidence_weights.WEIGHTS)["model.layers.0.mlp.up_proj.weight"]
        errors = [float((each(weight) - weight.float()).abs().mean()) for each in evidence_weights.ROUNDING.values()]
        four, eight, floating = errors
        assert 0 < eight < floating < four

    def test_nothing_that_a_node_reports_is_evidence(self) -> None:
        # Laundered or not: margins come from the re-executor's scores and the claimed ids alone.
        job = replace(PROMPTS.cheated("int4", 1)[0], seed=bytes(32))
        ids = FakeRunner(1).answer([Segment(job)], 1)[0]
        (scores,) = FakeRunner().score([(job, ids)], 1)
        published = replace(scores, claimed_logprobs=np.zeros_like(scores.claimed_logprobs))
        one, two = (replay_of(job, ids, each, PROMPTS.form.eos_ids).margins for each in (scores, published))
        assert one.tolist() == two.tolist()


class TestTables:
    HONEST = {"alone": jobs(200, 0.0, 0.1, 1), "other": jobs(200, 0.004, 0.02, 2)}  # noqa: RUF012  # read only
    SEEN = {"int4": jobs(32, 0.05, 0.8, 3), "seed": jobs(32, 0.6, 3.0, 4)}  # noqa: RUF012  # read only

    def test_frees_the_honest_and_sees_cheats(self) -> None:
        table = evidence_tables.fit(self.HONEST, self.SEEN).table
        assert sum(table.cheat) <= PROBABILITY
        assert all(margin_log_e(job, table) < 9.2 for job in jobs(300, 0.004, 0.02, 5))
        assert np.mean(evidence_tables.log_es(jobs(50, 0.05, 0.8, 6), table) > 9.2) > 0.85

    def test_without_the_laws_one_far_token_says_less(self) -> None:
        spliced = np.zeros(256)
        spliced[9] = 5.0
        found = evidence_tables.fit({"alone": self.HONEST["alone"]}, self.SEEN, 1e-4)
        tables = (found.table, found.under_square, found.without_laws)
        by_law, by_square, seen = (margin_log_e(spliced, table) for table in tables)
        assert by_law >= by_square > seen

    def test_no_job_is_judged_by_a_table_that_it_made(self) -> None:
        pair = evidence_pairs.pair_of(evidence_plan.BATCHED, evidence_plan.REFERENCE)
        for number in range(evidence_pairs.PARTS):
            pair.quarters[number].append(Replay(np.full(4, number), np.zeros(4)))
        for number in range(evidence_pairs.PARTS):
            made_by = {int(row.margins[0]) for row in pair.without(number)}
            assert made_by == set(range(evidence_pairs.PARTS)) - {number}

    def test_quarters_follow_the_seeds_whoever_replays(self, tmp_path: Path) -> None:
        plan = Plan(PROMPTS, MODEL, Shards(tmp_path))
        batch = evidence_plan.Batch(evidence_plan.BATCHED, 3)
        quarters = evidence_pairs.quarters(plan, batch)
        assert [quarters.count(number) for number in range(evidence_pairs.PARTS)] == [len(quarters) // 4] * 4
        ordered = [number for _, number in sorted(zip([job.seed for job in plan.jobs(batch)], quarters, strict=True))]
        assert ordered == sorted(quarters)


class TestBootstrap:
    def test_paths_are_the_protocols_wealth(self) -> None:
        log_es = np.array([[2.0, -1.0, 5.0, 0.3], [-0.5, -0.5, 18.0, 18.0]])
        paths = evidence_bootstrap.wealth_paths(log_es)
        for row, path in zip(log_es, paths, strict=True):
            shown = [JobEvidence(Address(f"payer {n}"), float(value)) for n, value in enumerate(row)]
            expected = [owner_wealth_log(shown[: n + 1], 0) for n in range(len(row))]
            assert path.tolist() == pytest.approx(expected)

    def test_honest_owners_stay_poor(self) -> None:
        crowd = evidence_bootstrap.honest_owners(np.array([-0.8, -0.5, 0.1]), 250, seed=1, audits=400)
        assert crowd.owners == 250
        assert crowd.convicted == 0
        assert crowd.largest < 3

    def test_rarer_cheating_asks_for_more_audits(self) -> None:
        cheat = np.array([9.0, 12.0, -0.5])
        found = [evidence_bootstrap.conviction(cheat, rate, 60, seed=1) for rate in (1.0, 0.2, 0.05)]
        medians = [each.median or 0 for each in found]
        assert medians == sorted(medians)
        assert all(each.share == 1 for each in found)
        assert medians[0] >= 2

    def test_no_evidence_never_convicts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(evidence_bootstrap, "MOST_AUDITS", 200)
        found = evidence_bootstrap.conviction(np.array([-0.5]), 1.0, 10, seed=1)
        assert (found.share, found.median, found.p95) == (0, None, None)


class TestReport:
    def test_of_fake_engines_goes_into_the_economics(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = plan_in(tmp_path)
        loads = {"genuine": 0}
        monkeypatch.setattr(
            measure_evidence.Measurement,
            "_load",
            lambda self, engine: FakeRunner(loads.get(engine.weights, 1)),
        )
        monkeypatch.setattr(evidence_results, "CHEATING_OWNERS", 2)
        monkeypatch.setattr(evidence_bootstrap, "MOST_AUDITS", 50)
        measure_evidence.Measurement(plan).run(measure_evidence.ENGINES)
        found = evidence_report.report(plan, {}, owners=3)
        assert found["jobs"]["source"] == "measured"
        assert {"int4", "int4-same-kernels", "honest"} <= set(found["jobs"]["jobs"])
        for entry in found["jobs"]["jobs"].values():
            assert distribution(entry).shares.sum() == pytest.approx(1)
        text = evidence_report.markdown(found)
        assert all(cheat in text for cheat in CHEATS)


def test_unseen_cheats_make_no_alternative(tmp_path: Path) -> None:
    assert len(UNSEEN) >= 3
    plan = Plan(PROMPTS, MODEL, Shards(tmp_path))
    for cheat in CHEATS:
        assert (0 in plan.chunks(cheat)) == (cheat not in UNSEEN)
        assert sum(chunk > 0 for chunk in plan.chunks(cheat)) * CHUNK >= 96


def test_bfloat16_may_be_skipped_and_float32_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, engine: Engine) -> FakeRunner:
        raise RuntimeError("illegal instruction")

    monkeypatch.setattr(measure_evidence.Measurement, "_load", refuse)
    measurement = measure_evidence.Measurement(plan_in(tmp_path))
    measurement.run([evidence_plan.VLLM16])
    assert list(measurement.skipped.values()) == ["illegal instruction"]
    with pytest.raises(RuntimeError):
        measurement.run([evidence_plan.VLLM32])

"""Calibrating: pairs of set-ups, quarters judged by the others, noise ceilings, shards to go on from."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contracts.court.crash_nodes import FakeFormat
from tests.fakes_setups import EOS, NumpySetUp

import evidence_pairs
import evidence_plan
import evidence_results
import evidence_tables
from evidence_shards import Replay
from retally.devnet.catalogue import CALIBRATIONS
from retally.errors import BadRequest
from retally.protocol.calibration import Calibration
from retally.protocol.encoding import to_hex
from retally.protocol.evidence import margin_log_e
from retally.protocol.params import ONE
from retally_verifier.calibrate.canaries import DATE, RANGES, Answer, Canaries
from retally_verifier.calibrate.measure import Bench, Measured, OtherWeights
from retally_verifier.calibrate.outcome import Outcome, TooFewJobs, TooNoisy, check_noise, notes, outcome_of
from retally_verifier.calibrate.plan import profile_of
from retally_verifier.calibrate.registering import command_to_register
from retally_verifier.calibrate.report import report_html
from retally_verifier.calibrate.shards import ShardNotKept, Shards
from retally_verifier.calibration_bounds import Margins
from retally_verifier.calibration_quarters import PARTS, parted, quarters_of
from retally_verifier.calibration_tables import make_table

JOBS, TOKENS = 96, 12


def setups() -> list[NumpySetUp]:
    """Three unrelated ones; their kernels differ a little."""
    return [NumpySetUp(f"set-up {name}", name, noise=noise) for name, noise in (("a", 0.0), ("b", 0.01), ("c", 0.02))]


def bench(folder: Path, found: Sequence[NumpySetUp]) -> Bench:
    """Their bench."""
    canaries = Canaries(FakeFormat())
    assert canaries.eos_ids == EOS
    return Bench(found, canaries, Shards(folder), lambda text: None)


async def measure(folder: Path, found: Sequence[NumpySetUp], *, greedy: bool = False, jobs: int = JOBS) -> Measured:
    """Margins of all pairs, and of a cheat with other weights beside the lies."""
    made = bench(folder, found)
    await made.check()
    cheap = NumpySetUp("cheap", "cheap", weights="others")
    return await made.measure(jobs, 16, TOKENS, greedy=greedy, cheaper={"other-weights": cheap})


def forget(folder: Path, count: int) -> None:
    """Takes so many shards away."""
    for shard in sorted(folder.glob("replays-*"))[:count]:
        shard.unlink()


def count(folder: Path) -> int:
    """How many shards are there."""
    return len(list(folder.glob("*.json")))


def jobs_that_choose(outcome: Outcome, cheat: str) -> list[Margins]:
    """A cheat's jobs that are not held out, in the order of their seeds' quarters."""
    held = {id(job) for job in outcome.held_cheats[cheat]}
    parts = parted(outcome.measured.cheats[cheat], quarters_of(outcome.measured.cheat_seeds))
    return [job for jobs in parts for job in jobs if id(job) not in held]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """One run, read by most tests."""
    return asyncio.run(measure(tmp_path_factory.mktemp("shards"), setups()))


@pytest.fixture(scope="module")
def outcome(measured: Measured) -> Outcome:
    """What it gives."""
    return outcome_of(measured)


class TestMeasure:
    def test_has_each_set_up_replay_the_jobs_of_every_other(self, measured: Measured) -> None:
        names = ["set-up a", "set-up b", "set-up c"]
        assert sorted(measured.honest) == sorted(f"{a} by {b}" for a in names for b in names if a != b)
        assert {len(jobs) for jobs in measured.honest.values()} == {JOBS // 3}
        assert sorted(measured.cheats) == ["colder", "hidden-prompt", "other-seed", "other-weights"]

    async def test_goes_on_where_it_stopped(self, tmp_path: Path) -> None:
        first, second = setups(), setups()
        once = await measure(tmp_path, first, jobs=48)
        assert sum(each.asked for each in first) > 0
        forget(tmp_path, 2)
        again = await measure(tmp_path, second, jobs=48)
        assert sum(each.asked for each in second) == 0
        assert 0 < sum(each.scored for each in second) <= 2 * 16
        for pair, jobs in once.honest.items():
            assert all(np.array_equal(a, b) for a, b in zip(jobs, again.honest[pair], strict=True))

    async def test_measures_anew_what_another_set_up_gave(self, tmp_path: Path) -> None:
        await measure(tmp_path, setups(), jobs=48)
        changed = setups()
        changed[1] = NumpySetUp("set-up b", "b", noise=0.015)
        await measure(tmp_path, changed, jobs=48)
        assert changed[1].asked == 16
        assert changed[0].asked == 0

    async def test_refuses_a_set_up_with_other_weights_and_names_it(self, tmp_path: Path) -> None:
        found = [*setups()[:2], NumpySetUp("set-up c", "c", weights="others")]
        with pytest.raises(OtherWeights, match="set-up a are not what set-up c would choose") as raised:
            await measure(tmp_path, found)
        assert "set-up c" in raised.value.hint
        assert raised.value.share > 0.01

    async def test_keeps_what_is_measured_when_the_disk_is_full(self, tmp_path: Path) -> None:
        class FullAfter(Shards):
            left = 3

            def _write(self, name: str, content: Any) -> None:
                if self.left == 0:
                    raise ShardNotKept(self.folder, OSError(errno.ENOSPC, "No space left on device"))
                self.left -= 1
                super()._write(name, content)

        found = setups()
        full = Bench(found, Canaries(FakeFormat()), FullAfter(tmp_path), lambda text: None)
        await full.check()
        with pytest.raises(ShardNotKept, match="is full") as raised:
            await full.measure(JOBS, 16, TOKENS, greedy=False, cheaper={})
        assert "run the same command again" in raised.value.hint
        assert count(tmp_path) == 3

    def test_says_which_folder_can_not_be_written(self, tmp_path: Path) -> None:
        place = tmp_path / "file"
        place.write_text("")
        with pytest.raises(ShardNotKept, match=str(place)):
            Shards(place).put_answers("answers-0.json", [Answer((1,))])


class TestOutcome:
    def test_all_honest_jobs_make_the_table(self, measured: Measured, outcome: Outcome) -> None:
        choosing = {name: jobs_that_choose(outcome, name) for name in measured.cheats}
        assert {name: len(jobs) for name, jobs in choosing.items()} == dict.fromkeys(measured.cheats, 8)
        assert outcome.table == make_table(measured.honest, choosing, outcome.noise).table
        assert outcome.noise == max(each for noise in measured.noise.values() for each in noise if each is not None)

    @pytest.mark.parametrize("quarter", range(PARTS))
    def test_no_job_is_judged_by_a_table_that_it_made(self, measured: Measured, outcome: Outcome, quarter: int) -> None:
        mine = {id(job) for parts in outcome.honest.values() for job in parts[quarter]}
        worse = {pair: [job + 9 if id(job) in mine else job for job in jobs] for pair, jobs in measured.honest.items()}
        noise = {
            pair: [9.0 if id(job) in mine else each for job, each in zip(measured.honest[pair], found, strict=True)]
            for pair, found in measured.noise.items()
        }
        changed = outcome_of(replace(measured, honest=worse, noise=noise))
        # Whatever a quarter says, the table that judges it stays; those of the others do not, nor the one of all.
        assert [old == new for old, new in zip(outcome.tables, changed.tables, strict=True)] == [
            each == quarter for each in range(PARTS)
        ]
        assert changed.table != outcome.table
        assert changed.held.largest_log_e > outcome.held.largest_log_e

    def test_every_job_is_judged_once(self, measured: Measured, outcome: Outcome) -> None:
        assert sorted(id(job) for job, _ in outcome.judged()) == sorted(
            id(job) for jobs in measured.honest.values() for job in jobs
        )
        log_es = [margin_log_e(job, table) for job, table in outcome.judged()]
        assert outcome.held.jobs == len(log_es)
        assert outcome.held.largest_log_e == max(log_es)
        assert outcome.held.mean_e == pytest.approx(np.exp(log_es).mean())
        assert outcome.held.mean_e <= 1

    def test_divides_by_the_seeds_alike_for_all_who_replay(self, measured: Measured, outcome: Outcome) -> None:
        for pair, jobs in measured.honest.items():
            by_seed = [job for _, job in sorted(zip(measured.seeds[pair], jobs, strict=True), key=lambda each: each[0])]
            size = len(jobs) // PARTS
            for quarter, part in enumerate(outcome.honest[pair]):
                assert {id(job) for job in part} == {id(job) for job in by_seed[quarter * size : (quarter + 1) * size]}
        assert measured.seeds["set-up a by set-up b"] == measured.seeds["set-up a by set-up c"]
        assert measured.seeds["set-up a by set-up b"] != measured.seeds["set-up b by set-up a"]

    def test_makes_and_judges_quarters_as_the_measurement_does(self, measured: Measured) -> None:
        name = "set-up a by set-up b"
        only = replace(measured, honest={name: measured.honest[name]}, noise={name: measured.noise[name]})
        outcome = outcome_of(only)
        pair = evidence_pairs.pair_of(evidence_plan.BATCHED, evidence_plan.REFERENCE)
        noises = [0.0] * PARTS
        quarters = quarters_of(measured.seeds[name])
        for quarter, job, noise in zip(quarters, only.honest[name], only.noise[name], strict=True):
            pair.quarters[quarter].append(Replay(job, np.zeros(len(job))))
            noises[quarter] = max(noises[quarter], noise or 0.0)
        choosing = {cheat: jobs_that_choose(outcome, cheat) for cheat in measured.cheats}
        fitted = []
        for quarter in range(PARTS):
            jobs = {name: [row.margins for row in pair.without(quarter)]}
            fitted.append(evidence_tables.fit(jobs, choosing, max(noises[:quarter] + noises[quarter + 1 :])))
        assert tuple(each.table for each in fitted) == outcome.tables
        assert evidence_results.judged_pair(pair, tuple(fitted)).tolist() == [
            margin_log_e(job, table) for job, table in outcome.judged()
        ]

    def test_sees_cheats_and_says_so_in_integers(self, outcome: Outcome) -> None:
        lies = [margin_log_e(job, outcome.table) for job in outcome.held_cheats["other-seed"]]
        assert np.mean(lies) > outcome.held.largest_log_e
        said = json.dumps(notes(outcome))
        assert '"heldOutMismatchPpm"' in said
        assert "." not in said.replace("set-up", "")

    def test_bounds_large_margins_by_how_far_logprobs_lay_apart(self, measured: Measured, outcome: Outcome) -> None:
        assert outcome.noise is not None
        assert 0.01 < outcome.noise < 0.3
        pair = next(iter(measured.noise))
        silent = {**measured.noise, pair: [None] * len(measured.noise[pair])}
        assert outcome_of(replace(measured, noise=silent)).noise is None

    def test_refuses_too_few_jobs(self, measured: Measured) -> None:
        few = {pair: jobs[:31] for pair, jobs in measured.honest.items()}
        with pytest.raises(TooFewJobs, match="31 jobs"):
            outcome_of(replace(measured, honest=few))


class TestCeiling:
    def noisy(self, share: float, size: float) -> Measured:
        rng = np.random.default_rng(1)
        jobs = [np.where(rng.random(64) < share, size, 0.0) for _ in range(200)]
        return Measured({"a by b": jobs}, {}, {}, (), {})

    @pytest.mark.parametrize(
        ("dtypes", "share", "size", "is_refused"),
        [
            (("float32", "float32"), 0.005, 0.05, False),
            (("float32", "float32"), 0.02, 0.05, True),
            (("float32", "bfloat16"), 0.02, 0.05, False),
            (("bfloat16", "float32"), 0.08, 0.05, True),
            (("float32", "float32"), 0.004, 2.0, True),
        ],
    )
    def test_refuses_more_noise_than_the_precision_explains(
        self, dtypes: tuple[str, str], share: float, size: float, *, is_refused: bool
    ) -> None:
        if not is_refused:
            check_noise(self.noisy(share, size), dtypes)
            return
        with pytest.raises(TooNoisy, match="a by b") as raised:
            check_noise(self.noisy(share, size), dtypes)
        assert raised.value.found > raised.value.ceiling

    def test_knows_no_ceiling_of_a_precision_that_nobody_measured(self) -> None:
        with pytest.raises(BadRequest, match="int8"):
            check_noise(self.noisy(0.0, 0.0), ("float32", "int8"))


class TestFiles:
    def made(self, outcome: Outcome) -> tuple[Calibration, Mapping[str, Any]]:
        profile = profile_of(CALIBRATIONS.parent / "profiles" / "vllm-cpu-float32.json")
        tables = {"seeded": outcome.table}
        return Calibration(profile.id, profile.id, profile.id, tables, RANGES, notes(outcome)), {"seeded": outcome}

    def test_the_report_holds_all_charts_and_needs_no_other_file(self, outcome: Outcome) -> None:
        made, outcomes = self.made(outcome)
        report = report_html(made, outcomes, command_to_register(made, None))
        assert report.count("<svg") == 3
        assert to_hex(made.hash) in report
        assert "src=" not in report
        assert "href=" not in report

    def test_survives_its_own_json(self, outcome: Outcome) -> None:
        made, _ = self.made(outcome)
        assert Calibration.from_json(json.loads(json.dumps(made.to_json()))).hash == made.hash

    def test_the_command_names_hash_pair_and_contracts(self, outcome: Outcome, tmp_path: Path) -> None:
        made, _ = self.made(outcome)
        registry, timelock = "0x" + "11" * 20, "0x" + "22" * 20
        path = tmp_path / "deployment.json"
        deployment = {"chainId": 1, "contracts": {"Registry": registry, "Timelock": timelock}}
        path.write_text(json.dumps({**deployment, "parameters": {"Timelock": {"minDelay": 604_800}}}))
        command = command_to_register(made, path)
        assert to_hex(made.hash) in command
        assert registry in command
        assert "604800" in command
        assert "$REGISTRY" in command_to_register(made, None)


def test_canaries_are_the_same_on_every_run() -> None:
    first, again = (Canaries(FakeFormat()).jobs(7, 8, greedy=False, name="honest seeded") for _ in range(2))
    assert first == again
    assert {job.params.template_date for job in first} == {DATE}
    assert Canaries(FakeFormat()).lie("colder", first[0]).params.temperature == ONE * 7 // 10

"""Judgement by equality for exact profiles (R-72), on constructed numbers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.fakes import FakeEngine
from tests.fakes_held_job import DEPLOYMENT, PROFILE, QUESTION, Desk, HeldJob, Own, held_job, vllm_app
from tests.fakes_node_ports import PROFILE_ID
from tests.sampler_cases import params
from tests.serve_app import serve
from tests.unit.test_node_own_job import own_job

from retally.chain.calibrations import CalibrationFiles
from retally.cli.scorers import UncheckedCalibrations
from retally.errors import BadRequest
from retally.inference.engine import Scores
from retally.inference.profile_files import ProfileFile
from retally.inference.vllm_flags import engine_environment
from retally.protocol.case import VerdictKind
from retally.protocol.encoding import Bytes32
from retally.protocol.evidence import JOB_CLIP
from retally.protocol.exact import EQUAL, ROUNDING, differing, is_exact, judge_exactly, judge_pair
from retally.protocol.margins import Replayed, robust_margins
from retally.protocol.params import JobParams
from retally.protocol.sampler import log_softmax, sample_token
from retally.protocol.wire import AnswerBundle
from retally.verify_job import ModelKit, checked_answer, verify_job

SIZE, TOKENS = 600, 48
RULES: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"top_k": 50},
    {"top_p": 950_000, "temperature": 800_000},
    {"top_p": 900_000, "temperature": 1_500_000},
    {"min_p": 50_000},
    {"top_k": 20, "top_p": 900_000, "frequency_penalty": 300_000},
]


def replay_of(logits: NDArray[np.float32], answer: Sequence[int]) -> Scores:
    raw = np.stack([log_softmax(row) for row in logits])
    top = np.argsort(-raw, axis=1, kind="stable")[:, :64]
    claimed = raw[np.arange(len(answer)), list(answer)]
    return Scores(0, top.astype(np.int32), np.take_along_axis(raw, top, 1), claimed)


def answered(rule: JobParams, logits: NDArray[np.float32], seed: bytes) -> list[int]:
    answer: list[int] = []
    for row in logits:
        answer.append(sample_token(row, rule, seed, len(answer), [3], answer, []))
    return answer


class Colder(FakeEngine):
    """Its logits are a little sharper than the model's, as other weights' would be."""

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        return super().logits(ids) * np.float32(1.02)


def bundle_of(job: HeldJob) -> AnswerBundle:
    chat = job.chat_format
    kit = ModelKit(job.model_id, chat.render, chat.eos_ids, chat.grammars)
    evidence = replace(job.evidence, prompt={"messages": [{"role": "user", "content": QUESTION}]})
    return checked_answer(evidence, evidence.receipts[0], DEPLOYMENT.domain, kit)


class TestEquality:
    @pytest.mark.parametrize("rule", RULES, ids=range(len(RULES)))
    def test_no_honest_token_differs(self, rule: dict[str, Any]) -> None:
        for number in range(4):
            source = np.random.default_rng(number)
            logits = source.normal(0, 3, (TOKENS, SIZE)).astype(np.float32)
            answer = answered(params(**rule), logits, source.bytes(32))
            seed = np.random.default_rng(number)
            seed.normal(0, 3, (TOKENS, SIZE))
            replayed = Replayed(params(**rule), seed.bytes(32), [3], [], answer, [])
            assert differing(replayed, replay_of(logits, answer)) == []

    @pytest.mark.parametrize("rule", [RULES[0], RULES[3]], ids=range(2))
    def test_what_statistics_forgive_does_not_pass(self, rule: dict[str, Any]) -> None:
        """Errors of 8-bit weights' size: below the robust margin nearly everywhere, and never equal for long."""
        seen, forgiven = 0, []
        for number in range(4):
            source = np.random.default_rng(number)
            logits, seed = source.normal(0, 3, (120, SIZE)).astype(np.float32), source.bytes(32)
            cheaper = (logits + source.normal(0, 0.05, logits.shape)).astype(np.float32)
            answer = answered(params(**rule), cheaper, seed)
            replayed, scores = Replayed(params(**rule), seed, [3], [], answer, []), replay_of(logits, answer)
            seen += bool(differing(replayed, scores))
            forgiven.append(float(robust_margins(replayed, scores).max()))
        assert seen >= 3
        assert max(forgiven) < 0.5


class TestVerdict:
    async def test_an_equal_answer_matches_and_another_is_a_mismatch(self, tmp_path: Path) -> None:
        job = await held_job(tmp_path)
        engine, bundle = FakeEngine(job.chat_format.vocab_size), bundle_of(job)
        ids = [*bundle.prompt_ids, *bundle.output_ids]
        honest = judge_exactly(bundle, await engine.score(ids, len(bundle.prompt_ids)), job.chat_format.eos_ids)
        assert (honest.verdict, honest.log_e) == (VerdictKind.MATCH, EQUAL)
        sharper = await Colder(job.chat_format.vocab_size).score(ids, len(bundle.prompt_ids))
        found = judge_exactly(bundle, sharper, job.chat_format.eos_ids)
        assert (found.verdict, found.log_e) == (VerdictKind.MISMATCH, JOB_CLIP)
        assert found.summary["differing"] >= 1

    async def test_only_one_exact_profile_on_both_sides_is_judged_so(self, tmp_path: Path) -> None:
        job = await held_job(tmp_path)
        bundle = bundle_of(job)
        ids, start = [*bundle.prompt_ids, *bundle.output_ids], len(bundle.prompt_ids)
        scores = await Colder(job.chat_format.vocab_size).score(ids, start)
        other = Bytes32(bytes([9] * 32))
        verdicts = [
            judge_pair(bundle, scores, None, job.chat_format.eos_ids, scored_by=by, exact=exact).verdict
            for by, exact in ((PROFILE, {PROFILE}), (PROFILE, ()), (other, {other, PROFILE}))
        ]
        assert verdicts == [VerdictKind.MISMATCH, VerdictKind.INCONCLUSIVE, VerdictKind.INCONCLUSIVE]

    async def test_a_juror_of_the_exact_profile_needs_no_calibration(self, tmp_path: Path) -> None:
        for exact, expected in (((), VerdictKind.INCONCLUSIVE), ({PROFILE_ID}, VerdictKind.MATCH)):
            case = await own_job(tmp_path / expected.name)
            case.world.cases.table = None
            assert (await case.opinion(exact=exact)).verdict == expected


class TestVerify:
    """`retally verify` judges by equality where it is told that the engine's profile is exact."""

    async def test_shows_which_tokens_differ(self, tmp_path: Path) -> None:
        job = await held_job(tmp_path)
        chat = job.chat_format
        kit = ModelKit(job.model_id, chat.render, chat.eos_ids, chat.grammars, {PROFILE})
        evidence = replace(job.evidence, prompt={"messages": [{"role": "user", "content": QUESTION}]})
        for engine, verdict in ((FakeEngine, VerdictKind.MATCH), (Colder, VerdictKind.MISMATCH)):
            files = CalibrationFiles()
            scorers = [Own(engine(chat.vocab_size))]
            [answer] = (
                await verify_job(evidence, DEPLOYMENT.domain, kit, scorers, UncheckedCalibrations(files))
            ).answers
            assert (answer.verdict, answer.replays[0].is_exact) == (verdict, True)
            differ = [row for row in answer.replays[0].rows if row.margin > ROUNDING]
            assert bool(differ) == (verdict == VerdictKind.MISMATCH)

    def test_takes_the_profile_as_a_file(self, tmp_path: Path) -> None:
        file = TestProfile.FOLDER / "vllm-cuda-bfloat16-exact.json"
        job = asyncio.run(held_job(tmp_path, profile=ProfileFile.load(file).profile_id))
        desk = Desk("verify", tmp_path, job)
        words = (str(desk.file), *desk.usual, "--profile-file", str(file), "--engine-url")
        size = job.chat_format.vocab_size
        with serve(vllm_app(FakeEngine(size))) as url:
            assert "tokens is the model's own choice (equality, R-72)" in desk.told(*words, url, code=0)
        with serve(vllm_app(Colder(size))) as url:
            assert desk.run(*words, url, code=6)["receipts"][0]["replays"][0]["exact"]
            assert "tokens differ; the first is token" in desk.told(*words, url, code=6)
        error = desk.run(*words, "http://127.0.0.1:9", "--profile", "0x" + "00" * 32, code=2)["error"]
        assert "is profile 0x" in error["message"]


class TestProfile:
    FOLDER = Path(__file__).parents[2] / "sdk" / "retally" / "devnet" / "profiles"

    def test_the_files_say_which_are_exact(self) -> None:
        found = {path.stem: ProfileFile.load(path).is_exact for path in self.FOLDER.glob("*.json")}
        assert found == {
            "vllm-cpu-float32": False,
            "vllm-cpu-float32-embeddings": False,
            "vllm-cuda-bfloat16": False,
            "vllm-cuda-bfloat16-embeddings": False,
            "vllm-cuda-bfloat16-exact": True,
        }
        assert not is_exact({})

    def test_another_profile_than_the_registered_one_is_refused(self) -> None:
        profile = ProfileFile.load(self.FOLDER / "vllm-cpu-float32.json")
        profile.check_declared(profile.profile_id)
        with pytest.raises(BadRequest, match="registered with"):
            profile.check_declared(Bytes32(bytes(32)))

    @pytest.mark.parametrize("content", ["{", "[]"])
    def test_what_is_no_profile_is_refused(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "profile.json"
        path.write_text(content)
        with pytest.raises(BadRequest, match="profile"):
            ProfileFile.load(path)

    def test_its_engine_is_started_with_batch_invariant_kernels(self) -> None:
        assert engine_environment({}, is_cpu=False, is_exact=True)["VLLM_BATCH_INVARIANT"] == "1"
        assert "VLLM_BATCH_INVARIANT" not in engine_environment({}, is_cpu=False)
        with pytest.raises(BadRequest, match="batch-invariant"):
            engine_environment({}, is_exact=True)
        assert json.loads((self.FOLDER / "vllm-cuda-bfloat16-exact.json").read_text())["batchInvariant"]

"""A job re-executed for whoever holds its record: rules, replay, and what `retally verify` says about it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI
from tests.fakes import FakeEngine
from tests.fakes_held_job import DEPLOYMENT, NODE, PAYER, QUESTION, Desk, HeldJob, Own, held_job, vllm_app
from tests.fakes_node import tiny_format
from tests.serve_app import serve

from retally.errors import BadRequest
from retally.inference.engine import EngineSampling
from retally.job_history import JobHistory
from retally.protocol.calibration import Calibration
from retally.protocol.case import VerdictKind
from retally.protocol.encoding import Bytes32, keccak
from retally.protocol.evidence import JOB_CLIP
from retally.protocol.structure import ResponseFormat
from retally.verify_job import JobReport, ModelKit, verify_job

FORM = ResponseFormat(
    "json_schema", '{"type":"object","properties":{"kind":{"enum":["module","class"]}},"required":["kind"]}'
)
MATCH, BAD, UNKNOWN, FAILED, MISMATCH, INCONCLUSIVE = 0, 2, 3, 1, 6, 7


class Colder(FakeEngine):
    """Samples at half the temperature that was signed."""

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling):  # type: ignore[no-untyped-def]  # as inherited
        params = replace(sampling.params, temperature=sampling.params.temperature // 2)
        return super().generate(prompt_ids, replace(sampling, params=params))


class Known:
    """Calibrations of one pair."""

    def __init__(self, only: Calibration | None) -> None:
        self._only = only

    async def find(self, *_: object) -> Calibration | None:
        return self._only


async def verified(job: HeldJob, *scorers: Own, known: Calibration | None = None) -> JobReport:
    kit = ModelKit(job.model_id, job.chat_format.render, job.chat_format.eos_ids, job.chat_format.grammars)
    evidence = replace(job.evidence, prompt={"messages": [{"role": "user", "content": QUESTION}]})
    return await verify_job(evidence, DEPLOYMENT.domain, kit, scorers, Known(known or job.calibration))


def honest(job: HeldJob) -> FakeEngine:
    return FakeEngine(job.chat_format.vocab_size)


class TestVerdict:
    async def test_an_honest_job_matches(self, tmp_path: Path) -> None:
        job = await held_job(tmp_path)
        report = await verified(job, Own(honest(job)), Own(honest(job)))
        assert report.verdict == VerdictKind.MATCH
        [answer] = report.answers
        rows = answer.replays[0].rows
        assert [(row.position, row.claimed_id) for row in rows] == list(enumerate(job.evidence.ids[0]))
        assert all(row.margin == 0 and row.allowed_id == row.claimed_id for row in rows)
        assert rows[-1].log_e == answer.log_e == answer.replays[0].log_e < 0

    async def test_another_sampler_is_a_mismatch(self, tmp_path: Path) -> None:
        cheat = Colder(tiny_format(tmp_path / "model").vocab_size)
        job = await held_job(tmp_path, cheat)
        report = await verified(job, Own(honest(job)))
        assert report.verdict == VerdictKind.MISMATCH
        row = max(report.answers[0].replays[0].rows, key=lambda each: each.margin)
        assert row.allowed_id != row.claimed_id

    async def test_an_honest_answer_of_a_given_form_matches(self, tmp_path: Path) -> None:
        engine = FakeEngine(tiny_format(tmp_path / "model").vocab_size)
        engine.grammars = tiny_format(tmp_path / "model").grammars
        job = await held_job(tmp_path, engine, form=FORM)
        report = await verified(job, Own(honest(job)), Own(honest(job)))
        assert report.verdict == VerdictKind.MATCH
        assert all(row.margin == 0 for row in report.answers[0].replays[0].rows)
        assert json.loads(job.chat_format.decode(job.evidence.ids[0]))["kind"] in ("module", "class")

    async def test_an_engine_that_ignores_the_form_breaks_a_rule(self, tmp_path: Path) -> None:
        job = await held_job(tmp_path, form=FORM)
        [answer] = (await verified(job)).answers
        assert (answer.verdict, answer.log_e) == (VerdictKind.MISMATCH, JOB_CLIP)
        assert [broken.rule for broken in answer.broken] == ["form"]

    async def test_another_sampler_shows_under_a_form(self, tmp_path: Path) -> None:
        """The form leaves it one choice among few; a colder sampler makes it another one sometimes."""
        form = ResponseFormat("json_schema", '{"type":"string","minLength":40,"maxLength":40}')
        cheat = Colder(tiny_format(tmp_path / "model").vocab_size)
        cheat.grammars = tiny_format(tmp_path / "model").grammars
        job = await held_job(tmp_path, cheat, form=form)
        [answer] = (await verified(job, Own(honest(job)))).answers
        assert answer.verdict == VerdictKind.MISMATCH
        assert not answer.broken

    async def test_the_least_of_the_re_executors_counts(self, tmp_path: Path) -> None:
        job = await held_job(tmp_path)
        strange = FakeEngine(job.chat_format.vocab_size, eos_id=5)
        report = await verified(job, Own(strange), Own(honest(job)))
        assert report.answers[0].log_e == min(replay.log_e for replay in report.answers[0].replays)

    async def test_the_prompt_comes_first(self, tmp_path: Path) -> None:
        job = (await held_job(tmp_path)).signed_again(prompt_root=keccak(b"a hidden message"), prompt_tokens=60)
        [answer] = (await verified(job, Own(honest(job)))).answers
        assert (answer.verdict, answer.log_e, answer.replays) == (VerdictKind.MISMATCH, JOB_CLIP, ())
        assert answer.broken[0].rule == "prompt"

    async def test_an_answer_that_the_node_did_not_sign_is_a_mismatch(self, tmp_path: Path) -> None:
        job = (await held_job(tmp_path)).signed_again(output_root=keccak(b"other tokens"))
        [answer] = (await verified(job)).answers
        assert [broken.rule for broken in answer.broken] == ["output_root"]

    async def test_over_billing_is_a_mismatch(self, tmp_path: Path) -> None:
        job = await held_job(tmp_path)
        [answer] = (await verified(job.signed_again(cum_to=job.receipt.cum_to + 1))).answers
        assert [broken.rule for broken in answer.broken] == ["fee"]

    async def test_what_forbids_audit_is_inconclusive(self, tmp_path: Path) -> None:
        job = await held_job(tmp_path, consent=False)
        [answer] = (await verified(job, Own(honest(job)))).answers
        assert answer.verdict == VerdictKind.INCONCLUSIVE
        assert "forbids audit" in answer.reason

    async def test_without_a_calibration_it_is_inconclusive_and_still_shown(self, tmp_path: Path) -> None:
        job = await held_job(tmp_path)
        narrow = replace(job.calibration, ranges={"outputTokens": (1, 2)})
        [answer] = (await verified(job, Own(honest(job)), known=narrow)).answers
        assert answer.verdict == VerdictKind.INCONCLUSIVE
        assert {row.log_e for row in answer.replays[0].rows} == {None}

    async def test_refuses_what_nobody_signed(self, tmp_path: Path) -> None:
        job = await held_job(tmp_path)
        forged = replace(job.evidence.receipts[0], signature=PAYER.sign(keccak(b"another")))
        with pytest.raises(BadRequest, match="no record of a job"):
            await verified(replace(job, evidence=replace(job.evidence, receipts=[forged])))

    async def test_refuses_another_model_s_files(self, tmp_path: Path) -> None:
        job = await held_job(tmp_path)
        with pytest.raises(BadRequest, match="the files at hand are of"):
            await verified(replace(job, model_id=Bytes32(keccak(b"other"))))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    for name in ("ROUTER_URL", "RPC_URL", "API_KEY", "ADDRESS"):
        monkeypatch.delenv(f"RETALLY_{name}", raising=False)
    return Desk("verify", tmp_path, asyncio.run(held_job(tmp_path)))


@pytest.fixture
def served() -> Iterator[Callable[[FastAPI], str]]:
    with ExitStack() as stack:
        yield lambda vllm: stack.enter_context(serve(vllm))


class TestCommand:
    def test_prints_a_table_and_the_verdict(self, desk: Desk, served: Callable[[FastAPI], str]) -> None:
        url = served(vllm_app(honest(desk.job)))
        printed = desk.told(str(desk.file), *desk.usual, "--engine-url", url, code=MATCH)
        assert "checks without replay: passed" in printed
        assert f"replayed by engine {url}" in printed
        assert "tokens is one that the model may have chosen" in printed
        assert "match: e = " in printed

    def test_takes_a_job_of_the_history_by_its_beginning(self, desk: Desk, served: Callable[[FastAPI], str]) -> None:
        from retally.job_meter import JobMeter
        from retally.job_result import JobResult

        history = JobHistory(desk.base / "home" / "jobs.sqlite")
        history.record(JobResult(desk.job.evidence, JobMeter(desk.job.evidence), "retally/tiny"))
        history.close()
        url = served(vllm_app(honest(desk.job)))
        found = desk.run(desk.job.content["jobId"][:12], *desk.usual, "--engine-url", url, code=MATCH)
        assert found["receipts"][0]["replays"][0]["tokens"][0]["text"]

    def test_a_cheat_is_6(self, desk: Desk, served: Callable[[FastAPI], str]) -> None:
        job = asyncio.run(held_job(desk.base, Colder(desk.job.chat_format.vocab_size)))
        desk.write(job.content)
        url = served(vllm_app(honest(job)))
        assert desk.run(str(desk.file), *desk.usual, "--engine-url", url, code=MISMATCH)["verdict"] == "mismatch"

    def test_a_broken_rule_is_named_before_anything_is_replayed(self, desk: Desk) -> None:
        job = desk.job.signed_again(cum_to=desk.job.receipt.cum_to + 1)
        desk.write(job.content)
        found = desk.run(str(desk.file), *desk.usual, code=MISMATCH)
        assert [broken["rule"] for broken in found["brokenRules"]] == ["fee"]
        assert "broken rule: fee" in desk.told(str(desk.file), *desk.usual, code=MISMATCH)

    def test_with_nobody_to_replay_it_is_7(self, desk: Desk) -> None:
        found = desk.run(str(desk.file), *desk.usual, code=INCONCLUSIVE)
        assert "nothing was replayed" in found["receipts"][0]["reason"]

    def test_a_job_that_forbids_audit_is_7(self, desk: Desk) -> None:
        desk.write(asyncio.run(held_job(desk.base, consent=False)).content)
        found = desk.run(str(desk.file), *desk.usual, code=INCONCLUSIVE)
        assert "forbids audit" in found["receipts"][0]["reason"]


class TestRefusals:
    """Each says what to do next."""

    def test_an_unknown_receipt_is_3(self, desk: Desk) -> None:
        assert "retally jobs" in desk.run("0xabc", *desk.usual, code=UNKNOWN)["error"]["hint"]
        desk.run("nowhere.json", *desk.usual, code=UNKNOWN)

    @pytest.mark.parametrize("change", ["no json", "no receipts", "a foreign receipt", "odd ids", "odd cost"])
    def test_a_malformed_file_is_2(self, desk: Desk, change: str) -> None:
        content = desk.job.content
        if change == "no json":
            desk.file.write_text("{")
        else:
            content |= {
                "no receipts": {"receipts": []},
                "a foreign receipt": {"receipts": [{"receipt": {}, "signature": "0x"}]},
                "odd ids": {"ids": {"x": [1]}},
                "odd cost": {"cost": "much"},
            }[change]
            desk.write(content)
        assert desk.run(str(desk.file), *desk.usual, code=BAD)["error"]["hint"]

    @pytest.mark.parametrize("part", ["request", "params", "offer", "ids"])
    def test_a_record_that_lacks_a_part_is_2(self, desk: Desk, part: str) -> None:
        desk.write({**desk.job.content, part: None})
        assert "retally receipt" in desk.run(str(desk.file), *desk.usual, code=BAD)["error"]["hint"]

    def test_without_the_prompt_it_is_2(self, desk: Desk) -> None:
        assert "--prompt" in desk.run(str(desk.file), code=BAD)["error"]["hint"]

    def test_another_prompt_is_2(self, desk: Desk) -> None:
        error = desk.run(str(desk.file), "--ask", "Something else", code=BAD)["error"]
        assert "the prompt's hash differs" in error["message"]

    def test_without_the_model_s_files_it_is_2(self, desk: Desk) -> None:
        error = desk.run(str(desk.file), *desk.usual, code=BAD, RETALLY_MODEL_DIR="")["error"]
        assert "--model-dir" in error["hint"]

    def test_files_of_another_model_are_2(self, desk: Desk) -> None:
        manifest = json.loads((desk.job.folder / "manifest.json").read_text())
        (desk.job.folder / "manifest.json").write_text(json.dumps({**manifest, "maxContext": 512}))
        assert "--model-dir" in desk.run(str(desk.file), *desk.usual, code=BAD)["error"]["hint"]

    @pytest.mark.parametrize("logprobs", [0, 20])
    def test_an_engine_without_prompt_logprobs_is_1(
        self, desk: Desk, served: Callable[[FastAPI], str], logprobs: int
    ) -> None:
        url = served(vllm_app(honest(desk.job), logprobs=logprobs))
        error = desk.run(str(desk.file), *desk.usual, "--engine-url", url, code=FAILED)["error"]
        assert error["code"] == "engine_unavailable"
        assert "--max-logprobs 66" in error["hint"]

    def test_an_engine_with_another_model_is_1(self, desk: Desk, served: Callable[[FastAPI], str]) -> None:
        url = served(vllm_app(honest(desk.job), model="another"))
        error = desk.run(str(desk.file), *desk.usual, "--engine-url", url, code=FAILED)["error"]
        assert "not retally/tiny" in error["message"]
        assert "--engine-model" in error["hint"]
        desk.run(str(desk.file), *desk.usual, "--engine-url", url, "--engine-model", "another", code=MATCH)

    def test_an_engine_that_is_not_there_is_1(self, desk: Desk) -> None:
        words = (str(desk.file), *desk.usual, "--engine-url", "http://127.0.0.1:9")
        assert desk.run(*words, code=FAILED)["error"]["code"] == "engine_unavailable"

    def test_nodes_are_paid_on_a_known_chain_only(self, desk: Desk) -> None:
        words = (str(desk.file), *desk.usual, "--node", NODE.address)
        assert "--rpc-url" in desk.run(*words, code=BAD)["error"]["hint"]

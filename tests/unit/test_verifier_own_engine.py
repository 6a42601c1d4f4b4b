"""The verifier's own engine as its settings name it: asked over HTTP, and named in words where it is not there."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tests.fakes import FakeEngine
from tests.fakes_held_job import HeldJob, held_job, vllm_app
from tests.fakes_second_look import COMMIT, ITEM, OWNER, OnePair, findings
from tests.serve_app import serve

from retally.errors import EngineUnavailable
from retally.protocol.case import VerdictKind
from retally.protocol.encoding import keccak, to_hex
from retally_verifier.bootstrap import Models, second_look
from retally_verifier.settings import VerifierSettings
from retally_verifier.store import Store


def settings(job: HeldJob, url: str | None) -> VerifierSettings:
    return VerifierSettings(
        rpc_url="http://127.0.0.1:9",
        deployment=job.folder / "deployment.json",
        key="0x" + "11" * 32,  # type: ignore[arg-type]  # pydantic makes a secret of it
        public_url="http://verifier",
        data_dir=job.folder.parent,
        model_dirs=(job.folder,),
        calibration_dir=job.folder,
        engine_url=url,
    )


@pytest.fixture
async def job(tmp_path: Path) -> HeldJob:
    return await held_job(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    books = Store(tmp_path / "verifier.sqlite")
    books.add_commit(COMMIT, ITEM.pack())
    return books


async def test_is_asked_over_http(job: HeldJob, store: Store) -> None:
    found, _ = findings(job)
    store.put_finding(found)
    models, known = Models.load((job.folder,)), OnePair(job.calibration)
    with serve(vllm_app(FakeEngine(job.chat_format.vocab_size))) as url:
        async with second_look(settings(job, url), store, models, known) as look:
            assert look is not None
            await look.renew(0)
            assert await look.at([found])
    (seen,) = store.findings_of_owner(OWNER, 0)
    assert (seen.verdict, seen.detail["own"]["calibrated"]) == (VerdictKind.MATCH, True)
    # What it says of itself goes into a hash: anybody may read findings.
    serving = f"{url} theirs retally/tiny 256 vllm fake"
    assert seen.detail["own"]["engine"] == to_hex(keccak(serving.encode()))
    store.close()


async def test_one_that_serves_another_model_is_named_at_the_start_and_at_each_case(
    job: HeldJob, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    found, _ = findings(job)
    models, known = Models.load((job.folder,)), OnePair(job.calibration)
    with serve(vllm_app(FakeEngine(job.chat_format.vocab_size), "retally/other", logprobs=20)) as url:
        async with second_look(settings(job, url), store, models, known) as look:
            assert "no case about retally/tiny is opened until its engine answers" in caplog.text
            assert "the engine serves ['retally/other'], not retally/tiny" in caplog.text
            assert look is not None
            with pytest.raises(EngineUnavailable, match="start it with --max-logprobs 66"):
                await look.at([found])
    # It has ended meanwhile.
    async with second_look(settings(job, url), store, models, known) as look:
        assert look is not None
        with pytest.raises(EngineUnavailable, match="start it, or take engine_url out"):
            await look.at([found])
    store.close()


async def test_there_is_none_unless_it_is_named(job: HeldJob, store: Store) -> None:
    async with second_look(settings(job, None), store, Models.load((job.folder,)), OnePair(None)) as look:
        assert look is None
    store.close()

"""A verifier with an engine of its own looks before it accuses, and accuses nobody whom it sees innocent (R-58)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.fakes import FakeEngine
from tests.fakes_case import Colder
from tests.fakes_held_job import PROFILE, HeldJob, held_job
from tests.fakes_node import tiny_format
from tests.fakes_second_look import (
    COMMIT,
    FEE,
    ITEM,
    OWNER,
    SECOND,
    SEED,
    VERIFIER,
    OnePair,
    Sent,
    court_that_is_ready,
    findings,
)

from retally.chain.transactions import TxSender
from retally.errors import BadRequest, EngineUnavailable
from retally.inference.engine import Scores
from retally.protocol.case import VerdictKind
from retally.protocol.encoding import Address, Bytes32, keccak, to_hex
from retally_verifier.agreement import suspects
from retally_verifier.open_case import CaseOpener
from retally_verifier.records import FindingState
from retally_verifier.second_look import TRIES, OwnModel, SecondLook
from retally_verifier.store import Store

URL = "http://127.0.0.1:9"


class Down(FakeEngine):
    """Does not answer."""

    async def score(self, ids: Sequence[int], start: int, top: int = 64) -> Scores:
        raise EngineUnavailable("it does not answer")


class Narrow(FakeEngine):
    """Was started with flags that are too narrow."""

    async def score(self, ids: Sequence[int], start: int, top: int = 64) -> Scores:
        raise BadRequest("at most 20 logprobs")


class Cheaper(FakeEngine):
    """Holds another model under the name."""

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        return 2 * super().logits(ids)


class Short(FakeEngine):
    """Takes no long prompts."""

    async def score(self, ids: Sequence[int], start: int, top: int = 64) -> Scores:
        if len(ids) > 8:
            raise EngineUnavailable("the prompt is longer than --max-model-len")
        return await super().score(ids, start, top)


class Counting(FakeEngine):
    """Counts what it scores."""

    scored = 0

    async def score(self, ids: Sequence[int], start: int, top: int = 64) -> Scores:
        self.scored += 1
        return await super().score(ids, start, top)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    books = Store(tmp_path / "verifier.sqlite")
    books.add_commit(COMMIT, ITEM.pack())
    books.set_seed(COMMIT.id, SEED)
    yield books
    books.close()


def look(
    store: Store,
    job: HeldJob,
    engine: FakeEngine,
    profile: Bytes32 | None = None,
    *,
    calibrated: bool = True,
    exact: Collection[bytes] = (),
    serves: str = "/models/tiny",
) -> SecondLook:
    async def says() -> str:
        if isinstance(engine, Down):
            raise EngineUnavailable("it does not answer")
        return serves

    models = {job.model_id: OwnModel(engine, job.chat_format, says)}
    return SecondLook(store, models, OnePair(job.calibration if calibrated else None), URL, profile, exact)


def opener(store: Store, second: SecondLook | None) -> tuple[CaseOpener, Sent]:
    sent = Sent()
    return CaseOpener(court_that_is_ready(), cast(TxSender, sent), store, "http://verifier", second), sent


async def accused(store: Store, folder: Path, engine: FakeEngine | None = None) -> HeldJob:
    """An owner that two re-executors called guilty; whether it is, its engine says."""
    job = await held_job(folder, engine)
    for found in findings(job):
        store.put_finding(found)
    return job


def len_of(folder: Path) -> int:
    """The vocabulary of the tiny model, before a job of it is there."""
    return tiny_format(folder / "vocabulary").vocab_size


def size(job: HeldJob) -> int:
    return job.chat_format.vocab_size


class TestCaseOpener:
    async def test_without_an_engine_it_takes_the_word_of_re_executors(self, store: Store, tmp_path: Path) -> None:
        await accused(store, tmp_path)
        cases, sent = opener(store, None)
        await cases.step()
        assert sent.calls == [f"open {OWNER} 2"]

    async def test_opens_no_case_that_its_own_engine_does_not_bear_out(self, store: Store, tmp_path: Path) -> None:
        job = await accused(store, tmp_path)
        engine = Counting(size(job))
        cases, sent = opener(store, look(store, job, engine))
        for _ in range(3):
            await cases.step()
        assert sent.calls == []
        # Each receipt is looked at once, in this life and the next.
        assert engine.scored == 2
        again = Counting(size(job))
        await opener(store, look(store, job, again))[0].step()
        assert again.scored == 0

    async def test_what_another_engine_cleared_is_looked_at_again(self, store: Store, tmp_path: Path) -> None:
        job = await held_job(tmp_path, Cheaper(len_of(tmp_path)))
        for found in findings(job):
            store.put_finding(found)
        # The engine serves what the cheat serves.
        wrong, right = Cheaper(size(job)), FakeEngine(size(job))
        cases, sent = opener(store, look(store, job, wrong, serves="/models/cheaper"))
        for _ in range(2):
            await cases.step()
        assert sent.calls == []
        cleared = store.findings_of_owner(OWNER, 0)
        assert [found.detail["own"]["alone"] for found in cleared] == [[0, 1], [0, 1]]
        # While it says nothing of itself nothing is taken back.
        cases, sent = opener(store, look(store, job, Down(size(job))))
        await cases.step()
        assert store.findings_of_owner(OWNER, 0) == cleared
        cases, sent = opener(store, look(store, job, right))
        await cases.step()
        assert sent.calls == [f"open {OWNER} 2"]
        assert all("alone" not in replay for found in store.findings() for replay in found.detail["replays"])

    async def test_what_it_could_not_judge_is_looked_at_again_in_the_next_life(
        self, store: Store, tmp_path: Path
    ) -> None:
        job = await held_job(tmp_path, Colder(len_of(tmp_path)))
        for found in findings(job):
            store.put_finding(found)
        cases, sent = opener(store, look(store, job, FakeEngine(size(job)), calibrated=False))
        for _ in range(2):
            await cases.step()
        assert sent.calls == []
        engine = Counting(size(job))
        cases, sent = opener(store, look(store, job, engine))
        for _ in range(2):
            await cases.step()
        assert (engine.scored, sent.calls[:1]) == (2, [f"open {OWNER} 2"])

    async def test_opens_one_that_it_does_bear_out(self, store: Store, tmp_path: Path) -> None:
        job = await held_job(tmp_path, Colder(len_of(tmp_path)))
        for found in findings(job):
            store.put_finding(found)
        cases, sent = opener(store, look(store, job, FakeEngine(size(job))))
        await cases.step()
        assert sent.calls == [f"open {OWNER} 2"]
        assert suspects(row.detail for row in store.replays(0)) == {}

    async def test_what_it_cannot_judge_is_no_guilt(self, store: Store, tmp_path: Path) -> None:
        job = await accused(store, tmp_path)
        cases, sent = opener(store, look(store, job, FakeEngine(size(job)), calibrated=False))
        await cases.step()
        assert sent.calls == []
        assert {found.verdict for found in store.findings_of_owner(OWNER, 0)} == {VerdictKind.INCONCLUSIVE}
        assert all("alone" not in replay for found in store.findings() for replay in found.detail["replays"])

    @pytest.mark.parametrize(("engine", "hint"), [(Down, "start it"), (Narrow, "--max-logprobs 66")])
    async def test_accuses_nobody_unseen_and_says_what_is_wrong(
        self, store: Store, tmp_path: Path, engine: type[FakeEngine], hint: str
    ) -> None:
        job = await accused(store, tmp_path)
        cases, sent = opener(store, look(store, job, engine(size(job))))
        with pytest.raises(EngineUnavailable, match=f"own engine, {URL}, does not bear out") as caught:
            await cases.step()
        assert hint in caught.value.message
        assert sent.calls == []
        cases, sent = opener(store, look(store, job, FakeEngine(size(job))))
        await cases.step()
        assert sent.calls == []

    async def test_an_answer_that_its_engine_cannot_score_keeps_nobody_from_the_court_for_ever(
        self, store: Store, tmp_path: Path
    ) -> None:
        job = await accused(store, tmp_path)
        cases, sent = opener(store, look(store, job, Short(size(job))))
        for _ in range(TRIES - 1):
            with pytest.raises(EngineUnavailable, match="max-model-len"):
                await cases.step()
        await cases.step()
        assert {found.verdict for found in store.findings_of_owner(OWNER, 0)} == {VerdictKind.INCONCLUSIVE}
        assert sent.calls == []

    async def test_a_model_that_the_settings_name_no_more_is_told(self, store: Store, tmp_path: Path) -> None:
        job = await accused(store, tmp_path)
        cases, sent = opener(store, SecondLook(store, {}, OnePair(None), URL, None))
        with pytest.raises(EngineUnavailable, match=f"about the model {to_hex(job.model_id)}, of which no folder"):
            await cases.step()
        assert sent.calls == []

    async def test_an_engine_that_is_down_keeps_no_broken_rule_from_the_court(
        self, store: Store, tmp_path: Path
    ) -> None:
        job, unseen = await held_job(tmp_path), Address("0x" + "11" * 20)
        store.add_commit(replace(COMMIT, id=8, owner=unseen), ITEM.pack())
        store.set_seed(8, SEED)
        for found in findings(job):
            store.put_finding(replace(found, state=FindingState.DEVIATING, detail={"rule": "promptRoot"}))
            other = replace(found, owner=unseen, commit_id=8, receipt_digest=keccak(found.receipt_digest or b""))
            store.put_finding(other)
        cases, sent = opener(store, look(store, job, Down(size(job))))
        with pytest.raises(EngineUnavailable):
            await cases.step()
        assert store.owners(0)[0] == unseen
        assert sent.calls == [f"open {OWNER} 2"]


class TestLook:
    async def test_whom_it_contradicts_stands_alone(self, store: Store, tmp_path: Path) -> None:
        job = await held_job(tmp_path)
        first, second = findings(job)
        # One of the two re-executors saw what is there; and one did not answer.
        honest = {"owner": SECOND, "node": SECOND, "logE": -0.4}
        failed = {"node": VERIFIER, "error": "node_unavailable"}
        first = replace(first, detail={"replays": [first.detail["replays"][0], honest, failed]})
        for found in (first, second, replace(first, k=5, point=5 * FEE)):
            store.put_finding(found)
        assert await look(store, job, FakeEngine(size(job))).at([first])
        seen = {found.k: found for found in store.findings_of_owner(OWNER, 0)}
        # Another point of the same receipt is seen with it, another receipt is not.
        assert [seen[k].verdict for k in (0, 1, 5)] == [VerdictKind.MATCH, VerdictKind.MISMATCH, VerdictKind.MATCH]
        assert [replay.get("alone", False) for replay in seen[0].detail["replays"]] == [True, False, False]
        assert seen[0].detail["own"]["logE"] == seen[0].log_e < 0
        assert seen[0].detail["own"]["profile"] == to_hex(PROFILE)
        assert not await look(store, job, FakeEngine(size(job))).at([seen[0]])

    async def test_its_own_evidence_only_ever_lowers_what_others_said(self, store: Store, tmp_path: Path) -> None:
        job = await held_job(tmp_path, Colder(len_of(tmp_path)))
        weak = replace(findings(job)[0], log_e=2.5, verdict=VerdictKind.INCONCLUSIVE)
        store.put_finding(weak)
        await look(store, job, FakeEngine(size(job))).at([weak])
        (seen,) = store.findings_of_owner(OWNER, 0)
        assert (seen.log_e, seen.verdict) == (2.5, VerdictKind.INCONCLUSIVE)
        assert seen.detail["own"]["logE"] > 9.3

    async def test_the_profile_that_the_engine_runs_under_chooses_the_calibration(
        self, store: Store, tmp_path: Path
    ) -> None:
        job = await accused(store, tmp_path)
        first, _ = store.findings_of_owner(OWNER, 0)
        await look(store, job, FakeEngine(size(job)), keccak(b"another profile")).at([first])
        assert not store.findings_of_receipt(first.receipt_digest or b"")[0].detail["own"]["calibrated"]

    async def test_an_exact_profile_needs_no_calibration(self, store: Store, tmp_path: Path) -> None:
        job = await accused(store, tmp_path)
        first, _ = store.findings_of_owner(OWNER, 0)
        await look(store, job, FakeEngine(size(job)), calibrated=False, exact={PROFILE}).at([first])
        own = store.findings_of_receipt(first.receipt_digest or b"")[0].detail["own"]
        assert (own["calibrated"], own["differing"]) == (True, 0)

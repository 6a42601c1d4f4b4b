"""What always fails for one commit, point or owner does not end what the verifier does for the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from retally.chain.connection import Chain
from retally.chain.court import CaseStatus
from retally.chain.transactions import TxSender
from retally.errors import ChainUnreachable, TransactionFailed
from retally.protocol.answer import AnswerContext
from retally.protocol.audit_points import AuditPoint
from retally.protocol.case import CommitRecord, Range
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import Bytes32, keccak
from retally_verifier.audit_commit import CommitAuditor
from retally_verifier.fetch_answer import AnswerFetcher
from retally_verifier.in_turn import each, in_turn
from retally_verifier.judge_point import PointJudge, Unanswered
from retally_verifier.open_case import CaseOpener
from retally_verifier.point_work import LocalWork
from retally_verifier.records import CaseRecord, CommitState
from retally_verifier.replay import Replayer
from retally_verifier.report_verdicts import VerdictReporter
from retally_verifier.store import Store

OWNER, NODE, PAYER = (SigningKey(keccak(name.encode())).address for name in ("owner", "node", "payer"))
COMMIT = CommitRecord(7, NODE, OWNER, keccak(b"root"), keccak(b""), 1000, 300_000, 12, 5_000)
GONE, LATER = COMMIT, replace(COMMIT, id=8)
DOMAIN = Domain(31337, OWNER)
POINT = AuditPoint(0, Bytes32(keccak(b"channel")), 3, 3_500)


class Seeds:
    """`Audits`: the chain took one commit back, and knows the seed of the others."""

    async def seed_of(self, commit_id: int) -> bytes | None:
        return None if commit_id == GONE.id else keccak(b"seed")

    def fix_seed(self, commit: CommitRecord) -> CommitRecord:
        return commit


class Refusing:
    """A sender that the contract refuses."""

    async def send(self, call: CommitRecord) -> None:
        raise TransactionFailed("AuditsUnknownCommit", {"commitId": call.id})


async def test_a_commit_that_the_chain_took_back_ends_no_other_audit(tmp_path: Path) -> None:
    store = Store(tmp_path / "verifier.sqlite")
    for commit in (GONE, LATER):
        store.add_commit(commit, b"")
    chain = SimpleNamespace(audits=Seeds(), domain=DOMAIN, clock=SimpleNamespace(now=lambda: 6_000))
    work = LocalWork(cast(PointJudge, None), 1)
    auditor = CommitAuditor(cast(Chain, chain), cast(TxSender, Refusing()), store, work, 0)
    with pytest.raises(TransactionFailed, match="AuditsUnknownCommit"):
        await auditor.step()
    # It had no points to judge, so it is done with.
    states = [(commit.record.id, commit.state) for commit in store.commits(*CommitState)]
    assert states == [(GONE.id, CommitState.SEEN), (LATER.id, CommitState.DONE)]
    store.close()


@pytest.mark.parametrize("error", [KeyError("q"), RecursionError(), UnicodeError(), MemoryError()])
async def test_what_can_not_be_read_is_no_answer(error: Exception) -> None:
    class Garbage:
        async def fetch(self, context: AnswerContext) -> None:
            raise error

    judge = PointJudge(DOMAIN, cast(AnswerFetcher, Garbage()), cast(Replayer, None), {})
    context = AnswerContext(DOMAIN, COMMIT, Range(PAYER, PAYER, 0, 0, 5_000), POINT)
    outcome = await judge.judge(context, keccak(b"seed"), ())
    assert isinstance(outcome, Unanswered)
    assert (outcome.code, type(error).__name__ in outcome.reason) == ("malformed", True)


async def test_what_can_not_be_hashed_is_no_answer() -> None:
    class Floating:
        async def fetch(self, context: AnswerContext) -> Any:
            return SimpleNamespace(to_wire=lambda: {"prompt": {"padding": 0.5}})

    judge = PointJudge(DOMAIN, cast(AnswerFetcher, Floating()), cast(Replayer, None), {})
    context = AnswerContext(DOMAIN, COMMIT, Range(PAYER, PAYER, 0, 0, 5_000), POINT)
    outcome = await judge.judge(context, keccak(b"seed"), ())
    assert isinstance(outcome, Unanswered)
    assert "float" in outcome.reason


class Duties:
    """`Audits`: one duty can't be read, the other is done."""

    async def duty_of(self, commit_id: int) -> Any:
        if commit_id == GONE.id:
            raise ValueError("no such duty")
        return SimpleNamespace(paid=True)


async def test_a_duty_that_can_not_be_read_ends_no_other_report(tmp_path: Path) -> None:
    store = Store(tmp_path / "verifier.sqlite")
    for commit in (GONE, LATER):
        store.add_commit(commit, b"")
        store.set_state(commit.id, CommitState.AUDITED)
    chain = cast(Chain, SimpleNamespace(audits=Duties()))
    with pytest.raises(ValueError, match="no such duty"):
        await VerdictReporter(chain, cast(TxSender, None), store).step()
    states = [(commit.record.id, commit.state) for commit in store.commits(*CommitState)]
    assert states == [(GONE.id, CommitState.AUDITED), (LATER.id, CommitState.DONE)]
    store.close()


class Cases:
    """`Court`: the chain took one case back, the other is over."""

    async def case_of(self, case_id: int) -> Any:
        if case_id == 1:
            raise ValueError("no such case")
        return SimpleNamespace(status=CaseStatus.CLOSED, verdict=2)


async def test_a_case_that_can_not_be_read_ends_no_other(tmp_path: Path) -> None:
    store = Store(tmp_path / "verifier.sqlite")
    for case_id in (1, 2):
        store.put_case(CaseRecord(case_id, OWNER, PAYER, Bytes32(keccak(b"evidence")), b"", False, 0))
    chain = cast(Chain, SimpleNamespace(court=Cases(), clock=SimpleNamespace(now=lambda: 6_000)))
    with pytest.raises(ValueError, match="no such case"):
        await CaseOpener(chain, cast(TxSender, None), store, "http://verifier").step()
    assert [(case.id, case.closed) for case in store.cases()] == [(1, False), (2, True)]
    store.close()


async def test_all_are_acted_on_and_the_last_failure_is_told() -> None:
    seen: list[Any] = []

    async def act(item: int) -> None:
        seen.append(item)
        if item % 2:
            raise ValueError(item)

    with pytest.raises(ValueError, match="3"):
        await each(range(5), act)
    assert seen == [0, 1, 2, 3, 4]
    assert await in_turn([0, 2], act) is None


async def test_a_chain_that_is_gone_is_waited_for_once() -> None:
    seen: list[int] = []

    async def act(item: int) -> None:
        seen.append(item)
        raise ChainUnreachable("down")

    with pytest.raises(ChainUnreachable):
        await each(range(5), act)
    assert seen == [0]

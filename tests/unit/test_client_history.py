"""The payer's own records: evidence stays, and what fails of them costs no answer that is paid."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.fakes_job import FakeJob
from tests.fakes_market import API_KEY, DOMAIN, MODEL, FakeMarket, render

from retally import Client, PaymentTerms, SigningKey, Wallet, result_of
from retally.job_history import JobHistory

QUESTION: Any = [{"role": "user", "content": "Why count twice?"}]
KEY = SigningKey(bytes(31) + b"\x07")


class RewritingMarket(FakeMarket):
    """Puts something else into the `retally` part of plain answers."""

    rewrite: Any = staticmethod(lambda part: part)

    def start(self, *given: Any, **named: Any) -> FakeJob:
        job, market = super().start(*given, **named), self

        class Rewritten(FakeJob):
            def plain(self) -> dict[str, Any]:
                answer = super().plain()
                answer["retally"] = market.rewrite(answer["retally"])
                return answer

        job.__class__ = Rewritten
        return job


def new_client(market: FakeMarket, home: Path, **options: Any) -> Client:
    terms = PaymentTerms(backoff_seconds=0.001)
    transport = market.transport()
    return Client(
        base_url="http://router", home=home, transport=transport, renderer=render, terms=terms, history=True, **options
    )


class TestEvidence:
    def test_is_not_replaced_by_an_answer_that_shows_an_old_receipt(self, tmp_path: Path) -> None:
        market = RewritingMarket()
        client = new_client(market, tmp_path, wallet=Wallet(KEY, DOMAIN, tmp_path))
        job_id = str(result_of(client.chat.completions.create(model=MODEL, messages=QUESTION)).job_id)
        history = JobHistory(tmp_path / "jobs.sqlite")
        before, old = history.get(job_id), market.receipts[job_id][0]
        market.rewrite = lambda part: {**part, "receipts": [old, *part["receipts"]]}
        other = result_of(client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "B"}]))
        assert history.get(job_id) == before
        assert other.job_id != job_id
        assert len(history.list()) == 2

    def test_of_a_signed_request_is_not_replaced_by_an_answer_without_one(self, tmp_path: Path) -> None:
        market = RewritingMarket()
        client = new_client(market, tmp_path, wallet=Wallet(KEY, DOMAIN, tmp_path))
        job_id = str(result_of(client.chat.completions.create(model=MODEL, messages=QUESTION)).job_id)
        history = JobHistory(tmp_path / "jobs.sqlite")
        before = history.get(job_id)
        market.rewrite = lambda part: {"jobId": job_id}
        new_client(market, tmp_path, api_key=API_KEY).chat.completions.create(model=MODEL, messages=QUESTION)
        assert history.get(job_id) == before

    @pytest.mark.parametrize("name", ["[/x]\x1b[2J", "0x12", ""])
    def test_has_no_name_that_is_no_job_s(self, tmp_path: Path, name: str) -> None:
        market = RewritingMarket()
        market.rewrite = lambda part: {"jobId": name}
        client = new_client(market, tmp_path, api_key=API_KEY)
        assert result_of(client.chat.completions.create(model=MODEL, messages=QUESTION)).job_id is None
        assert JobHistory(tmp_path / "jobs.sqlite").list() == []


class TestFailures:
    @pytest.mark.parametrize("stream", [False, True])
    def test_cost_no_answer_that_is_paid(self, tmp_path: Path, *, stream: bool) -> None:
        market = FakeMarket()
        client = new_client(market, tmp_path, wallet=Wallet(KEY, DOMAIN, tmp_path))
        history = client.payment.history
        assert history is not None
        history.close()
        answer = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=stream)
        if stream:
            list(answer)
        assert result_of(answer).checks.passed
        assert result_of(answer).history_error is not None

    def test_kill_9_in_mid_stream_leaves_the_signed_request(self, tmp_path: Path) -> None:
        code = (
            "import sys, os, signal\nfrom pathlib import Path\n"
            "from tests.unit.test_client_history import *\n"
            "home = Path(sys.argv[1])\n"
            "client = new_client(FakeMarket(), home, wallet=Wallet(KEY, DOMAIN, home))\n"
            "stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)\n"
            "next(iter(stream))\n"
            "print(result_of(stream).job_id, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        child = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
        assert child.returncode == -signal.SIGKILL, child.stderr
        kept = JobHistory(tmp_path / "jobs.sqlite").get(child.stdout.strip())
        assert (kept["finished"], kept["receipts"]) == (False, [])
        assert all(kept[name] is not None for name in ("request", "requestSignature", "params", "offer"))

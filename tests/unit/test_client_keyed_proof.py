"""With an API key: what the router signed is what was asked, and without its proof nothing reads as passed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import httpx2
import pytest
import tests.fakes_market as market_module
from tests.fakes_job import MODEL_ID, FakeJob
from tests.fakes_market import API_KEY, DOMAIN, MODEL, FakeMarket, render

from retally import Client, result_of
from retally.cli.chat import _summary
from retally.protocol.encoding import keccak, to_hex
from retally.protocol.job import JobRequest

QUESTION: Any = [{"role": "user", "content": "Why count twice?"}]


class FakeDeployment:
    """A deployment that names one model."""

    domain = DOMAIN
    models = ({"name": MODEL, "modelId": to_hex(MODEL_ID)},)


class OwnMind(FakeMarket):
    """A router that signs something else than it was asked."""

    changes: dict[str, Any]

    def start(self, body: dict[str, Any], endpoint: str, request: JobRequest, *rest: Any, trusted: bool) -> FakeJob:
        changed = dataclasses.replace(request, **self.changes)
        signature = self.session_key.sign(changed.digest(DOMAIN))
        return super().start(body, endpoint, changed, signature, *rest[1:], trusted=trusted)


class ShowsOne(FakeJob):
    """Bills all choices, shows one."""

    def plain(self) -> dict[str, Any]:
        body = super().plain()
        body["choices"] = body["choices"][:1]
        return body


class RubbishProof(FakeJob):
    """A proof that nobody can read."""

    def proof(self) -> str:
        return "!!!!"


class NoProof(FakeMarket):
    """A router without a proof."""

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        answer = super().handle(request)
        if "x-retally-proof" in answer.headers:
            del answer.headers["x-retally-proof"]
        return answer


def new_client(market: FakeMarket, tmp_path: Path, **options: Any) -> Client:
    return Client(
        API_KEY,
        "http://router",
        deployment=FakeDeployment(),
        home=tmp_path,
        transport=market.transport(),
        renderer=render,
        **options,
    )


@pytest.mark.parametrize(
    "changes",
    [{"n": 5}, {"client_seed": keccak(b"ground by router and node")}, {"audit_consent": False}],
    ids=["choices", "seed", "audit"],
)
def test_another_request_than_was_asked_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(market_module, "FakeJob", ShowsOne)
    market = OwnMind()
    market.changes = changes
    answer = new_client(market, tmp_path).chat.completions.create(model=MODEL, messages=QUESTION, seed=7, max_tokens=40)
    checks = result_of(answer).checks
    assert checks["asked"] is False
    assert not checks.passed
    assert checks.word.startswith("failed: ")
    assert "asked" in checks.word


def test_another_model_than_the_named_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (market_module, __import__("tests.fakes_job", fromlist=["MODEL_ID"])):
        monkeypatch.setattr(module, "MODEL_ID", keccak(b"cheap"))
    answer = new_client(FakeMarket(), tmp_path).chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=40)
    assert result_of(answer).checks["asked"] is False


def test_a_name_that_nothing_is_known_of_keeps_its_first_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(API_KEY, "http://router", home=tmp_path, transport=FakeMarket().transport())
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=40)
    assert result_of(answer).checks["asked"] is True
    for module in (market_module, __import__("tests.fakes_job", fromlist=["MODEL_ID"])):
        monkeypatch.setattr(module, "MODEL_ID", keccak(b"cheap"))
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=39)
    assert result_of(answer).checks["asked"] is False


def test_a_dearer_offer_than_was_asked_fails(tmp_path: Path) -> None:
    wish = {"provider": {"max_price": {"completion": 5}}}
    answer = new_client(FakeMarket(), tmp_path).chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=40, extra_body=wish
    )
    assert result_of(answer).checks["asked"] is False


def test_an_audit_that_the_caller_forbids_is_as_asked(tmp_path: Path) -> None:
    market = OwnMind()
    market.changes = {"audit_consent": False}
    answer = new_client(market, tmp_path).chat.completions.create(
        model=MODEL, messages=QUESTION, extra_body={"provider": {"audit": False}}
    )
    assert result_of(answer).checks.word == "passed"


def test_without_a_proof_nothing_reads_as_passed(tmp_path: Path) -> None:
    result = result_of(new_client(NoProof(), tmp_path).chat.completions.create(model=MODEL, messages=QUESTION))
    assert not result.checks.complete
    assert result.checks.word.startswith("unchecked: job_id, asked")
    assert "unchecked" in _summary(result)
    assert "passed" not in _summary(result)


def test_a_proof_that_can_t_be_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_module, "FakeJob", RubbishProof)
    result = result_of(new_client(FakeMarket(), tmp_path).chat.completions.create(model=MODEL, messages=QUESTION))
    assert not result.checks.complete
    assert result.checks["asked"] is None
    assert result.checks.word.startswith("unchecked: ")
    assert result.payment_error is not None

"""`retally reexecute` before it reaches a chain: whose job, which receipt, where jurors find the file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fastapi import FastAPI, Response
from tests.fakes_held_job import NODE, QUESTION, Desk, held_job
from tests.serve_app import serve

from retally.cli.reexecute import Serving, _check_served
from retally.errors import BadRequest

BAD, UNKNOWN, CHAIN = 2, 3, 5


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    for name in ("ROUTER_URL", "RPC_URL", "API_KEY", "ADDRESS"):
        monkeypatch.delenv(f"RETALLY_{name}", raising=False)
    return Desk("reexecute", tmp_path, asyncio.run(held_job(tmp_path)))


class TestRefusals:
    """Each says what to do next, and nothing is paid."""

    def test_an_unknown_receipt_is_3(self, desk: Desk) -> None:
        assert "retally jobs" in desk.run("0xabc", *desk.usual, code=UNKNOWN)["error"]["hint"]

    def test_a_malformed_file_is_2(self, desk: Desk) -> None:
        desk.write({"receipts": []})
        assert "retally receipt" in desk.run(str(desk.file), *desk.usual, code=BAD)["error"]["hint"]

    def test_another_key_than_the_payer_s_is_2(self, desk: Desk) -> None:
        error = desk.run(str(desk.file), *desk.usual, code=BAD, RETALLY_KEY=NODE.secret.hex())["error"]
        assert "paid for this job" in error["message"]
        assert "--address" in error["hint"]

    def test_a_job_that_forbids_audit_is_2(self, desk: Desk) -> None:
        desk.write(asyncio.run(held_job(desk.base, consent=False)).content)
        error = desk.run(str(desk.file), *desk.usual, code=BAD)["error"]
        assert "forbids audit" in error["message"]

    def test_another_prompt_is_2(self, desk: Desk) -> None:
        desk.run(str(desk.file), "--ask", QUESTION + "?", code=BAD)

    def test_one_receipt_must_be_meant(self, desk: Desk) -> None:
        content = desk.job.content
        [receipt] = content["receipts"]
        desk.write({**content, "receipts": [receipt, {**receipt, "receipt": {**receipt["receipt"], "choice": 1}}]})
        assert "--choice" in desk.run(str(desk.file), *desk.usual, code=BAD)["error"]["hint"]
        desk.run(str(desk.file), *desk.usual, "--choice", "2", code=BAD)

    def test_a_chain_is_needed(self, desk: Desk) -> None:
        assert "--rpc-url" in desk.run(str(desk.file), *desk.usual, code=BAD)["error"]["hint"]

    def test_a_chain_out_of_reach_is_5(self, desk: Desk) -> None:
        desk.run(str(desk.file), *desk.usual, code=CHAIN, RETALLY_RPC_URL="http://127.0.0.1:9")


class TestServing:
    def test_jurors_elsewhere_need_an_address_of_the_file(self) -> None:
        Serving("127.0.0.1", 0, None, None).check_reachable(31337)
        Serving("0.0.0.0", 0, "https://payer.example", None).check_reachable(1)
        Serving("127.0.0.1", 0, None, "https://files.example/e.json").check_reachable(1)
        with pytest.raises(BadRequest, match="jurors must be able") as refused:
            Serving("0.0.0.0", 0, None, None).check_reachable(1)
        assert "--public-url" in refused.value.hint

    def test_a_file_served_elsewhere_is_looked_at_first(self) -> None:
        app = FastAPI()

        @app.get("/e.json")
        async def file() -> Response:
            return Response(b"the file")

        with serve(app) as url:
            _check_served(f"{url}/e.json", b"the file")
            with pytest.raises(BadRequest, match="another file"):
                _check_served(f"{url}/e.json", b"the file, changed")
        with pytest.raises(BadRequest, match="does not answer"):
            _check_served("http://127.0.0.1:9/e.json", b"the file")

"""A job as its payer holds it, the files of its model, and a vLLM that replays it: all small, all signed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from typer.testing import CliRunner

from retally.chain.abi import CONTRACTS
from retally.chain.deployment import Deployment
from retally.cli.main import app as commands
from retally.inference.chat_format import ChatFormat
from retally.inference.engine import EngineSampling
from retally.inference.model_files import ModelFiles
from retally.job_evidence import Evidence
from retally.job_meter import JobMeter
from retally.job_result import JobResult
from retally.protocol.calibration import Calibration, MarginTable
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import ZERO_BYTES32, Address, Bytes32, keccak
from retally.protocol.job import JobRequest, job_seed, params_hash, prompt_hash
from retally.protocol.margins import ReplayScores
from retally.protocol.merkle import EMPTY_ROOT, ids_root, output_root
from retally.protocol.offer import Offer
from retally.protocol.params import JobParams
from retally.protocol.pricing import fee_round_down, max_fee
from retally.protocol.receipt import FinishReason, JobReceipt, ReceiptLeaf
from retally.protocol.structure import ResponseFormat, grammar_of
from tests.fakes import FakeEngine
from tests.fakes_node import tiny_format

PAYER, NODE = SigningKey(keccak(b"held payer")), SigningKey(keccak(b"held node"))
PROFILE = keccak(b"held profile")
QUESTION = "Once upon a time"
PROMPT: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}]}
DATE = "2026-11-21"
TOKENS = 48
FINISHED = 1_700_000_000
DEPLOYMENT = Deployment(31337, 0, dict.fromkeys([*CONTRACTS, "Asset"], Address("0x" + "11" * 20)))
TABLE = MarginTable(
    edges=(1, 100_000, 1_000_000), honest=(10**9, 10**6, 10**5, 10**4), cheat=(5 * 10**8, 10**8, 2 * 10**8, 2 * 10**8)
)
WIDE = {"temperature": (1, 2_000_000), "promptTokens": (1, 4096), "outputTokens": (1, 4096)}


@dataclass(frozen=True)
class HeldJob:
    """A job with everything that a command needs to judge it."""

    folder: Path
    chat_format: ChatFormat
    model_id: Bytes32
    evidence: Evidence
    calibration: Calibration

    @property
    def content(self) -> dict[str, Any]:
        """What the payer's history holds."""
        return JobResult(self.evidence, JobMeter(self.evidence), "retally/tiny").to_json()

    @property
    def receipt(self) -> JobReceipt:
        """Its one receipt."""
        return self.evidence.receipts[0].receipt

    def signed_again(self, **changes: Any) -> HeldJob:
        """The same job with another receipt, which the node signed."""
        receipt = replace(self.receipt, **changes)
        return replace(self, evidence=replace(self.evidence, receipts=[_signed(receipt)]))


async def held_job(
    base: Path,
    engine: FakeEngine | None = None,
    *,
    consent: bool = True,
    form: ResponseFormat | None = None,
    profile: Bytes32 = PROFILE,
) -> HeldJob:
    """An answer by an engine, signed by a node that claims the tiny model; one of a given form ends by itself."""
    folder = base / "model"
    chat_format = tiny_format(folder)
    (folder / "manifest.json").write_text(json.dumps(ModelFiles.describe(folder, "retally/tiny", 256)))
    model_id = ModelFiles.load(folder).model_id
    shape: dict[str, Any] = {"min_tokens": TOKENS} if form is None else {"response_format": form}
    params = JobParams(max_tokens=TOKENS, template_date=DATE, **shape)
    offer = Offer(NODE.address, model_id, profile, 2_000_000, 1_000_000, 6_000_000, 256, FINISHED + 10**6)
    prompt_ids = chat_format.render(PROMPT, DATE)
    request = _request(
        model_id, params, max_fee(offer.prices, prompt_tokens=len(prompt_ids), max_output=TOKENS), consent
    )
    seed = job_seed(request.client_seed, 0)
    sampling = EngineSampling(
        params=params,
        seed=seed,
        eos_ids=chat_format.eos_ids,
        max_new_tokens=TOKENS,
        grammar=grammar_of(params, PROMPT),
    )
    ids: list[int] = []
    quantised: list[int] = []
    async for chunk in (engine or FakeEngine(chat_format.vocab_size)).generate(prompt_ids, sampling):
        ids += chunk.ids
        quantised += [min(65_535, round(-value * 1024)) for value in chunk.logprobs]
    receipt = _receipt(request, offer, prompt_ids, ids, quantised)
    if ids[-1] in chat_format.eos_ids:
        receipt = replace(receipt, finish_reason=FinishReason.STOP)
    domain = DEPLOYMENT.domain
    evidence = Evidence(
        domain=domain,
        request=request,
        request_signature=PAYER.sign(request.digest(domain)),
        params=params,
        offer=offer,
        offer_signature=NODE.sign(offer.digest(domain)),
        receipts=[_signed(receipt)],
        ids={0: ids},
        quantised={0: quantised},
        stated_cost=receipt.fee,
    )
    calibration = Calibration(model_id, PROFILE, PROFILE, {"seeded": TABLE}, WIDE)
    return HeldJob(folder, chat_format, model_id, evidence, calibration)


def _request(model_id: Bytes32, params: JobParams, fee: int, consent: bool) -> JobRequest:
    nonce = keccak(b"held nonce")
    return JobRequest(
        payer=PAYER.address,
        signer=PAYER.address,
        model_id=model_id,
        profile_id=ZERO_BYTES32,
        n=1,
        max_price_in=2_000_000,
        max_price_cached=1_000_000,
        max_price_out=6_000_000,
        prompt_hash=prompt_hash(nonce, PROMPT),
        params_hash=params_hash(params),
        max_output=TOKENS,
        max_fee=fee,
        client_seed=keccak(b"held seed"),
        audit_consent=consent,
        nonce=nonce,
        deadline=FINISHED + 60,
    )


def _receipt(
    request: JobRequest, offer: Offer, prompt_ids: Sequence[int], ids: Sequence[int], quantised: Sequence[int]
) -> JobReceipt:
    counts = {"prompt_tokens": len(prompt_ids), "cached_tokens": 0, "output_tokens": len(ids)}
    return JobReceipt(
        job_id=request.digest(DEPLOYMENT.domain),
        choice=0,
        payer=request.payer,
        signer=request.signer,
        node=offer.node,
        lane=0,
        cum_from=0,
        cum_to=fee_round_down(offer.prices, choice=0, output_from=0, **counts),
        model_id=request.model_id,
        profile_id=offer.profile_id,
        offer_hash=offer.digest(DEPLOYMENT.domain),
        prompt_root=ids_root(prompt_ids),
        prompt_tokens=len(prompt_ids),
        cached_tokens=0,
        prefix_root=EMPTY_ROOT,
        output_from=0,
        output_to=len(ids),
        output_root=output_root(0, ids, quantised),
        params_hash=request.params_hash,
        seed=job_seed(request.client_seed, 0),
        finish_reason=FinishReason.LENGTH,
        started_at=FINISHED - 1,
        finished_at=FINISHED,
    )


def _signed(receipt: JobReceipt) -> ReceiptLeaf:
    return ReceiptLeaf(receipt, NODE.sign(receipt.digest(DEPLOYMENT.domain)))


def vllm_app(engine: FakeEngine, model: str = "retally/tiny", *, logprobs: int = 66) -> FastAPI:
    """What of vLLM's API a replay needs; `logprobs` is its --max-logprobs, 0 for an engine that gives none."""
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"data": [{"id": model, "max_model_len": 256}]}

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": "fake"}

    @app.post("/v1/completions", response_model=None)
    async def completions(request: Request) -> Any:
        body = await request.json()
        if 0 < logprobs < body["prompt_logprobs"]:
            return JSONResponse({"message": f"more than the {logprobs} logprobs allowed"}, 400)
        ids = body["prompt"]
        rows = await _rows(engine, ids, body["prompt_logprobs"]) if logprobs else None
        return {"choices": [{"token_ids": [1], "prompt_logprobs": rows}]}

    return app


async def _rows(engine: FakeEngine, ids: Sequence[int], top: int) -> list[dict[str, dict[str, float]] | None]:
    scores = await engine.score(ids, 1, top)
    rows: list[dict[str, dict[str, float]] | None] = [None]
    for n, (known, values) in enumerate(zip(scores.top_ids, scores.top_logprobs, strict=True)):
        row = {str(i): {"logprob": float(v)} for i, v in zip(known, np.asarray(values), strict=True)}
        rows.append({**row, str(ids[n + 1]): {"logprob": float(scores.claimed_logprobs[n])}})
    return rows


class Own:
    """A re-executor around an engine."""

    name = "own"
    profile_id = PROFILE

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    async def score(self, ids: Sequence[int], start: int) -> ReplayScores:
        return await self._engine.score(ids, start)


class Desk:
    """One of the commands that judge a job, in a home with one job."""

    def __init__(self, command: str, base: Path, job: HeldJob) -> None:
        self.command = command
        self.base = base
        self.job = job
        self.file = base / "job.json"
        self.write(job.content)
        deployment = base / "deployment.json"
        deployment.write_text(json.dumps(DEPLOYMENT.to_json()))
        folder = base / "calibrations"
        folder.mkdir()
        (folder / "one.json").write_text(json.dumps(job.calibration.to_json()))
        self.environment = {
            "RETALLY_HOME": str(base / "home"),
            "RETALLY_DEPLOYMENT": str(deployment),
            "RETALLY_MODEL_DIR": str(job.folder),
            "RETALLY_KEY": PAYER.secret.hex(),
        }
        self.usual: tuple[str, ...] = ("--ask", QUESTION)
        if command == "verify":
            self.usual += ("--calibrations", str(folder))

    def write(self, content: object) -> None:
        self.file.write_text(json.dumps(content))

    def run(self, *words: str, code: int, **environment: str) -> dict[str, Any]:
        done = CliRunner().invoke(commands, [self.command, *words, "--json"], env=self.environment | environment)
        assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def told(self, *words: str, code: int) -> str:
        done = CliRunner().invoke(commands, [self.command, *words], env=self.environment)
        assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
        return done.stdout

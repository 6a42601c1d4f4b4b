"""`retally reexecute`: pay a jury to re-execute one of your jobs, and see its case through (R-67)."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx2
import typer

from retally.cli.amounts import show_amount
from retally.cli.follow_view import end_text, progress_text
from retally.cli.held_job import AskText, ModelDir, PromptFile, Receipt, held_job
from retally.cli.market import VERDICTS
from retally.cli.money import sender_of
from retally.cli.output import emit, is_json, note, verdict_code
from retally.cli.session import DEVNET_CHAIN, Session, run
from retally.errors import BadRequest, NotFound
from retally.job_evidence import Evidence
from retally.protocol.encoding import to_hex
from retally.protocol.receipt import ReceiptLeaf

REQUEST_SECONDS = 60.0
EVIDENCE_PORT = 8790
#: A devnet's blocks come every second, elsewhere phases last hours.
DEVNET_POLL_SECONDS, POLL_SECONDS = 0.5, 15.0


@dataclass(frozen=True, slots=True)
class Serving:
    """Where jurors shall fetch the evidence file."""

    host: str
    port: int | None
    public_url: str | None
    evidence_url: str | None

    def check_reachable(self, chain_id: int) -> None:
        """Jurors sit on other machines, but on a devnet."""
        if chain_id != DEVNET_CHAIN and self.public_url is None and self.evidence_url is None:
            hint = "pass --public-url, or put the file somewhere and pass --evidence-url"
            raise BadRequest("jurors must be able to fetch the evidence file", param="public_url", hint=hint)


def reexecute(
    ctx: typer.Context,
    receipt: Receipt,
    prompt: PromptFile = None,
    ask: AskText = None,
    choice: Annotated[int | None, typer.Option(help="Which receipt of the job: that of this choice.")] = None,
    model_dir: ModelDir = None,
    host: Annotated[str, typer.Option(help="Address on which the evidence file is served.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help=f"And its port, {EVIDENCE_PORT} unless given; 0 takes a free one."),
    ] = None,
    public_url: Annotated[str | None, typer.Option(help="How jurors reach that address.")] = None,
    evidence_url: Annotated[str | None, typer.Option(help="Where you serve the file yourself.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Pay without asking.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Open another case after one that has ended.")] = False,
) -> None:
    """Have a jury re-execute a job that you paid for; a mismatch pays job and case fee back from the node's stake.

    Serves the evidence file and takes each step when it is due, until the case ends; run again, it goes on where it
    stopped. Exit codes: 0 match, 6 mismatch, 7 inconclusive.
    """
    session = Session(ctx)
    serving = Serving(host, port, public_url, evidence_url)
    job = held_job(session, receipt, prompt, ask, model_dir)
    leaf = _chosen(job.evidence, choice)
    data = run(lambda: OwnJobCommand(ctx, session, serving, yes=yes, again=again).work(job.evidence, leaf, job.kit))
    emit(ctx, data, end_text(data))
    raise typer.Exit(verdict_code(int(data["verdictCode"])))


class OwnJobCommand:
    """One run of the command."""

    def __init__(self, ctx: typer.Context, session: Session, serving: Serving, *, yes: bool, again: bool) -> None:
        self._ctx = ctx
        self._session = session
        self._serving = serving
        self._yes = yes
        self._again = again

    async def work(self, evidence: Evidence, leaf: ReceiptLeaf, kit: Any) -> dict[str, Any]:
        """Opens the case, or finds the one that is open, and sees it through."""
        from retally.own_job import check_may_ask, find_case, is_closed
        from retally.verify_job import checked_answer

        answer = checked_answer(evidence, leaf, self._session.domain, kit)
        key = self._session.key()
        check_may_ask(leaf.receipt, answer, key.address)
        async with self._session.chain() as chain:
            self._serving.check_reachable(chain.deployment.chain_id)
            sender = sender_of(chain, self._session, key)
            # What an earlier run sent and did not see mined may be the very case.
            await sender.resume()
            known = await find_case(chain, key.address, leaf.receipt)
            if known is None or (self._again and is_closed(await chain.court.case_of(known.id))):
                return await self._open(chain, sender, answer, kit)
            note(self._ctx, f"this job has case {known.id}")
            if is_closed(await chain.court.case_of(known.id)):
                return await self._end(chain, sender, known)
            data = self._file_of(known.evidence_hash)
            with self._served(data, known.evidence_hash, self._port_of(known.evidence_uri)):
                return await self._follow(chain, sender, known)

    async def _open(self, chain: Any, sender: Any, answer: Any, kit: Any) -> dict[str, Any]:
        from retally.node_client import NodeClient
        from retally.own_job import check_court, evidence_file, open_case, pool_of

        client = NodeClient(REQUEST_SECONDS)
        try:
            file = await evidence_file(chain, client, answer, kit.render)
        finally:
            await client.close()
        pool = await pool_of(chain, answer.receipt)
        cost = await check_court(chain, sender.address)
        data = file.to_bytes()
        path = self._keep(data, file.hash)
        await self._confirm(chain, answer, cost, path)
        with self._served(data, file.hash, EVIDENCE_PORT) as uri:
            opened = await open_case(chain, sender, file, pool, uri)
            note(self._ctx, f"case {opened.id} is open; jurors fetch {uri}; after Ctrl-C the same command goes on")
            return await self._follow(chain, sender, opened)

    async def _confirm(self, chain: Any, answer: Any, cost: int, path: Path) -> None:
        note(self._ctx, _what_happens(answer, cost, await chain.court.case_fee(), path))
        if self._yes:
            return
        if is_json(self._ctx) or not sys.stdin.isatty():
            raise BadRequest(f"this pays {show_amount(cost)}", param="yes", hint="confirm it with --yes")
        typer.confirm("Open the case?", abort=True, err=True)

    async def _follow(self, chain: Any, sender: Any, case: Any) -> dict[str, Any]:
        from retally.own_job import CaseFollower, is_closed

        follower, last = CaseFollower(chain, sender, case), ""
        pause = DEVNET_POLL_SECONDS if chain.deployment.chain_id == DEVNET_CHAIN else POLL_SECONDS
        while not is_closed(state := await follower.step()):
            text = await progress_text(chain, case.id, state)
            if text != last:
                note(self._ctx, text)
            last = text
            await asyncio.sleep(pause)
            await chain.clock.refresh()
        return await self._end(chain, sender, case)

    async def _end(self, chain: Any, sender: Any, case: Any) -> dict[str, Any]:
        from retally.chain.credits import credit_of
        from retally.own_job import CaseFollower

        end = await CaseFollower(chain, sender, case).end()
        return {
            "caseId": case.id,
            "verdict": VERDICTS[end.verdict],
            "verdictCode": end.verdict,
            "refunded": str(end.refunded),
            "credit": str(await credit_of(chain, sender.address)),
        }

    @contextmanager
    def _served(self, data: bytes, hash_: bytes, usual_port: int) -> Iterator[str]:
        """Where jurors find the file while the block runs."""
        from retally.evidence_server import evidence_path, serve_evidence

        serving = self._serving
        if serving.evidence_url is not None:
            _check_served(serving.evidence_url, data)
            yield serving.evidence_url
            return
        port = usual_port if serving.port is None else serving.port
        with serve_evidence(data, hash_, serving.host, port) as bound:
            base = (serving.public_url or f"http://{serving.host}:{bound}").rstrip("/")
            yield base + evidence_path(hash_)

    def _port_of(self, uri: str) -> int:
        """Where an earlier run served, unless something else stood before it."""
        return EVIDENCE_PORT if self._serving.public_url else urlsplit(uri).port or EVIDENCE_PORT

    def _keep(self, data: bytes, hash_: bytes) -> Path:
        path = self._path(hash_)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The prompt is in it.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        return path

    def _file_of(self, hash_: bytes) -> bytes:
        try:
            return self._path(hash_).read_bytes()
        except FileNotFoundError as error:
            hint = "run the command in the home folder ($RETALLY_HOME) that opened the case"
            raise NotFound(f"the evidence file {self._path(hash_)} is gone", hint=hint) from error

    def _path(self, hash_: bytes) -> Path:
        return self._session.home / "evidence" / f"{to_hex(hash_)}.json"


def _chosen(evidence: Evidence, choice: int | None) -> ReceiptLeaf:
    found = [leaf for leaf in evidence.receipts if choice in (None, leaf.receipt.choice)]
    if not found:
        raise BadRequest(f"the job has no receipt of choice {choice}", param="choice")
    paid = [leaf for leaf in found if leaf.receipt.fee > 0]
    if len(paid) > 1:
        hint = "name one with --choice; a case is over one receipt"
        raise BadRequest(f"the job has {len(paid)} receipts", param="choice", hint=hint)
    return (paid or found)[0]


def _check_served(url: str, data: bytes) -> None:
    try:
        served = httpx2.get(url, timeout=REQUEST_SECONDS).content
    except httpx2.HTTPError as error:
        raise BadRequest(f"{url} does not answer: {error}", param="evidence_url") from error
    if served != data:
        hint = "put the file there that the command wrote, byte for byte"
        raise BadRequest(f"{url} serves another file", param="evidence_url", hint=hint)


def _what_happens(answer: Any, cost: int, fee: int, path: Path) -> str:
    receipt = answer.receipt
    return (
        f"A jury re-executes {receipt.output_tokens} tokens of node {receipt.node}, which billed"
        f" {show_amount(receipt.fee)}.\n"
        f"It costs {show_amount(cost)} now: {show_amount(fee)} for the jurors and {show_amount(cost - fee)} of tips"
        " for those who move the case on; tips that are not used come back.\n"
        f"Mismatch: {show_amount(receipt.fee + fee)} is paid back from the stake of the node's owner. Match or"
        " inconclusive: the jurors keep their fee.\n"
        f"Prompt and answer become readable to whoever follows the case ({path})."
    )

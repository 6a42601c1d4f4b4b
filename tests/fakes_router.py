"""Nodes that sign for real over real HTTP; only their model is a toy."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from retally.errors import BadRequest, Conflict, DuplicateJob, RetallyError, VoucherTooLow, openai_envelope
from retally.protocol.eip712 import Address, Bytes32, Domain, SigningKey, check_signed_by, keccak
from retally.protocol.encoding import to_hex
from retally.protocol.offer import Offer
from retally.protocol.pricing import input_fee_round_down
from retally.protocol.receipt import FinishReason, JobReceipt
from retally.protocol.voucher import ChannelId, Voucher
from retally.protocol.wire import ChannelState, JobSubmission
from retally_router.check_frames import ENDED
from retally_router.ports import RegisteredNode
from tests.fakes_router_writer import Writer, send_event, send_json
from tests.fakes_world import DOMAIN, MODEL, MODEL_ID, NOW, PROFILE_ID


@dataclass
class Line:
    """A channel at a node."""

    best: int = 0
    best_signature: bytes | None = None
    cum_to: int = 0
    open: dict[tuple[bytes, int], int] = field(default_factory=dict)
    paid: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def due(self) -> int:
        return self.cum_to + sum(self.open.values())


@dataclass
class FakeNode:
    """A node with a toy model; set the attributes to make it slow, dead, poor in manners or dishonest."""

    name: str
    price_in: int = 2_000_000
    price_out: int = 6_000_000
    max_context: int = 1024
    chunk_tokens: int = 4
    seconds_per_token: float = 0.0
    refuse: RetallyError | None = None
    die_after: int | None = None
    dishonest: str | None = None
    url: str = ""
    #: Of another chain than the one in memory, with what is registered there.
    domain: Domain = DOMAIN
    model: str = MODEL
    model_id: Bytes32 = MODEL_ID
    profile_id: Bytes32 = PROFILE_ID
    lines: dict[bytes, Line] = field(default_factory=dict)
    receipts: dict[bytes, list[tuple[JobReceipt, bytes]]] = field(default_factory=dict)
    jobs: list[JobSubmission] = field(default_factory=list)
    vouchers: list[Voucher] = field(default_factory=list)
    produced: int = 0
    cancelled: int = 0
    vouchers_refused: bool = False
    #: How long an answer that was given up stays open.
    seconds_to_close: float = 0.0
    #: What it wants vouched before prefill beyond what is due (R-22).
    greed: int = 0
    writers: dict[bytes, list[Writer]] = field(default_factory=dict)
    #: What went out of each job, to be shown again.
    sent: dict[bytes, list[Any]] = field(default_factory=dict)
    ended: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.key = SigningKey(keccak(self.name.encode()))
        self.owner = SigningKey(keccak(b"owner" + self.name.encode())).address

    @property
    def address(self) -> Address:
        return self.key.address

    @property
    def offer(self) -> Offer:
        return Offer(
            self.address,
            self.model_id,
            self.profile_id,
            self.price_in,
            self.price_in // 2,
            self.price_out,
            self.max_context,
            NOW + 3600,
        )

    def registered(self) -> RegisteredNode:
        return RegisteredNode(self.address, self.owner, self.model_id, self.profile_id, self.url, 10**9, 10**12, True)

    def line(self, channel: ChannelId) -> Line:
        return self.lines.setdefault(channel.key, Line())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        try:
            await self._route(scope, json.loads(body or b"null"), receive, send)
        except RetallyError as error:
            await send_json(send, openai_envelope(error), error.status)
        except (KeyError, TypeError) as error:
            await send_json(send, openai_envelope(BadRequest(f"unfit: {error!r}")), 400)

    async def _route(self, scope: Any, body: Any, receive: Any, send: Any) -> None:
        parts = scope["path"].split("/")[3:]
        if parts[0] == "info":
            await send_json(send, self.info())
        elif parts[0] == "jobs":
            await self._job(JobSubmission.from_wire(body), receive, send)
        elif parts[0] == "vouchers":
            states = [await self._take(Voucher.from_wire(v["voucher"]), v["signature"]) for v in body["vouchers"]]
            await send_json(send, {"channels": states})
        elif parts[0] == "channels":
            channel = ChannelId(Address(parts[1]), Address(parts[2]), self.address, int(parts[3]))
            await send_json(send, self._state(self.line(channel)))
        elif parts[0] == "receipts":
            known = self.receipts.get(bytes.fromhex(parts[1][2:]))
            if known is None:
                await send_json(send, {"error": {"message": "unknown job", "code": "not_found"}}, 404)
                return
            shown = [{"receipt": r.to_wire(), "signature": to_hex(s)} for r, s in known]
            await send_json(send, {"jobId": parts[1], "receipts": shown})

    def info(self) -> dict[str, Any]:
        signature = to_hex(self.key.sign(self.offer.digest(self.domain)))
        load = {"running": 0, "waiting": 0}
        return {
            "node": self.address,
            "model": self.model,
            "offer": self.offer.to_wire(),
            "offerSignature": signature,
            "load": load,
        }

    def _state(self, line: Line) -> dict[str, Any]:
        return ChannelState(
            best=line.best,
            best_signature=line.best_signature,
            last_cum_to=line.cum_to,
            due=line.due,
            open=len(line.open),
            unpaid=max(0, line.due - line.best),
        ).to_wire()

    async def _take(self, voucher: Voucher, signature: str) -> dict[str, Any]:
        if self.vouchers_refused:
            raise RetallyError("not now")
        raw = bytes.fromhex(signature[2:])
        check_signed_by(voucher.digest(self.domain), raw, voucher.signer)
        self.vouchers.append(voucher)
        line = self.line(voucher.channel)
        async with line.paid:
            if voucher.cumulative > line.best:
                line.best, line.best_signature = voucher.cumulative, raw
            line.paid.notify_all()
        return self._state(line)

    async def _job(self, job: JobSubmission, receive: Any, send: Any) -> None:
        if self.refuse is not None:
            raise self.refuse
        first, line = job.assignments[0].assignment, self.line(job.voucher.channel)
        if first.job_id in self.sent and not first.output_from:
            await self._show(job, first.job_id, send)
            return
        if any((first.job_id, item.assignment.choice) in line.open for item in job.assignments):
            raise Conflict("this node still answers that choice", code="choice_open")
        self.jobs.append(job)
        await self._take(job.voucher, to_hex(job.voucher_signature))
        line = self.line(job.voucher.channel)
        first = next((a.assignment for a in job.assignments if a.assignment.choice == 0), job.assignments[0].assignment)
        tokens = len(self.prompt_ids(job))
        needed = line.due + input_fee_round_down(
            self.offer.prices, prompt_tokens=tokens, choice=first.choice, output_from=first.output_from
        )
        needed += self.greed
        if job.voucher.cumulative < needed:
            raise VoucherTooLow(needed, job.voucher.cumulative)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for item in job.assignments:
            line.open[item.assignment.job_id, item.assignment.choice] = 0
        gone = asyncio.create_task(_until_gone(receive))
        work = asyncio.create_task(self._stream(job, line, send))
        await asyncio.wait((gone, work), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not work.done():
            work.cancel()
            self.cancelled += 1
        await asyncio.gather(work, return_exceptions=True)
        await asyncio.sleep(self.seconds_to_close)
        for writer in self.writers.pop(job.request.nonce, []):
            if (writer.job_id, writer.assignment.choice) in line.open:
                writer.close(FinishReason.CANCELLED)
        async with self.ended:
            self.ended.notify_all()

    async def rest(self) -> None:
        """Waits until no segment is open any more."""
        async with self.ended:
            await self.ended.wait_for(lambda: not any(line.open for line in self.lines.values()))

    def prompt_ids(self, job: JobSubmission) -> list[int]:
        if "promptIds" in job.prompt:
            return list(job.prompt["promptIds"])
        text = job.prompt.get("prompt") or "".join(m["content"] for m in job.prompt["messages"])
        return [len(word) for word in text.split()]

    def cached_tokens(self, job: JobSubmission) -> int:
        """What of the prompt the cache held: this node has none."""
        return 0

    async def _show(self, job: JobSubmission, job_id: bytes, send: Any) -> None:
        """The same answer again if it was whole, as a node does; the same job is never made twice."""
        closed = [receipt for receipt, _ in self.receipts.get(job_id, []) if receipt.finish_reason in ENDED]
        if len(closed) < len(job.assignments):
            raise DuplicateJob(to_hex(job_id))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for message in self.sent[job_id]:
            await send(message)
        await self._end(job, sum(receipt.output_tokens for receipt in closed), send)

    async def _stream(self, job: JobSubmission, line: Line, send: Any) -> None:
        sent = self.sent.setdefault(job.assignments[0].assignment.job_id, [])

        async def remember(message: Any) -> None:
            sent.append(message)
            await send(message)

        writers = [Writer(self, job, line, item, remember) for item in job.assignments]
        self.writers[job.request.nonce] = writers
        await asyncio.gather(*[writer.run() for writer in writers])
        await self._end(job, sum(len(writer.ids) for writer in writers), send)

    async def _end(self, job: JobSubmission, output: int, send: Any) -> None:
        if job.options.include_usage:
            count, job_id = len(self.prompt_ids(job)), job.assignments[0].assignment.job_id
            base = {"id": "chatcmpl-" + job_id.hex()[:24], "object": "chat.completion.chunk", "created": 1}
            usage = {"prompt_tokens": count, "completion_tokens": output, "total_tokens": count + output}
            await send_event(send, {**base, "model": job.options.model, "choices": [], "usage": usage})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _until_gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

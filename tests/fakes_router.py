"""What a router stands on, in memory: a chain with payers and nodes, and nodes that sign for real over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from retally.errors import ChainUnreachable, RetallyError, VoucherTooLow, openai_envelope
from retally.protocol.eip712 import Address, Bytes32, Domain, SigningKey, check_signed_by, keccak
from retally.protocol.encoding import to_hex, u32
from retally.protocol.job import job_seed
from retally.protocol.merkle import OutputTree, ids_root
from retally.protocol.offer import Offer
from retally.protocol.pricing import fee_round_down, input_fee_round_down
from retally.protocol.receipt import Chunk, FinishReason, JobReceipt
from retally.protocol.voucher import ChannelId, Voucher
from retally.protocol.wire import ChannelState, JobSubmission
from retally_router.ports import RegisteredNode, Standing

DOMAIN = Domain(31337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
MODEL = "retally/fake"
MODEL_ID = keccak(b"model")
PROFILE_ID = keccak(b"profile")
NOW = 1_800_000_000
STOP_ID = 7
VOCABULARY = 50


class FakeClock:
    """Chain time that stands still."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> int:
        return self.time


@dataclass
class FakeChainView:
    """What the chain says; `dead` makes its RPC unreachable."""

    registered: list[RegisteredNode] = field(default_factory=list)
    standings: dict[Address, Standing] = field(default_factory=dict)
    dead: bool = False

    async def standing(self, payer: Address, signer: Address) -> Standing:
        if self.dead:
            raise ChainUnreachable("the RPC does not answer")
        return self.standings.get(payer, Standing(0, 0, 0, 0))

    async def nodes(self) -> Sequence[RegisteredNode]:
        if self.dead:
            raise ChainUnreachable("the RPC does not answer")
        return self.registered

    def fund(self, payer: Address, balance: int = 10**9, cap: int = 10**9, used: int = 0) -> None:
        self.standings[payer] = Standing(balance, used, cap, NOW + 300 * 86_400)


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
    lines: dict[bytes, Line] = field(default_factory=dict)
    receipts: dict[bytes, list[tuple[JobReceipt, bytes]]] = field(default_factory=dict)
    jobs: list[JobSubmission] = field(default_factory=list)
    produced: int = 0
    cancelled: int = 0
    vouchers_refused: bool = False
    writers: dict[bytes, list[Writer]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.key = SigningKey(keccak(self.name.encode()))
        self.owner = SigningKey(keccak(b"owner" + self.name.encode())).address

    @property
    def address(self) -> Address:
        return self.key.address

    @property
    def offer(self) -> Offer:
        return Offer(
            self.address, MODEL_ID, PROFILE_ID, self.price_in, self.price_in // 2, self.price_out, self.max_context, NOW + 3600
        )

    def registered(self) -> RegisteredNode:
        return RegisteredNode(self.address, self.owner, MODEL_ID, PROFILE_ID, self.url, 10**9, 10**12, True)

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
            await _json(send, openai_envelope(error), error.status)

    async def _route(self, scope: Any, body: Any, receive: Any, send: Any) -> None:
        parts = scope["path"].split("/")[3:]
        if parts[0] == "info":
            await _json(send, self.info())
        elif parts[0] == "jobs":
            await self._job(JobSubmission.from_wire(body), receive, send)
        elif parts[0] == "vouchers":
            states = [await self._take(Voucher.from_wire(v["voucher"]), v["signature"]) for v in body["vouchers"]]
            await _json(send, {"channels": states})
        elif parts[0] == "channels":
            channel = ChannelId(Address(parts[1]), Address(parts[2]), self.address, int(parts[3]))
            await _json(send, self._state(self.line(channel)))
        elif parts[0] == "receipts":
            known = self.receipts.get(bytes.fromhex(parts[1][2:]))
            if known is None:
                await _json(send, {"error": {"message": "unknown job", "code": "not_found"}}, 404)
                return
            shown = [{"receipt": r.to_wire(), "signature": to_hex(s)} for r, s in known]
            await _json(send, {"jobId": parts[1], "receipts": shown})

    def info(self) -> dict[str, Any]:
        signature = to_hex(self.key.sign(self.offer.digest(DOMAIN)))
        load = {"running": 0, "waiting": 0}
        return {"node": self.address, "model": MODEL, "offer": self.offer.to_wire(), "offerSignature": signature, "load": load}

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
        check_signed_by(voucher.digest(DOMAIN), raw, voucher.signer)
        line = self.line(voucher.channel)
        async with line.paid:
            if voucher.cumulative > line.best:
                line.best, line.best_signature = voucher.cumulative, raw
            line.paid.notify_all()
        return self._state(line)

    async def _job(self, job: JobSubmission, receive: Any, send: Any) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.jobs.append(job)
        await self._take(job.voucher, to_hex(job.voucher_signature))
        line = self.line(job.voucher.channel)
        first = next((a.assignment for a in job.assignments if a.assignment.choice == 0), job.assignments[0].assignment)
        tokens = len(self.prompt_ids(job))
        needed = line.due + input_fee_round_down(
            self.offer.prices, prompt_tokens=tokens, choice=first.choice, output_from=first.output_from
        )
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
        for writer in self.writers.pop(job.request.nonce, []):
            if (writer.job_id, writer.assignment.choice) in line.open:
                writer.close(FinishReason.CANCELLED)

    def prompt_ids(self, job: JobSubmission) -> list[int]:
        if "promptIds" in job.prompt:
            return list(job.prompt["promptIds"])
        text = job.prompt.get("prompt") or "".join(m["content"] for m in job.prompt["messages"])
        return [len(word) for word in text.split()]

    async def _stream(self, job: JobSubmission, line: Line, send: Any) -> None:
        writers = self.writers[job.request.nonce] = [Writer(self, job, line, item, send) for item in job.assignments]
        await asyncio.gather(*[writer.run() for writer in writers])
        if job.options.include_usage:
            count = len(self.prompt_ids(job))
            output = sum(len(writer.ids) for writer in writers)
            usage = {"prompt_tokens": count, "completion_tokens": output, "total_tokens": count + output}
            await _event(send, {**writers[0].base, "choices": [], "usage": usage})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


class Writer:
    """One choice on its way out."""

    def __init__(self, node: FakeNode, job: JobSubmission, line: Line, item: Any, send: Any) -> None:
        self.node, self.job, self.line, self.send = node, job, line, send
        self.assignment = item.assignment
        self.ids = list(item.prefix)
        self.tree = OutputTree(len(self.ids))
        self.seed = job_seed(job.request.client_seed, self.assignment.choice)
        self.job_id = self.assignment.job_id
        chat = job.params.endpoint == "chat"
        self.chat = chat
        prefix = "chatcmpl-" if chat else "cmpl-"
        name = "chat.completion.chunk" if chat else "text_completion"
        self.base = {"id": prefix + self.job_id.hex()[:24], "object": name, "created": 1, "model": job.options.model}

    @property
    def start(self) -> int:
        return self.assignment.output_from

    def fee(self) -> int:
        return fee_round_down(
            self.node.offer.prices,
            prompt_tokens=len(self.node.prompt_ids(self.job)),
            cached_tokens=0,
            output_tokens=len(self.ids) - self.start,
            choice=self.assignment.choice,
            output_from=self.start,
        )

    async def run(self) -> None:
        if self.chat:
            await self._frame("", {"jobId": to_hex(self.job_id), "choice": self.assignment.choice}, role="assistant")
        finish = None
        while finish is None:
            await asyncio.sleep(self.node.seconds_per_token)
            finish = await self._token()

    async def _token(self) -> FinishReason | None:
        node, position = self.node, len(self.ids)
        if node.die_after is not None and position - self.start >= node.die_after:
            raise ConnectionError("the node dies")
        token = keccak(self.seed + u32(position))[0] % VOCABULARY
        self.ids.append(token)
        self.tree.append([token], [token])
        node.produced += 1
        finish = None
        if token == STOP_ID and position >= 8:
            finish = FinishReason.STOP
        elif len(self.ids) >= self.job.params.max_tokens:
            finish = FinishReason.LENGTH
        extra = {
            "jobId": to_hex(self.job_id),
            "promptTokens": len(node.prompt_ids(self.job)),
            "choice": self.assignment.choice,
            "outputFrom": position,
            "ids": [token],
            "q": [token],
        }
        self.line.open[self.job_id, self.assignment.choice] = self.fee()
        if finish is not None or (len(self.ids) - self.start) % node.chunk_tokens == 0:
            extra |= self._chunk()
        if finish is not None:
            extra |= self._receipt(finish)
        await self._frame(f"w{token} ", extra, finish)
        await self._wait_paid()
        return finish

    async def _wait_paid(self) -> None:
        allowed = 2 * self.node.chunk_tokens * self.node.price_out // 1_000_000
        async with self.line.paid:
            async with asyncio.timeout(5):
                await self.line.paid.wait_for(lambda: self.line.best + allowed >= self.line.due)

    def _chunk(self) -> dict[str, Any]:
        a = self.assignment
        root = keccak(b"x") if self.node.dishonest == "root" else self.tree.root()
        chunk = Chunk(self.job_id, a.choice, a.segment, self.node.address, a.output_from, len(self.ids), root, self.line.due)
        return {"chunk": chunk.to_wire(), "chunkSignature": to_hex(self.node.key.sign(chunk.digest(DOMAIN)))}

    def _receipt(self, finish: FinishReason) -> dict[str, Any]:
        receipt, signature = self.close(finish)
        return {"receipt": receipt.to_wire(), "receiptSignature": to_hex(signature), "cost": str(receipt.fee)}

    def close(self, finish: FinishReason) -> tuple[JobReceipt, bytes]:
        node, a, request = self.node, self.assignment, self.job.request
        fee = self.fee() + (1 if node.dishonest == "fee" else 0)
        self.line.open.pop((self.job_id, a.choice), None)
        start, self.line.cum_to = self.line.cum_to, self.line.cum_to + fee
        prompt = node.prompt_ids(self.job)
        receipt = JobReceipt(
            job_id=self.job_id,
            choice=a.choice,
            payer=request.payer,
            signer=request.signer,
            node=node.address,
            lane=self.job.lane,
            cum_from=start,
            cum_to=self.line.cum_to,
            model_id=MODEL_ID,
            profile_id=PROFILE_ID,
            offer_hash=node.offer.digest(DOMAIN),
            prompt_root=ids_root(prompt),
            prompt_tokens=len(prompt),
            cached_tokens=0,
            prefix_root=ids_root(self.ids[: self.start]),
            output_from=self.start,
            output_to=len(self.ids),
            output_root=self.tree.root(),
            params_hash=request.params_hash,
            seed=Bytes32(keccak(b"own seed")) if node.dishonest == "seed" else self.seed,
            finish_reason=finish,
            started_at=NOW,
            finished_at=NOW,
        )
        key = SigningKey(keccak(b"stranger")) if node.dishonest == "signature" else node.key
        signed = receipt, key.sign(receipt.digest(DOMAIN))
        node.receipts.setdefault(self.job_id, []).append(signed)
        return signed

    async def _frame(self, text: str, extra: dict[str, Any], finish: Any = None, role: str | None = None) -> None:
        name = None if finish is None else ("stop" if finish == FinishReason.STOP else "length")
        choice: dict[str, Any] = {"index": self.assignment.choice, "logprobs": None, "finish_reason": name}
        if self.chat:
            choice["delta"] = {"content": text} if role is None else {"role": role, "content": ""}
        else:
            choice["text"] = text
        await _event(self.send, {**self.base, "choices": [choice], "retally": extra})


async def _event(send: Any, value: Any) -> None:
    await send({"type": "http.response.body", "body": b"data: " + json.dumps(value).encode() + b"\n\n", "more_body": True})


async def _json(send: Any, value: Any, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


async def _until_gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def served(app: Any, *, lifespan: str = "off") -> AsyncIterator[str]:
    """The app behind a real server on a free port."""
    config = uvicorn.Config(app, port=0, log_level="error", lifespan=lifespan, access_log=False, http="httptools", ws="none")  # type: ignore[arg-type]  # a literal
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        if task.done():
            task.result()
            raise RuntimeError("the server did not start")
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await task



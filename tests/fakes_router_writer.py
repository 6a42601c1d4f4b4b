"""One choice of a fake node on its way out: real seeds, roots, fees and signatures; only the model is a toy."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from retally.protocol.eip712 import Bytes32, SigningKey, keccak
from retally.protocol.encoding import to_hex, u32
from retally.protocol.job import job_seed
from retally.protocol.merkle import OutputTree, ids_root
from retally.protocol.pricing import fee_round_down
from retally.protocol.receipt import Chunk, FinishReason, JobReceipt
from tests.fakes_world import NOW, STOP_ID, VOCABULARY

if TYPE_CHECKING:
    from retally.protocol.wire import JobSubmission
    from tests.fakes_router import FakeNode, Line


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
            cached_tokens=self.node.cached_tokens(self.job),
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
        chunk = Chunk(
            self.job_id, a.choice, a.segment, self.node.address, a.output_from, len(self.ids), root, self.line.due
        )
        return {"chunk": chunk.to_wire(), "chunkSignature": to_hex(self.node.key.sign(chunk.digest(self.node.domain)))}

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
            model_id=node.model_id,
            profile_id=node.profile_id,
            offer_hash=node.offer.digest(node.domain),
            prompt_root=ids_root(prompt),
            prompt_tokens=len(prompt),
            cached_tokens=node.cached_tokens(self.job),
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
        signed = receipt, key.sign(receipt.digest(node.domain))
        node.receipts.setdefault(self.job_id, []).append(signed)
        return signed

    async def _frame(self, text: str, extra: dict[str, Any], finish: Any = None, role: str | None = None) -> None:
        name = None if finish is None else ("stop" if finish == FinishReason.STOP else "length")
        choice: dict[str, Any] = {"index": self.assignment.choice, "logprobs": None, "finish_reason": name}
        if self.chat:
            choice["delta"] = {"content": text} if role is None else {"role": role, "content": ""}
        else:
            choice["text"] = text
        await send_event(self.send, {**self.base, "choices": [choice], "retally": extra})


async def send_event(send: Any, value: Any) -> None:
    await send(
        {"type": "http.response.body", "body": b"data: " + json.dumps(value).encode() + b"\n\n", "more_body": True}
    )


async def send_json(send: Any, value: Any, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})

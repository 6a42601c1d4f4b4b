"""One admitted job of the fake market: the frames, chunks and receipts of a node whose model is a toy."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import Address, Bytes32, keccak, to_hex
from retally.protocol.job import JobParams, JobRequest, job_seed
from retally.protocol.merkle import EMPTY_ROOT, ids_root, output_root
from retally.protocol.offer import Offer
from retally.protocol.pricing import fee_round_down
from retally.protocol.receipt import Chunk, FinishReason, JobReceipt

DOMAIN = Domain(31337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
MODEL_ID = keccak(b"model")
PROFILE_ID = keccak(b"profile")
MODEL = "retally/fake"
NOW = 1_800_000_000
DATE = "2027-01-15"
CHUNK_TOKENS = 4


@dataclass
class Line:
    """A channel at the node."""

    best: int = 0
    cum_to: int = 0
    open: dict[str, int] = field(default_factory=dict)

    @property
    def due(self) -> int:
        return self.cum_to + sum(self.open.values())


class Seller(Protocol):
    """What a job needs of the market it runs in."""

    node_key: SigningKey
    session_key: SigningKey
    text: str
    overbill: int
    wrong_ids: bool
    foreign_signature: bool
    unpaid: int
    credit: int
    receipts: dict[str, list[dict[str, Any]]]

    @property
    def offer(self) -> Offer: ...


@dataclass
class FakeJob:
    """One admitted job."""

    market: Seller
    endpoint: str
    request: JobRequest
    signature: bytes
    params: JobParams
    lane: int
    line: Line
    prompt_ids: list[int]
    job_id: Bytes32
    trusted: bool
    body: dict[str, Any]

    def output(self, choice: int) -> tuple[list[int], list[int], int]:
        ids = list((self.market.text + "!" * choice).encode())[: self.params.max_tokens]
        cut = len(ids) == self.params.max_tokens
        return ids, [10 * (i % 7) for i in range(len(ids))], FinishReason.LENGTH if cut else FinishReason.STOP

    def frames(self) -> Iterator[bytes]:
        opening: dict[str, Any] = {"promptTokens": len(self.prompt_ids), "jobId": to_hex(self.job_id)}
        cost = 0
        for choice in range(self.request.n):
            ids, quantised, finish = self.output(choice)
            for start in range(0, len(ids), CHUNK_TOKENS):
                part = slice(start, start + CHUNK_TOKENS)
                end = min(len(ids), start + CHUNK_TOKENS)
                self.line.open[f"{to_hex(self.job_id)}/{choice}"] = self.fee(end, choice)
                chunk = Chunk(
                    self.job_id,
                    choice,
                    0,
                    self.market.node_key.address,
                    0,
                    end,
                    output_root(0, ids[:end], quantised[:end]),
                    self.line.due,
                )
                shown = [7] * len(ids[part]) if self.market.wrong_ids else ids[part]
                retally = {**opening, "choice": choice, "outputFrom": start, "ids": shown, "q": quantised[part]}
                retally |= {"chunk": chunk.to_wire(), "chunkSignature": to_hex(self.sign(chunk))}
                opening = {}
                yield self.frame(choice, bytes(ids[part]).decode(), None, retally)
                if not self.trusted and self.line.best + self.market.credit < self.line.due:
                    self.market.unpaid += 1
                    return
            signed = self.close(choice, ids, quantised, finish)
            cost += int(signed["receipt"]["cumTo"]) - int(signed["receipt"]["cumFrom"])
            receipt = {"receipt": signed["receipt"], "receiptSignature": signed["signature"], "cost": str(cost)}
            yield self.frame(choice, "", "length" if finish else "stop", {"choice": choice, **receipt})
        yield b"data: [DONE]\n\n"

    def plain(self) -> dict[str, Any]:
        outputs = {choice: self.output(choice) for choice in range(self.request.n)}
        signed = [self.close(choice, *outputs[choice]) for choice in outputs]
        choices = []
        for choice, (ids, _, finish) in outputs.items():
            text, reason = bytes(ids).decode(), "length" if finish else "stop"
            shape = {"message": {"role": "assistant", "content": text}} if self.endpoint == "chat" else {"text": text}
            choices.append({"index": choice, "finish_reason": reason, **shape})
        cost = sum(int(item["receipt"]["cumTo"]) - int(item["receipt"]["cumFrom"]) for item in signed)
        retally = {
            "jobId": to_hex(self.job_id),
            "receipts": signed,
            "ids": {str(choice): ids for choice, (ids, _, _) in outputs.items()},
            "q": {str(choice): quantised for choice, (_, quantised, _) in outputs.items()},
            "cost": str(cost),
            "node": self.market.node_key.address,
            "promptTokens": len(self.prompt_ids),
        }
        name = "chat.completion" if self.endpoint == "chat" else "text_completion"
        return {"id": "x", "object": name, "created": NOW, "model": MODEL, "choices": choices, "retally": retally}

    def close(self, choice: int, ids: list[int], quantised: list[int], finish: int) -> dict[str, Any]:
        market, line = self.market, self.line
        fee = self.fee(len(ids), choice) + market.overbill
        receipt = JobReceipt(
            job_id=self.job_id,
            choice=choice,
            payer=self.request.payer,
            signer=self.request.signer,
            node=market.node_key.address,
            lane=self.lane,
            cum_from=line.cum_to,
            cum_to=line.cum_to + fee,
            model_id=MODEL_ID,
            profile_id=PROFILE_ID,
            offer_hash=market.offer.digest(DOMAIN),
            prompt_root=ids_root(self.prompt_ids),
            prompt_tokens=len(self.prompt_ids),
            cached_tokens=0,
            prefix_root=EMPTY_ROOT,
            output_from=0,
            output_to=len(ids),
            output_root=output_root(0, ids, quantised),
            params_hash=self.request.params_hash,
            seed=job_seed(self.request.client_seed, choice),
            finish_reason=finish,
            started_at=NOW,
            finished_at=NOW + 1,
        )
        line.cum_to += fee
        line.open.pop(f"{to_hex(self.job_id)}/{choice}")
        signed = {"receipt": receipt.to_wire(), "signature": to_hex(self.sign(receipt))}
        market.receipts.setdefault(to_hex(self.job_id), []).append(signed)
        return signed

    def cancel(self, tokens: int) -> None:
        """Closes the only choice as cancelled after so many tokens, as a node does when its caller has gone."""
        ids, quantised, _ = self.output(0)
        self.close(0, ids[:tokens], quantised[:tokens], FinishReason.CANCELLED)

    def fee(self, output_tokens: int, choice: int) -> int:
        return fee_round_down(
            self.market.offer.prices,
            prompt_tokens=len(self.prompt_ids),
            cached_tokens=0,
            output_tokens=output_tokens,
            choice=choice,
            output_from=0,
        )

    def sign(self, message: Chunk | JobReceipt) -> bytes:
        key = self.market.session_key if self.market.foreign_signature else self.market.node_key
        return key.sign(message.digest(DOMAIN))

    def frame(self, choice: int, text: str, finish: str | None, retally: dict[str, Any]) -> bytes:
        shape: dict[str, Any] = {"delta": {"content": text}} if self.endpoint == "chat" else {"text": text}
        name = "chat.completion.chunk" if self.endpoint == "chat" else "text_completion"
        content = {
            "id": "x",
            "object": name,
            "created": NOW,
            "model": MODEL,
            "choices": [{"index": choice, "finish_reason": finish, **shape}],
            "retally": retally,
        }
        return b"data: " + json.dumps(content).encode() + b"\n\n"

    def proof(self) -> str:
        offer = self.market.offer
        content = {
            "request": self.request.to_wire(),
            "requestSignature": to_hex(self.signature),
            "params": self.params.to_json(),
            "offer": offer.to_wire(),
            "offerSignature": to_hex(self.market.node_key.sign(offer.digest(DOMAIN))),
        }
        return urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

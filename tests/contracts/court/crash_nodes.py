"""Nodes as a verifier sees them: they show answers, score and bill. What they were sent outlives the verifier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from retally.errors import BadRequest, NodeUnavailable
from retally.inference.chat_format import ChatFormat
from retally.inference.grammar import GrammarBook
from retally.node_client import NodeClient
from retally.protocol.eip712 import Domain, SigningKey, check_signed_by
from retally.protocol.encoding import Address, to_hex
from retally.protocol.offer import Offer
from retally.protocol.scored_rows import scores_to_wire
from retally.protocol.wire import AnswerBundle, JobSubmission
from retally_verifier.records import NodeRecord
from tests.contracts.court.transcripts import MODEL, PRICES, PROFILE, Tree, make_job

PROMPT_TOKENS = 60
FOREVER = 2**39


class FakeFormat(ChatFormat):
    """Every honest prompt of these tests becomes the same ids."""

    def __init__(self) -> None:
        self.eos_ids = (0,)
        # No job of these tests has a form, so no grammar is ever read.
        self.grammars = GrammarBook.load("nowhere")

    def render(self, prompt: Mapping[str, Any], template_date: str) -> list[int]:
        return list(range(1, PROMPT_TOKENS + 1))


def bundles_of(tree: Tree) -> list[AnswerBundle]:
    """What a node shows of a commit."""
    return [
        AnswerBundle(
            receipt=job.receipt,
            signature=job.signature,
            index=index,
            leaf_count=len(tree.jobs),
            proof=tuple(tree.proof(index)),
            request=job.request,
            request_signature=job.request_signature,
            prompt=job.prompt,
            params=job.params,
            prompt_ids=job.prompt_ids,
            prefix_ids=job.prefix_ids,
            output_ids=job.output_ids,
            output_q=job.output_q,
            offer=job.offer,
            offer_signature=job.node.sign(job.offer.digest(job.domain)),
        )
        for index, job in enumerate(tree.jobs)
    ]


def sent_to(folder: Path) -> list[dict[str, Any]]:
    """Everything that reached the nodes of a folder, in order."""
    path = folder / "nodes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class FakeNodes(NodeClient):
    """All nodes of the network; the verifier's own client reads and writes their messages."""

    def __init__(
        self,
        folder: Path,
        domain: Domain,
        keys: Sequence[SigningKey],
        answers: Mapping[int, Sequence[AnswerBundle]],
        now: int,
    ) -> None:
        super().__init__(timeout_seconds=1)
        self._folder = folder
        self._domain = domain
        self._keys = {key.address: key for key in keys}
        self._answers = answers
        self._now = now

    async def _call(self, method: str, node: NodeRecord, path: str, body: object = None) -> dict[str, Any]:
        kind = path.split("/")[3]
        if kind == "info":
            return self._info(node.node)
        if kind == "answers":
            return self._answer(body)
        if kind == "channels":
            return self._channel(node.node)
        return self._job(node.node, JobSubmission.from_wire(body))

    def _info(self, node: Address) -> dict[str, Any]:
        offer = Offer(node, MODEL, PROFILE, PRICES.price_in, PRICES.price_cached, PRICES.price_out, 1024, FOREVER)
        return {"offer": offer.to_wire(), "offerSignature": to_hex(self._keys[node].sign(offer.digest(self._domain)))}

    def _answer(self, body: Any) -> dict[str, Any]:
        asked = body["answerRequest"]
        for bundle in self._answers.get(int(asked["commitId"]), ()):
            same_channel = to_hex(bundle.receipt.channel.key) == asked["channel"]
            if same_channel and bundle.receipt.cum_from <= int(asked["point"]) < bundle.receipt.cum_to:
                return bundle.to_wire()
        raise NodeUnavailable("this node shows nothing")

    def _line(self, node: Address) -> tuple[int, int]:
        """What a node has billed, and the best voucher it holds."""
        rows = [row for row in sent_to(self._folder) if row["node"] == node]
        return sum(row["fee"] for row in rows), max((row["voucher"] for row in rows), default=0)

    def _channel(self, node: Address) -> dict[str, Any]:
        billed, best = self._line(node)
        state = {"best": str(best), "bestSignature": None, "lastCumTo": str(billed), "due": str(billed)}
        return {**state, "open": 0, "unpaid": "0"}

    def _job(self, node: Address, submission: JobSubmission) -> dict[str, Any]:
        request, voucher = submission.request, submission.voucher
        check_signed_by(voucher.digest(self._domain), submission.voucher_signature, voucher.signer)
        billed, _ = self._line(node)
        # Less than was promised: the rest is carried over to the next job.
        prepaid = voucher.cumulative >= billed + request.max_fee
        fee = request.max_fee // 2 if prepaid else 0
        row = {"node": node, "job": to_hex(request.digest(self._domain)), "voucher": voucher.cumulative, "fee": fee}
        with (self._folder / "nodes.jsonl").open("a") as file:
            file.write(json.dumps({**row, "prepaid": prepaid}) + "\n")
        if not prepaid:
            raise BadRequest("not prepaid")
        ids = submission.prompt["promptIds"]
        made = make_job(self._domain, self._keys[node], self._keys[node], now=self._now).receipt
        job_id = request.digest(self._domain)
        receipt = replace(made, job_id=job_id, payer=request.payer, signer=request.signer, cum_from=billed)
        receipt = replace(receipt, cum_to=billed + fee)
        signed = {
            "receipt": receipt.to_wire(),
            "signature": to_hex(self._keys[node].sign(receipt.digest(self._domain))),
        }
        count = len(ids) - 1
        logprobs = np.array([[-0.5, -1.0]] * count, dtype=np.float32)
        scores = scores_to_wire(1, np.array([[1, 2]] * count, dtype=np.int32), logprobs, logprobs[:, 0])
        return {"retally": {"receipts": [signed], "promptLogprobs": scores}}

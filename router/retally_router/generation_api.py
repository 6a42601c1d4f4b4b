"""What an answer cost, by the answer's own id, in the shape that OpenRouter gave this route."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retally.errors import BadRequest
from retally.protocol.encoding import parse_bytes32
from retally.protocol.receipt import FinishReason, JobReceipt
from retally_router.check_frames import ENDED
from retally_router.directory import Directory
from retally_router.job_log import GENERATION_DIGITS, JobLog
from retally_router.served_route import ServedRoute

_ID = re.compile(rf"(?:chatcmpl-|cmpl-|embd-|resp_|0x)?([0-9a-f]{{{GENERATION_DIGITS},64}})")
_FINISHES = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.TOOL: "tool_calls"}


@dataclass(frozen=True, slots=True)
class GenerationApi:
    """Serves `/v1/generation` and `/v1/receipts/…`."""

    log: JobLog
    directory: Directory
    max_body_bytes: int

    def routes(self) -> list[ServedRoute]:
        """All routes."""
        return [
            ServedRoute("GET", "/v1/receipts/{job_id}", self.receipts),
            ServedRoute("GET", "/v1/generation", self.generation),
        ]

    async def receipts(self, job_id: str) -> dict[str, Any]:
        """A job's signed receipts."""
        return await self.log.find(parse_bytes32("jobId", job_id))

    async def generation(self, id: str) -> dict[str, Any]:
        """What an answer cost, by its id; amounts are integers in the asset's smallest unit."""
        matched = _ID.fullmatch(id)
        if matched is None:
            hint = "send the `id` of an answer, or a job's id"
            raise BadRequest("id must be an answer's id", param="id", hint=hint)
        found = await self.log.find(await self.log.job_of(matched[1]))
        receipts = sorted((JobReceipt.from_wire(item["receipt"]) for item in found["receipts"]), key=_place)
        return {"data": {"id": id, **_sums(receipts), **self._shown(receipts), "retally": found}}

    def _shown(self, receipts: list[JobReceipt]) -> Mapping[str, Any]:
        last = receipts[-1]
        listed = self.directory.find(last.node)
        nodes = list(dict.fromkeys(receipt.node for receipt in receipts))
        # A receipt for vectors counts their components, which are no tokens of anybody's.
        vectors = listed is not None and listed.vectors is not None
        counts = {"tokens_completion": 0, "native_tokens_completion": 0} if vectors else {}
        return {**counts, "model": None if listed is None else listed.model, "provider_name": last.node, "nodes": nodes}


def _place(receipt: JobReceipt) -> tuple[int, int, bool]:
    """The order of an answer; of a hedge's two receipts the one that ended it comes last."""
    return receipt.choice, receipt.output_from, receipt.finish_reason in ENDED


def _sums(receipts: list[JobReceipt]) -> dict[str, Any]:
    """One answer's counts; a continuation's prompt was counted by the first segment."""
    began, ended = min(item.started_at for item in receipts), max(item.finished_at for item in receipts)
    prompt = max(item.prompt_tokens for item in receipts)
    # A node that lost a race for the first token bills what it put out, and none of it is the answer's.
    pieces = {(item.choice, item.output_from): item.output_to - item.output_from for item in receipts}
    output = sum(pieces.values())
    return {
        "created_at": began,
        "total_cost": str(sum(item.fee for item in receipts)),
        "tokens_prompt": prompt,
        "tokens_completion": output,
        "native_tokens_prompt": prompt,
        "native_tokens_completion": output,
        "native_tokens_cached": max((item.cached_tokens for item in receipts if not item.output_from), default=0),
        "finish_reason": _FINISHES.get(FinishReason(receipts[-1].finish_reason), "error"),
        "generation_time_seconds": ended - began,
        "num_segments": len(pieces),
    }

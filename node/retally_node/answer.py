"""From frames to what the client reads: a stream of OpenAI chunks, or one OpenAI object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from retally.errors import RetallyError, openai_envelope
from retally.inference.engine import Scores
from retally.inference.tool_calls import ToolCall
from retally.protocol.encoding import to_hex
from retally.protocol.receipt import FinishReason
from retally.protocol.scored_rows import scores_to_wire
from retally.protocol.wire import JobOptions
from retally_node.admission import WHOLE_REASONS, StoredAnswer
from retally_node.decode import SaidByTokens, TextFormat
from retally_node.openai_shape import ChoiceAnswer, Json, OpenAiShape, TokenLogprob, Usage
from retally_node.records import JobRecord, ReceiptRecord
from retally_node.segment import Frame


@dataclass(slots=True)
class _Choice:
    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    tokens: list[TokenLogprob] = field(default_factory=list)
    quantised: list[int] = field(default_factory=list)
    opened: bool = False
    frame: Frame | None = None


class AnswerWriter:
    """Shapes one job's frames and keeps count for the closing frame."""

    def __init__(self, job: JobRecord, options: JobOptions, text_format: TextFormat, model: str, node: str) -> None:
        self._job = job
        self._options = options
        self._node = node
        self._choices: dict[int, _Choice] = {}
        self._shape = OpenAiShape(
            job.params.endpoint,
            job.job_id,
            options.model or model,
            job.received_at,
            options.logprobs is not None,
            text_format.token_bytes,
        )

    def stream(self, frame: Frame) -> list[Json]:
        """The chunks that a frame becomes; none when it only ends a choice without an answer's end."""
        choice = self.note(frame)
        chunks = []
        if not choice.opened:
            choice.opened = True
            first = frame.output_from == 0
            start = {"jobId": self._job_id, "promptTokens": len(self._job.prompt_ids), "choice": frame.choice}
            opening = self._shape.opening(frame.choice, start)
            chunks += [opening] if opening is not None and first else []
        if frame.finish is None or frame.finish in WHOLE_REASONS:
            extension = self._extension(frame)
            chunks.append(self._shape.delta(frame, extension))
        return chunks

    def note(self, frame: Frame) -> _Choice:
        """Count a frame without shaping it."""
        choice = self._choices.setdefault(frame.choice, _Choice())
        choice.text += frame.text
        choice.calls += frame.calls
        choice.tokens += frame.tokens
        choice.quantised += frame.quantised
        if frame.last:
            choice.frame = frame
        return choice

    def error_event(self, error: RetallyError) -> Json:
        """The event that ends a stream early, with the receipts of what was delivered."""
        return {**openai_envelope(error), "retally": self._totals()}

    def closing(self) -> Json | None:
        """The usage chunk, if the client asked for it."""
        if not self._options.include_usage:
            return None
        return self._shape.usage_frame(self._usage(), {"jobId": self._job_id, "cost": str(self._cost())})

    def whole(self, scores: Scores | None = None) -> Json:
        """The plain object."""
        answers = [
            ChoiceAnswer(index, choice.text, _finish(choice), choice.tokens, choice.calls)
            for index, choice in self._choices.items()
        ]
        extension = self._totals()
        extension["ids"] = {str(i): [token.id for token in c.tokens] for i, c in self._choices.items()}
        extension["q"] = {str(i): c.quantised for i, c in self._choices.items()}
        if scores is not None:
            extension["promptLogprobs"] = scores_to_wire(
                scores.start, scores.top_ids, scores.top_logprobs, scores.claimed_logprobs
            )
        return self._shape.whole(answers, self._usage(), extension)

    @property
    def _job_id(self) -> str:
        return to_hex(self._job.job_id)

    def _receipts(self) -> list[ReceiptRecord]:
        frames = [choice.frame for _, choice in sorted(self._choices.items()) if choice.frame is not None]
        return [frame.receipt for frame in frames if frame.receipt is not None]

    def _cost(self) -> int:
        return sum(record.receipt.fee for record in self._receipts())

    def _usage(self) -> Usage:
        completion = sum(len(choice.tokens) for choice in self._choices.values())
        cached = sum(record.receipt.cached_tokens for record in self._receipts())
        return Usage(len(self._job.prompt_ids), completion, cached)

    def _totals(self) -> Json:
        return {
            "jobId": self._job_id,
            "node": self._node,
            "promptTokens": len(self._job.prompt_ids),
            "receipts": [record.to_wire() for record in self._receipts()],
            "cost": str(self._cost()),
        }

    def _extension(self, frame: Frame) -> Json:
        extension: Json = {
            "jobId": self._job_id,
            "promptTokens": len(self._job.prompt_ids),
            "choice": frame.choice,
            "outputFrom": frame.output_from,
            "ids": [token.id for token in frame.tokens],
            "q": list(frame.quantised),
        }
        if frame.chunk is not None:
            extension["chunk"] = frame.chunk.chunk.to_wire()
            extension["chunkSignature"] = to_hex(frame.chunk.signature)
        if frame.receipt is not None:
            extension["receipt"] = frame.receipt.receipt.to_wire()
            extension["receiptSignature"] = to_hex(frame.receipt.signature)
            extension["cost"] = str(self._cost())
        return extension


def stored_frames(stored: StoredAnswer, text_format: TextFormat) -> list[Frame]:
    """The frames of an answer given before: same tokens, same receipts, nothing billed again."""
    return [_stored_frame(stored, receipt, text_format) for receipt in stored.receipts]


def _stored_frame(stored: StoredAnswer, record: ReceiptRecord, text_format: TextFormat) -> Frame:
    tokens = tuple(TokenLogprob(i, -q / 1024) for i, q in zip(record.output_ids, record.quantised, strict=True))
    submitted = [
        item.prefix for item in stored.submission.assignments if item.assignment.choice == record.receipt.choice
    ]
    # Components of vectors stand for no text.
    spoken = () if stored.record.params.is_embeddings else record.output_ids
    reader = SaidByTokens(text_format, stored.record.params, submitted[0] if submitted else ())
    said = [reader.push_all(spoken), reader.finish()]
    return Frame(
        choice=record.receipt.choice,
        output_from=record.receipt.output_from,
        tokens=tokens,
        quantised=tuple(record.quantised),
        text="".join(part.text for part in said),
        calls=tuple(call for part in said for call in part.calls),
        finish=FinishReason(record.receipt.finish_reason),
        receipt=record,
    )


def _finish(choice: _Choice) -> FinishReason:
    if choice.frame is None or choice.frame.finish is None:
        raise ValueError("a plain answer is shaped once every choice is closed")
    return choice.frame.finish


def receipts_to_wire(job_id: bytes, receipts: Sequence[ReceiptRecord]) -> dict[str, Any]:
    """The body of GET receipts."""
    return {"jobId": to_hex(job_id), "receipts": [record.to_wire() for record in receipts]}

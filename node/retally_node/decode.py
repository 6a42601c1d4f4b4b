"""From the engine's token ids to text and a reason to end, the same whoever started the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from retally.errors import EngineUnavailable
from retally.inference.chat_format import AnswerText
from retally.inference.engine import Engine, EngineChunk, EngineSampling
from retally.inference.tool_calls import Said, ToolCall, ToolCallReader
from retally.protocol.job import job_seed
from retally.protocol.params import JobParams
from retally.protocol.receipt import FinishReason
from retally.protocol.structure import grammar_of
from retally_node.admission import AdmittedJob
from retally_node.openai_shape import TokenLogprob
from retally_node.records import SegmentRecord


class TextFormat(Protocol):
    """What decoding needs of a model's tokenizer."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end an answer."""

    def answer_text(self, stops: tuple[str, ...]) -> AnswerText:
        """A fresh reader of one answer."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some new tokens, the text they complete, and why they are the last."""

    tokens: tuple[TokenLogprob, ...]
    text: str
    calls: tuple[ToolCall, ...] = ()
    finish: FinishReason | None = None
    cached_tokens: int = 0


class PieceMaker(Protocol):
    """Where an answer comes from."""

    def pieces(self, job: AdmittedJob, segment: SegmentRecord) -> AsyncGenerator[Piece, None]:
        """The answer's tokens as they come; the last piece has a reason."""
        ...


class SaidByTokens:
    """Reads an answer token by token into text and calls; what earlier segments said is dropped."""

    def __init__(self, text_format: TextFormat, params: JobParams, prefix_ids: Iterable[int] = ()) -> None:
        self._text = text_format.answer_text(params.stop)
        self._calls = ToolCallReader() if params.tool_choice.type != "none" else None
        self.push_all(tuple(prefix_ids))

    @property
    def stopped(self) -> bool:
        """Whether the last token pushed completed a stop string."""
        return self._text.stopped

    @property
    def has_calls(self) -> bool:
        """Whether the answer so far calls a tool."""
        return self._calls is not None and self._calls.count > 0

    def push(self, token_id: int) -> Said:
        """Take one token."""
        return self.push_all((token_id,))

    def push_all(self, ids: Sequence[int]) -> Said:
        """Take several tokens at once."""
        text = self._text.push_all(ids)
        return Said(text) if self._calls is None else self._calls.push(text)

    def finish(self) -> Said:
        """What was held back, at the answer's end."""
        text = self._text.finish()
        if self._calls is None:
            return Said(text)
        last, rest = self._calls.push(text), self._calls.finish()
        return Said(last.text + rest.text, last.calls)


class Decoder:
    """Decodes segments on one engine."""

    def __init__(self, engine: Engine, text_format: TextFormat) -> None:
        self._engine = engine
        self._format = text_format

    async def pieces(self, job: AdmittedJob, segment: SegmentRecord) -> AsyncGenerator[Piece, None]:
        """The answer's tokens as they come; the last piece has a reason, or EngineUnavailable is raised."""
        reader = _Reader(self._format, job, segment)
        params = job.record.params
        top = job.submission.options.logprobs or 0
        sampling = EngineSampling(
            params=params,
            seed=job_seed(job.record.request.client_seed, segment.key.choice),
            position=segment.key.output_from,
            eos_ids=self._format.eos_ids,
            max_new_tokens=job.answer_limit - segment.key.output_from,
            logprobs=top,
            grammar=grammar_of(params, job.record.prompt),
        )
        ids = [*job.record.prompt_ids, *segment.prefix_ids]
        chunks = self._engine.generate(ids, sampling)
        try:
            async for chunk in chunks:
                piece = reader.take(chunk)
                yield piece
                if piece.finish is not None:
                    return
        finally:
            # Closing the engine's own iterator is what cancels its request.
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
        raise EngineUnavailable("the engine ended an answer without a reason")


class _Reader:
    """Counts tokens and finds the end: end-of-sequence, stop string, or the limit."""

    def __init__(self, text_format: TextFormat, job: AdmittedJob, segment: SegmentRecord) -> None:
        self._eos = frozenset(text_format.eos_ids)
        # What the segments before this one showed is not shown again.
        self._said = SaidByTokens(text_format, job.record.params, segment.prefix_ids)
        self._left = job.answer_limit - segment.key.output_from

    def take(self, chunk: EngineChunk) -> Piece:
        text, tokens, finish = "", [], None
        calls: list[ToolCall] = []
        for index, (token_id, logprob) in enumerate(zip(chunk.ids, chunk.logprobs, strict=True)):
            top = tuple(chunk.top_logprobs[index].items()) if chunk.top_logprobs else ()
            tokens.append(TokenLogprob(token_id, logprob, top))
            said = self._said.push(token_id)
            finish = self._reason(token_id)
            if finish is not None:
                rest = self._said.finish()
                said = Said(said.text + rest.text, said.calls + rest.calls)
            text += said.text
            calls += said.calls
            if finish is not None:
                break
        return Piece(tuple(tokens), text, tuple(calls), finish, chunk.cached_tokens)

    def _reason(self, token_id: int) -> FinishReason | None:
        self._left -= 1
        if token_id in self._eos or self._said.stopped:
            return FinishReason.TOOL if self._said.has_calls else FinishReason.STOP
        return FinishReason.LENGTH if self._left == 0 else None

"""A job for embeddings: one engine request, one piece, whose tokens are the vectors' components (R-74)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from retally.inference.engine import Embedder
from retally.protocol.embeddings import ids_of_bytes
from retally.protocol.receipt import FinishReason
from retally_node.admission import AdmittedJob
from retally_node.decode import Piece
from retally_node.openai_shape import TokenLogprob
from retally_node.records import SegmentRecord


class InputFormat(Protocol):
    """What embedding needs of a model's tokenizer."""

    def render_inputs(self, prompt: Mapping[str, Any]) -> Sequence[Sequence[int]]:
        """The token ids of each input."""
        ...


class VectorDecoder:
    """Embeds on one engine, in the place of a `Decoder`."""

    def __init__(self, engine: Embedder, input_format: InputFormat) -> None:
        self._engine = engine
        self._format = input_format

    async def pieces(self, job: AdmittedJob, segment: SegmentRecord) -> AsyncGenerator[Piece, None]:
        """All vectors at once: a half of them is of no use, and nobody else could go on with the rest."""
        inputs = self._format.render_inputs(job.record.prompt)
        rows = await self._engine.embed(inputs, job.record.params.dimensions)
        ids = ids_of_bytes(rows.astype("<f4").tobytes())
        yield Piece(tuple(TokenLogprob(each, 0.0) for each in ids), "", finish=FinishReason.STOP)

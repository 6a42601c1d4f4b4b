"""Client of a vLLM server that pools: ids in, vectors out (`--runner pooling`)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import msgspec
import numpy as np
from numpy.typing import NDArray

from retally.errors import BadRequest, EngineUnavailable, RetallyError
from retally.inference.engine import EngineChunk, EngineInfo, EngineSampling, Scores
from retally.inference.vllm_engine import VllmEngine, unreachable

EMBEDDINGS_PATH = "/v1/embeddings"
PROBE = (5, 6, 7, 8)
NO_ANSWERS = "this engine makes vectors, and no tokens"


class _Row(msgspec.Struct):
    index: int
    embedding: str


class _Rows(msgspec.Struct):
    data: list[_Row]


class VllmEmbedder(VllmEngine):
    """One such server; asked for anything but vectors it refuses."""

    def __init__(self, base_url: str, model_name: str) -> None:
        super().__init__(base_url, model_name, asks_score_route=False)
        self._whole = 0

    async def embed(self, inputs: Sequence[Sequence[int]], dimensions: int) -> NDArray[np.float32]:
        """Return a row for each input, the bits as the engine has them."""
        body: dict[str, Any] = {"model": self.model_name, "input": [list(ids) for ids in inputs]}
        # The model's own number needs no asking, and vLLM refuses it where vectors can't be cut.
        if dimensions != self._whole:
            body["dimensions"] = dimensions
        rows = await self._rows(body)
        if rows.shape != (len(inputs), dimensions) or not np.isfinite(rows).all():
            raise EngineUnavailable(
                f"the engine made vectors of shape {rows.shape}, not {len(inputs)} of {dimensions} finite components"
            )
        return rows

    async def check(self) -> EngineInfo:
        """Ask for the model, then for a vector."""
        served, version = await self.served()
        problems = list[str]()
        try:
            rows = await self._rows({"model": self.model_name, "input": [list(PROBE)]})
            self._whole = int(rows.shape[1]) if np.isfinite(rows).all() else 0
        except RetallyError as error:
            problems.append(f"no vectors ({error.message}): start vLLM with --runner pooling --convert embed")
        return EngineInfo(
            model=self.model_name,
            max_context=int(served["max_model_len"]),
            version=f"vllm {version}",
            has_sampler=False,
            has_prompt_logprobs=False,
            dimensions=self._whole,
            problems=tuple(problems),
        )

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling) -> AsyncIterator[EngineChunk]:
        """Refuse."""
        raise BadRequest(NO_ANSWERS)

    async def score(self, ids: Sequence[int], start: int, top: int = 64) -> Scores:
        """Refuse."""
        raise BadRequest(NO_ANSWERS)

    async def _rows(self, body: dict[str, Any]) -> NDArray[np.float32]:
        try:
            async with self._post(EMBEDDINGS_PATH, {**body, "encoding_format": "base64"}) as response:
                content = await self._content(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(error) from error
        try:
            data = sorted(msgspec.json.decode(content, type=_Rows).data, key=lambda row: row.index)
            rows = [np.frombuffer(base64.b64decode(row.embedding, validate=True), dtype="<f4") for row in data]
            return np.stack(rows).astype(np.float32)
        except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
            raise EngineUnavailable(f"the engine answered no vectors: {error}") from error

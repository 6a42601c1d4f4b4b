"""What strangers send: no longer, no slower and no deeper than honest ones do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from retally.chain.recursion import bound_recursion
from retally.errors import BadRequest, PayloadTooLarge, UpstreamTimeout


class Answer(Protocol):
    """An answer whose body is not read yet, of whichever HTTP library."""

    def aiter_raw(self) -> AsyncIterator[bytes]:
        """Its body as it arrives."""
        ...


async def read_bounded(answer: Answer, most_bytes: int) -> bytes:
    """An answer's whole body; raises PayloadTooLarge as soon as it is longer."""
    # Raw: a few bytes unpack to any number, so that packed bodies are not asked for and not unpacked.
    return await gather_bounded(answer.aiter_raw(), most_bytes)


async def gather_bounded(arriving: AsyncIterator[bytes], most_bytes: int) -> bytes:
    """All parts together; raises PayloadTooLarge as soon as they are longer."""
    parts, size = [], 0
    async for part in arriving:
        size += len(part)
        if size > most_bytes:
            raise PayloadTooLarge(most_bytes)
        parts.append(part)
    return b"".join(parts)


@asynccontextmanager
async def within(seconds: float, who: str) -> AsyncIterator[None]:
    """Bounds the whole exchange: limits of a library begin anew with every byte."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise UpstreamTimeout(f"{who} did not answer in time") from error


def json_or_none(body: bytes) -> Any:
    """The body's JSON, or None where it is none; raises BadRequest where it nests too deep to be read."""
    # Here too: whatever this process has loaded since may have raised the bound.
    bound_recursion()
    try:
        return json.loads(body)
    except RecursionError as error:
        raise BadRequest("the answer nests too deep") from error
    except ValueError:
        return None

"""One after the other, though some fail: what always fails for one must not end what is done for the others."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from retally.errors import ChainUnreachable, UpstreamTimeout

log = logging.getLogger(__name__)

T = TypeVar("T")


async def in_turn(items: Iterable[T], act: Callable[[T], Awaitable[None]]) -> Exception | None:
    """Acts on all of them; returns the last failure, which is the caller's to raise once all else is done.

    Raises ChainUnreachable and UpstreamTimeout at once: what fails for all would be waited for as often.
    """
    failed: Exception | None = None
    for item in items:
        try:
            await act(item)
        except (ChainUnreachable, UpstreamTimeout):
            raise
        except Exception as error:  # noqa: BLE001  # raised by the caller
            if failed is not None:
                log.warning("%s", failed)
            failed = error
    return failed


async def each(items: Iterable[T], act: Callable[[T], Awaitable[None]]) -> None:
    """The same, but raises the last failure in the end."""
    failed = await in_turn(items, act)
    if failed is not None:
        raise failed

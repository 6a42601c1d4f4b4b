"""A job that no voucher could be made for is forgotten, however late its note comes on record."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from retally.errors import InsufficientFunds
from retally_router.node_time import NodeTime
from retally_router.placing import Placer


class SlowLog:
    """Notes what is open, some time after it was asked to."""

    def __init__(self) -> None:
        self.open: set[str] = set()

    async def begin(self, record: str) -> None:
        await asyncio.sleep(0.05)
        self.open.add(record)

    async def forget(self, record: str) -> None:
        self.open.discard(record)


class Uncovered:
    """A channel that nothing covers."""

    def __init__(self) -> None:
        self.open = SimpleNamespace(close=lambda _: None)

    def admit(self, segments: Any) -> int:
        return 1

    async def voucher(self, total: int) -> Any:
        raise InsufficientFunds(1, 0)


async def test_is_not_left_on_record() -> None:
    log = SlowLog()
    placer = Placer(*cast(Any, [None, None, None, log, None]), lost=cast(Any, None), first_seconds=1.0)

    async def note() -> None:
        """No key was given."""

    order = SimpleNamespace(record="job", note=note)
    with pytest.raises(InsufficientFunds):
        async with NodeTime(5.0) as limit:
            await placer._place_paid(cast(Any, order), cast(Any, Uncovered()), {}, limit)
    # Whatever was on its way has come.
    await asyncio.sleep(0.1)
    assert log.open == set()

"""A job that no node has is forgotten, however late its note comes on record, and whoever leaves meanwhile."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest

from retally.errors import InsufficientFunds
from retally_router.node_time import NodeTime
from retally_router.placing import Placer
from retally_router.store_errors import StoreUnreachable


class SlowLog:
    """Notes what is open, some time after it was asked to; forgets it when it may."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.may_forget = asyncio.Event()
        self.is_broken = False

    async def begin(self, record: str) -> None:
        await asyncio.sleep(0.05)
        self.open.add(record)

    async def forget(self, record: str) -> None:
        await self.may_forget.wait()
        if self.is_broken:
            raise StoreUnreachable("gone")
        self.open.discard(record)


class Uncovered:
    """A channel that nothing covers."""

    def admit(self, segments: Any) -> int:
        return 1

    def drop(self, segments: Any) -> None:
        """They cost nothing."""

    async def voucher(self, total: int) -> Any:
        raise InsufficientFunds(1, 0)


CHANNEL = cast(Any, Uncovered())


class Record(NamedTuple):
    field: str


RECORD = Record("job")


async def place(log: SlowLog, lost: list[Any]) -> None:
    """Comes to nothing, for want of money."""
    placer = Placer(*cast(Any, [None, None, None, log, None]), lost=lambda *job: lost.append(job), first_seconds=1.0)

    async def note() -> None:
        """No key was given."""

    order = SimpleNamespace(record=RECORD, note=note, placed="placed")
    async with NodeTime(5.0) as limit:
        await placer._place_paid(cast(Any, order), CHANNEL, {}, limit)


async def test_is_not_left_on_record() -> None:
    log, lost = SlowLog(), list[Any]()
    log.may_forget.set()
    with pytest.raises(InsufficientFunds):
        await place(log, lost)
    # Whatever was on its way has come.
    await asyncio.sleep(0.1)
    assert (log.open, lost) == (set(), [])


async def test_is_seen_to_later_where_the_client_leaves_before_it_is_forgotten() -> None:
    log, lost = SlowLog(), list[Any]()
    placing = asyncio.create_task(place(log, lost))
    await asyncio.sleep(0.1)
    placing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await placing
    assert lost == [("placed", CHANNEL, RECORD)]


async def test_is_seen_to_later_where_the_store_breaks_off() -> None:
    log, lost = SlowLog(), list[Any]()
    log.is_broken = True
    log.may_forget.set()
    with pytest.raises(StoreUnreachable):
        await place(log, lost)
    assert lost == [("placed", CHANNEL, RECORD)]

"""Receipts of one channel go on record together; nobody forgets a job, or its channel, before that is done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest
from tests.unit.test_router_money import CHANNEL, JOB, OTHER, account, receipt, segment

from retally.protocol.encoding import to_hex
from retally.protocol.receipt import ReceiptLeaf
from retally.protocol.voucher import ChannelId
from retally_router.channel_state import ChannelAccount
from retally_router.channels import Channels
from retally_router.job_log import JobLog, JobRecord
from retally_router.store_errors import StoreUnreachable
from retally_router.tiling import Tiling


class SlowLog:
    """Keeps receipts once it is let; a broken one keeps none."""

    def __init__(self) -> None:
        self.may_go = asyncio.Event()
        self.is_broken = False
        self.kept: list[bytes] = []

    async def add_receipts(self, leaves: Sequence[tuple[ReceiptLeaf, str]], channel: ChannelId, closed: int) -> Tiling:
        await self.may_go.wait()
        if self.is_broken:
            raise StoreUnreachable("it is gone")
        self.kept += [leaf.receipt.job_id for leaf, _ in leaves]
        return Tiling(closed)


def record(job: bytes) -> JobRecord:
    return JobRecord(to_hex(job), {}, CHANNEL.node, "http://node", "m", {}, 4, 100, ((0, 0, 0),))


def two_open() -> ChannelAccount:
    line = account()
    line.delivered = 1000
    line.admit({(JOB, 0, 0): segment(100, 50), (OTHER, 0, 0): segment(100, 50, "other")})
    return line


async def close_both_and_leave(channels: Channels, line: ChannelAccount) -> tuple[asyncio.Task[None], ...]:
    """The first receipt's write is under way when the second comes, whose client leaves at once."""
    first = asyncio.create_task(channels.close_segment(line, ReceiptLeaf(receipt(0, 150), b""), 0, "job"))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(channels.close_segment(line, ReceiptLeaf(receipt(150, 300, OTHER), b""), 0, "other"))
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.wait([second])
    return first, second


class TestChannels:
    async def test_job_of_a_client_that_left_is_not_called_recorded_before_it_is(self) -> None:
        log, line = SlowLog(), two_open()
        channels = Channels(None, cast(JobLog, log), None, CHANNEL)  # type: ignore[arg-type]  # not asked here
        first, _ = await close_both_and_leave(channels, line)
        assert not line.is_idle
        asked = asyncio.create_task(channels.is_on_record(line, record(OTHER)))
        await asyncio.sleep(0.01)
        assert not asked.done()
        log.may_go.set()
        assert await asked
        await first
        assert log.kept == [JOB, OTHER]

    async def test_one_whose_write_failed_is_open_again(self) -> None:
        log, line = SlowLog(), two_open()
        channels = Channels(None, cast(JobLog, log), None, CHANNEL)  # type: ignore[arg-type]  # not asked here
        first, _ = await close_both_and_leave(channels, line)
        log.is_broken = True
        log.may_go.set()
        assert not await channels.is_on_record(line, record(OTHER))
        with pytest.raises(StoreUnreachable):
            await first
        # What they cost is counted already.
        assert (len(line.open), line.open.limit, line.tiling.closed) == (2, 0, 300)

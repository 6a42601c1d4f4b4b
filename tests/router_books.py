"""All that a router's store and its nodes hold of one payer's money at one time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from redis.asyncio import Redis

from retally.protocol.eip712 import Address
from retally.protocol.voucher import ChannelId
from retally_router.job_log import JobRecord
from retally_router.tiling import Tiling
from tests.fakes_router import FakeNode, Line


@dataclass(frozen=True)
class BookLine:
    """A channel on the router's books, then on its node's."""

    promised: int
    closed: int
    beyond: dict[int, int]
    best: int
    cum_to: int


@dataclass(frozen=True)
class Books:
    """A payer's books."""

    lines: dict[ChannelId, BookLine]
    promised: dict[str, int]
    holds: list[str]
    open: list[JobRecord]
    receipts: dict[str, list[Any]]
    vouchers: dict[str, int]
    vouched: dict[bytes, int]

    @property
    def is_closed(self) -> bool:
        """Whether no job is under way."""
        return not self.holds and not self.open


async def read_books(redis: Redis, payer: Address, nodes: list[FakeNode]) -> Books:
    """The books as they are now."""
    lines, receipts = {}, {}
    at_node = {node.address: node for node in nodes}
    async for name in redis.scan_iter(f"retally:{{{payer}}}:channel:*"):
        signer, node, lane = name.decode().split(":")[-3:]
        channel = ChannelId(payer, Address(signer), Address(node), int(lane))
        row = await redis.hgetall(name)
        counted = at_node[channel.node].lines.get(channel.key, Line())
        tiling = Tiling.of(row)
        totals = int(row.get(b"promised", 0)), tiling.closed
        lines[channel] = BookLine(*totals, tiling.beyond, counted.best, counted.cum_to)
    async for name in redis.scan_iter("retally:job:*"):
        receipts[name.decode().split(":")[-1]] = [msgspec.json.decode(raw) for raw in await redis.hvals(name)]
    credit = {name.decode(): value for name, value in (await redis.hgetall(f"retally:{{{payer}}}:credit")).items()}
    opened = await redis.hvals(f"retally:{{{payer}}}:open")
    return Books(
        lines,
        {name.split(":")[1]: int(value) for name, value in credit.items() if name.startswith("promised:")},
        [name for name in credit if name.startswith("hold:")],
        [msgspec.json.decode(raw, type=JobRecord) for raw in opened],
        receipts,
        {node.name: len(node.vouchers) for node in nodes},
        {key: line.best for node in nodes for key, line in node.lines.items() if line.best},
    )

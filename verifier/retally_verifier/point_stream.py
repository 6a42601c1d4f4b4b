"""Points and results in Redis: a stream with one consumer group, and a hash of results. Commands of Redis 6.2."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from retally.protocol.encoding import Address

GROUP = "workers"
#: A point is asked for once until its result was recorded; both writes or none.
_ASK = """
if redis.call('HSETNX', KEYS[1], ARGV[1], '1') == 1 then
  redis.call('XADD', KEYS[2], '*', 'id', ARGV[1], 'task', ARGV[2])
end
"""
#: A result that nobody waits for is left nowhere: it would answer for the same point asked anew.
_GIVE = """
local first = 0
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  first = redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2])
end
redis.call('XACK', KEYS[3], ARGV[3], ARGV[4])
redis.call('XDEL', KEYS[3], ARGV[4])
return first
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One delivery of a point to a worker."""

    entry_id: str
    name: str
    task: str
    #: How often it was delivered, this time included.
    deliveries: int


class PointStream:
    """What the processes of one verifier share."""

    def __init__(self, redis: Redis, verifier: Address) -> None:
        self._redis: Any = redis
        base = f"retally:verifier:{verifier.lower()}"
        self._points, self._asked, self._results = f"{base}:points", f"{base}:asked", f"{base}:results"
        self._ask = self._redis.register_script(_ASK)
        self._give = self._redis.register_script(_GIVE)

    async def ask(self, tasks: Mapping[str, str]) -> None:
        """Adds points by name; one that is under way stays as it is."""
        for name, task in tasks.items():
            await self._ask(keys=[self._asked, self._points], args=[name, task])

    async def results(self, names: Sequence[str]) -> dict[str, str]:
        """The results that are there."""
        found = await self._redis.hmget(self._results, names) if names else []
        return {name: _text(value) for name, value in zip(names, found, strict=True) if value is not None}

    async def forget_others(self, names: Collection[str]) -> None:
        """Lets go of results that nobody waits for: a leader died between its books and Redis."""
        for key in await self._redis.hkeys(self._results):
            if _text(key) not in names:
                await self.forget(_text(key))

    async def forget(self, name: str) -> None:
        """The books have it, or it is to be asked anew."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hdel(self._results, name)
            pipe.hdel(self._asked, name)
            await pipe.execute()

    async def take(self, consumer: str, count: int, *, idle_seconds: float, wait_seconds: float) -> list[Entry]:
        """One point that a dead worker left behind, else new ones; waits a while for these.

        What was left behind comes singly: it may be what the worker died of.
        """
        try:
            left = await self._claimed(consumer, idle_seconds)
            return left or await self._fresh(consumer, count, wait_seconds)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self._create()
            return []

    async def keep(self, consumer: str, entry: Entry) -> None:
        """Says that the worker is alive and still at it."""
        await self._redis.xclaim(self._points, GROUP, consumer, 0, [entry.entry_id], justid=True)

    async def give(self, entry: Entry, result: str) -> bool:
        """Hands a result in, once: whether it is the first, and still wanted."""
        keys = [self._asked, self._results, self._points]
        return bool(await self._give(keys=keys, args=[entry.name, result, GROUP, entry.entry_id]))

    async def is_open(self, entry: Entry) -> bool:
        """Whether nobody has handed a result in."""
        wanted = await self._redis.hexists(self._asked, entry.name)
        return bool(wanted) and not await self._redis.hexists(self._results, entry.name)

    async def drop(self, entry: Entry) -> None:
        """Nobody wants it any more."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xack(self._points, GROUP, entry.entry_id)
            pipe.xdel(self._points, entry.entry_id)
            await pipe.execute()

    async def leave(self, consumer: str) -> None:
        """Takes a worker out that holds nothing."""
        pending = await self._redis.xpending_range(self._points, GROUP, "-", "+", 1, consumername=consumer)
        if not pending:
            await self._redis.xgroup_delconsumer(self._points, GROUP, consumer)

    async def backlog(self) -> int:
        """Points that wait or are under way."""
        return int(await self._redis.xlen(self._points))

    async def _claimed(self, consumer: str, idle_seconds: float) -> list[Entry]:
        idle = round(idle_seconds * 1000)
        answer = await self._redis.xautoclaim(self._points, GROUP, consumer, idle, "0-0", count=1)
        found = []
        for entry_id, fields in answer[1]:
            # Redis 6.2 returns nothing in place of an entry that was deleted.
            if fields:
                pending = await self._redis.xpending_range(self._points, GROUP, entry_id, entry_id, 1)
                times = pending[0]["times_delivered"] if pending else 1
                found.append(_entry(entry_id, fields, times))
        return found

    async def _fresh(self, consumer: str, count: int, wait_seconds: float) -> list[Entry]:
        streams, block = {self._points: ">"}, max(1, round(wait_seconds * 1000))
        answer = await self._redis.xreadgroup(GROUP, consumer, streams, count=count, block=block)
        return [_entry(entry_id, fields, 1) for _, entries in answer or [] for entry_id, fields in entries]

    async def _create(self) -> None:
        try:
            await self._redis.xgroup_create(self._points, GROUP, "0", mkstream=True)
        except ResponseError as error:
            # Another worker was faster.
            if "BUSYGROUP" not in str(error):
                raise
        await asyncio.sleep(0)


def _entry(entry_id: Any, fields: Mapping[Any, Any], deliveries: int) -> Entry:
    texts = {_text(key): _text(value) for key, value in fields.items()}
    return Entry(_text(entry_id), texts["id"], texts["task"], deliveries)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)

"""Two processes over one store that loses holds and breaks off, and what their jobs hold and are promised."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from retally.errors import PaymentRequired, Unavailable
from retally.protocol.eip712 import Address
from retally.protocol.voucher import ChannelId
from retally_router.credit import Credit
from retally_router.credit_keys import channel_key_of, credit_key, earmarks_key
from retally_router.earmarks import Ask
from retally_router.joined_redis import open_store
from retally_router.ports import Standing
from retally_router.store_errors import StoreUnreachable
from tests.properties.test_credit import BALANCE, NODE, PAYER, SIGNERS
from tests.properties.test_leased_credit import process_of, rest_of

REFUSED = (PaymentRequired, Unavailable)


class Failing:
    """One process's way to the store: a script that it is told of breaks off, heard or not, or heard only later."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self.faults: dict[int, str] = {}
        self.unheard: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def eval(self, *args: Any) -> Any:
        fault = self.faults.pop(0, None)
        self.faults = {number - 1: kind for number, kind in self.faults.items()}
        if fault == "late":
            self.unheard.append(args)
        if fault in ("late", "unheard"):
            raise StoreUnreachable("gone before it heard")
        found = await self._redis.eval(*args)
        if fault:
            raise StoreUnreachable("gone before it answered")
        return found

    async def hear(self) -> None:
        """What was on its way comes."""
        unheard, self.unheard = self.unheard, []
        for args in unheard:
            await self._redis.eval(*args)


async def standing(payer: Address, signer: Address, fresh: bool) -> Standing:
    """A deposit of which nothing is collected."""
    return Standing(BALANCE, 0, BALANCE, 10**9)


@dataclass
class Job:
    """What a process counts of one, as its channels' accounts do."""

    name: str
    signer: int
    left: int
    #: By node, what was to be for it, and what is, as far as was heard.
    asked: dict[int, int] = field(default_factory=dict)
    known: dict[int, int] = field(default_factory=dict)


@dataclass
class Two:
    """Two processes, and what their jobs hold."""

    redis: Any
    stores: list[Failing]
    processes: list[Credit]
    jobs: dict[str, Job] = field(default_factory=dict)
    #: All that there were, by name.
    past: dict[str, Job] = field(default_factory=dict)
    #: Whether the store keeps what it heard: then no job may be refused what it holds.
    is_kept: bool = False

    async def step(self, name: str, *args: Any) -> None:
        """One step; what is refused or breaks off leaves its job as it was."""
        try:
            await getattr(self, name)(*args)
        except (PaymentRequired, StoreUnreachable):
            assert name in ("hold", "release", "tidy")

    async def hold(self, job: str, signer: int, amount: int) -> None:
        if job in self.jobs:
            return
        # No job has the name of an earlier one.
        name = f"{job}{len(self.past)}"
        self.past[name] = made = Job(name, signer, amount)
        await self.processes[process_of(job)].hold(PAYER, SIGNERS[signer], name, amount, lane=process_of(job))
        self.jobs[job] = made

    async def release(self, job: str) -> None:
        if job in self.jobs:
            await self.processes[process_of(job)].release(PAYER, self.jobs.pop(job).name)

    async def promise(self, wanted: list[tuple[str, int, int]], *, is_beyond: bool = False) -> None:
        """Several at once; a job is promised at up to two nodes, where all jobs of its signer share a channel."""
        lines = {(job, node): most for job, node, most in wanted if job in self.jobs}
        works = (self._promise(job, node, most, is_beyond=is_beyond) for (job, node), most in lines.items())
        await asyncio.gather(*works)

    async def beyond(self, wanted: list[tuple[str, int, int]]) -> None:
        """The same, of more than the jobs hold: say where other nodes were promised that, and refused them."""
        await self.promise(wanted, is_beyond=True)

    async def cover(self, job: str, amount: int) -> None:
        """A job shall hold so much; where that is refused it keeps what it has."""
        if job in self.jobs:
            with contextlib.suppress(PaymentRequired, Unavailable, StoreUnreachable):
                await self.processes[process_of(job)].cover(self.jobs[job].name, amount)

    async def meanwhile(self, wanted: list[tuple[str, int, int]], job: str, turns: int) -> None:
        """While promises and holds are on their way a job ends."""

        async def end() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            with contextlib.suppress(StoreUnreachable):
                await self.release(job)

        covers = [self.cover(each, most) for each, _, most in wanted]
        await asyncio.gather(self.beyond(wanted), *covers, end())

    async def _promise(self, letter: str, node: int, most: int, *, is_beyond: bool) -> None:
        if letter not in self.jobs:
            return
        job, credit = self.jobs[letter], self.processes[process_of(letter)]
        more = most if is_beyond else min(most, job.left)
        job.left = max(0, job.left - more)
        # What one node may be owed is no other's, whether it was heard or not: what failed is asked for again.
        job.asked[node] = asked = job.asked.get(node, 0) + more
        ask = Ask(f"{job.name}:{node}", job.name, asked, is_own=True, known=job.known.get(node, 0))
        refused = (Unavailable, StoreUnreachable) if self.is_kept and not is_beyond else (*REFUSED, StoreUnreachable)
        with contextlib.suppress(*refused):
            found = await credit.promise(channel_of(job.signer, node), [ask])
            mark = found.earmarks[ask.place]
            # Neither more nor less, whatever was heard of earlier ones; unless it says that too little covers it.
            assert mark is not None
            is_less = found.uncovered is not None and job.known.get(node, 0) < mark[0] < asked
            assert mark[0] == asked or (is_less and (is_beyond or not self.is_kept))
            job.known[node] = mark[0]

    async def fail(self, process: int, number: int, kind: str) -> None:
        """Of that process's next scripts one breaks off."""
        self.stores[process].faults[number] = kind

    async def hear(self, process: int) -> None:
        await self.stores[process].hear()

    async def lose(self, number: int) -> None:
        """The store has that hold no more, say because another process ended it."""
        if names := sorted(await rest_of(self.redis)):
            await self._less(names[number % len(names)], 10**9)

    async def shrink(self, number: int, amount: int) -> None:
        """The store came back with less of that hold."""
        if names := sorted(await rest_of(self.redis)):
            await self._less(names[number % len(names)], amount)

    async def tidy(self, process: int) -> None:
        await self.processes[process].tidy()

    async def _less(self, name: str, amount: int) -> None:
        held, rest = (await self.redis.hget(credit_key(PAYER), name)).decode().split("|", 1)
        if int(held) <= amount:
            await self.redis.hdel(credit_key(PAYER), name)
        else:
            await self.redis.hset(credit_key(PAYER), name, f"{int(held) - amount}|{rest}")
        # The sums are counted anew.
        await self.redis.hdel(credit_key(PAYER), "counted")


def channel_of(signer: int, node: int) -> ChannelId:
    """A node's with a signer."""
    return ChannelId(PAYER, SIGNERS[signer], NODE, node)


async def check_books(two: Two) -> None:
    """Each channel's total is what is for its jobs: as much as was heard of, and no more than was asked for."""
    found = await two.redis.hgetall(earmarks_key(PAYER))
    marks = {place.decode(): int(mark.split(b"|")[0]) for place, mark in found.items()}
    sums: dict[ChannelId, int] = {channel_of(signer, node): 0 for signer in (0, 1) for node in (0, 1)}
    for name, job in two.past.items():
        for node, asked in job.asked.items():
            mark = marks.pop(f"{name}:{node}", 0)
            assert job.known.get(node, 0) <= mark <= asked
            sums[channel_of(job.signer, node)] += mark
    assert marks == {}
    for channel, total in sums.items():
        promised, kept = await two.redis.hmget(channel_key_of(channel), "promised", "kept")
        assert (int(promised or 0), int(kept or 0)) == (total, total)
    assert await sold(two.redis) == sum(sums.values()) <= BALANCE


async def sold(redis: Any) -> int:
    """What is promised, by the store that loses none of it."""
    rows = await redis.hgetall(credit_key(PAYER))
    return sum(int(value) for name, value in rows.items() if name.startswith(b"promised:"))


async def play(url: str, taken: list[tuple[Any, ...]], *, is_kept: bool = False) -> None:
    """All steps, then all that the jobs hold is promised, then they end."""
    # The client that routers have, and one to look with.
    async with contextlib.AsyncExitStack() as stack:
        store = open_store(url, 5.0)
        stack.push_async_callback(store.aclose)
        redis = await stack.enter_async_context(Redis.from_url(url))
        await redis.delete(*[key async for key in redis.scan_iter(f"retally:{{{PAYER}}}:*")] or ["-"])
        stores = [Failing(store) for _ in range(2)]
        two = Two(redis, stores, [Credit(each, standing, lease_jobs=3) for each in stores], is_kept=is_kept)
        rest = [(job, node, BALANCE) for job in "abcdef" for node in (0, 1)]
        for each in [*taken, ("promise", rest), ("hear", 0), ("hear", 1), ("promise", rest)]:
            await two.step(*each)
            assert await sold(redis) <= BALANCE
        for failing in stores:
            failing.faults = {}
        for job in list(two.jobs):
            await two.release(job)
        for process in two.processes:
            await process.close()
            await process.close()
        await check_books(two)
        assert await rest_of(redis) == []

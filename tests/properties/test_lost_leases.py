"""Two processes over a store that loses leases: no more is promised than there is, and at last nothing is held."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from tests.properties.test_credit import BALANCE, NODE, PAYER, SIGNERS, process_of, rest_of
from tests.router_world import DATABASE, database_url

from retally.errors import PaymentRequired
from retally.protocol.eip712 import Address
from retally.protocol.voucher import ChannelId
from retally_router.credit import Credit
from retally_router.credit_keys import credit_key
from retally_router.leases import is_lease
from retally_router.ports import Standing

signers, jobs = st.sampled_from([0, 1]), st.sampled_from("abcdef")
large = st.sampled_from([40, 60, 90, 97, 100])
steps = st.one_of(
    st.tuples(st.just("hold"), jobs, signers, st.integers(1, 3)),
    st.tuples(st.just("hold"), jobs, signers, large),
    st.tuples(st.just("hold"), jobs, signers, large),
    st.tuples(st.just("release"), jobs),
    st.tuples(st.just("promise"), jobs, st.integers(1, 9)),
    st.tuples(st.just("promise"), jobs, st.just(BALANCE)),
    st.tuples(st.just("lose"), st.integers(0, 5)),
    st.tuples(st.just("shrink"), st.integers(0, 5), st.integers(1, 9)),
    st.tuples(st.just("tidy"), st.sampled_from([0, 1])),
)


async def standing(payer: Address, signer: Address, fresh: bool) -> Standing:
    """A deposit of which nothing is collected."""
    return Standing(BALANCE, 0, BALANCE, 10**9)


@dataclass
class Two:
    """Two processes, and what was granted and promised."""

    redis: Any
    processes: list[Credit]
    #: By job: its signer, and what of its hold is not promised yet.
    left: dict[str, tuple[int, int]] = field(default_factory=dict)
    totals: dict[tuple[int, int], int] = field(default_factory=dict)

    async def step(self, name: str, *args: Any) -> None:
        """One step; what is refused changes nothing."""
        try:
            await getattr(self, name)(*args)
        except PaymentRequired:
            assert name in ("hold", "promise")

    async def hold(self, job: str, signer: int, amount: int) -> None:
        if job in self.left:
            return
        await self.processes[process_of(job)].hold(PAYER, SIGNERS[signer], job, amount, lane=process_of(job))
        self.left[job] = signer, amount

    async def release(self, job: str) -> None:
        self.left.pop(job, None)
        await self.processes[process_of(job)].release(PAYER, job)

    async def promise(self, job: str, most: int) -> None:
        if job not in self.left:
            return
        signer, left = self.left[job]
        lane, share = process_of(job), min(most, left)
        total = self.totals.get((signer, lane), 0) + share
        channel = ChannelId(PAYER, SIGNERS[signer], NODE, lane)
        assert await self.processes[lane].promise(channel, total, {job: share}) == total
        self.totals[signer, lane] = total
        self.left[job] = signer, left - share

    async def lose(self, number: int) -> None:
        """The store has that lease no more, say because another process ended it."""
        if names := [name for name in sorted(await rest_of(self.redis)) if is_lease(name.removeprefix("hold:"))]:
            await self._less(names[number % len(names)], 10**9)

    async def shrink(self, number: int, amount: int) -> None:
        """The store came back with less of that lease."""
        if names := [name for name in sorted(await rest_of(self.redis)) if is_lease(name.removeprefix("hold:"))]:
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


async def play(url: str, taken: list[tuple[Any, ...]]) -> None:
    """All steps, then all that the jobs hold is promised, then they end."""
    async with Redis.from_url(url) as redis:
        await redis.delete(*[key async for key in redis.scan_iter(f"retally:{{{PAYER}}}:*")] or ["-"])
        two = Two(redis, [Credit(redis, standing, lease_jobs=3) for _ in range(2)])
        for each in [*taken, *(("promise", job, BALANCE) for job in "abcdef")]:
            await two.step(*each)
            assert sum(two.totals.values()) <= BALANCE
        for job in list(two.left):
            await two.release(job)
        for process in two.processes:
            await process.close()
        assert await rest_of(redis) == []


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(taken=st.lists(steps, min_size=5, max_size=20))
@example(taken=[("hold", "a", 0, 3), ("lose", 0), ("hold", "b", 0, 100)])
@example(taken=[("hold", "a", 0, 3), ("hold", "c", 1, 3), ("shrink", 0, 7), ("hold", "b", 0, 90)])
def test_no_more_is_promised_than_there_is(redis_url: str, taken: list[tuple[Any, ...]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retally_router.credit.AGAIN_SECONDS", 0.001)
        asyncio.run(play(database_url(redis_url, DATABASE), taken))

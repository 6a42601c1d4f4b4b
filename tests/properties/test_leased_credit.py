"""Two processes that lease credit in blocks grant and refuse what a full count grants and refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from tests.properties.test_credit import PAYER, Counted, amounts, hold, jobs, signers, step
from tests.router_world import DATABASE, database_url

from retally_router.credit import Credit
from retally_router.credit_keys import credit_key, leases_key


#: Which of two processes over one store a job runs in.
def process_of(job: str) -> int:
    return "abcdef".index(job) % 2


async def step_leased(processes: list[Credit], counted: Counted, held: set[str], name: str, *args: Any) -> None:
    """One step of two processes that lease in blocks; who is not asked looks after its leases meanwhile."""
    if name == "hold" and args[0] not in held:
        job, process = args[0], process_of(args[0])

        async def tidy() -> None:
            while True:
                await asyncio.sleep(0.002)
                await processes[1 - process].tidy()

        other = asyncio.create_task(tidy())
        refused = await hold(processes[process], *args)
        other.cancel()
        assert refused == counted.hold(*args)
        held.update([job] if refused is None else [])
    elif name == "release":
        await step(processes[process_of(args[0])], counted, name, *args)
        held.discard(args[0])
    elif name == "promise":
        signer, more, wanted = args
        own = {job: most for job, most in wanted.items() if job in held and process_of(job) == 0}
        # A total that was promised elsewhere shows to a lease only with its next block (decision 23): until then its
        # jobs take of what is free. Here nothing is.
        for process in processes if more else ():
            await process.close()
        await step(processes[0], counted, name, signer, more, own)
    elif name == "tidy":
        await processes[args[0]].tidy()
    elif name != "hold":
        await step(processes[0], counted, name, *args)


async def rest_of(redis: Any) -> list[str]:
    """What is held at last."""
    return [name.decode() for name in await redis.hkeys(credit_key(PAYER)) if name.startswith(b"hold:")]


async def play_leased(url: str, taken: list[tuple[Any, ...]]) -> None:
    """All steps, then the end of all jobs: no more is held than by a process without leases, and nothing at last."""
    async with Redis.from_url(url) as redis:
        await redis.delete(*[key async for key in redis.scan_iter(f"retally:{{{PAYER}}}:*")] or ["-"])
        counted, held = Counted(), set[str]()
        processes = [
            Credit(redis, counted.standing, lambda: counted.now, lease_jobs=3, ticks=lambda: float(counted.now))
            for _ in range(2)
        ]
        for each in taken:
            await step_leased(processes, counted, held, *each)
            row = {name.decode(): value.decode() for name, value in (await redis.hgetall(credit_key(PAYER))).items()}
            for process in processes:
                for lease in process.leases:
                    stored = int(row.get(f"hold:{lease.name}", "0|").split("|")[0])
                    assert stored >= lease.counted
        for job in held:
            await processes[process_of(job)].release(PAYER, job)
        for process in processes:
            await process.close()
        assert await rest_of(redis) == []
        assert await redis.hkeys(leases_key(PAYER)) == []


leased_steps = st.one_of(
    st.tuples(st.just("hold"), jobs, signers, st.integers(1, 9)),
    st.tuples(st.just("hold"), jobs, signers, st.integers(1, 3)),
    st.tuples(st.just("release"), jobs),
    st.tuples(st.just("promise"), signers, amounts, st.dictionaries(jobs, amounts, max_size=3)),
    st.tuples(st.just("collect"), signers, amounts),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 4, 61])),
    st.tuples(st.just("tidy"), st.sampled_from([0, 1])),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(taken=st.lists(leased_steps, max_size=30))
@example(
    taken=[
        ("hold", "a", 0, 1),
        ("hold", "b", 0, 1),
        ("release", "a"),
        *[("promise", 0, 34, {})] * 2,
        ("hold", "a", 0, 2),
    ]
)
def test_leases_grant_and_refuse_as_a_full_count_does(redis_url: str, taken: list[tuple[Any, ...]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retally_router.asking.AGAIN_SECONDS", 0.005)
        asyncio.run(play_leased(database_url(redis_url, DATABASE), taken))

"""A payer's credit: the running sums say what a full count says, whatever happens in whatever order."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from tests.router_world import DATABASE, database_url

from retally.errors import CapExceeded, InsufficientFunds
from retally.protocol.eip712 import Address, SigningKey, keccak
from retally.protocol.voucher import ChannelId
from retally_router.credit import Credit
from retally_router.credit_keys import channel_key_of, credit_key, earmarks_key, open_key
from retally_router.earmarks import Ask, Count, Mark, Promised
from retally_router.leases import HOLD_SECONDS
from retally_router.ports import Standing

PAYER, NODE = SigningKey(keccak(b"payer")).address, SigningKey(keccak(b"node")).address
SIGNERS = [SigningKey(keccak(name)).address for name in (b"one", b"two")]
BALANCE, CAP = 100, 70

signers, jobs, amounts = st.sampled_from([0, 1]), st.sampled_from("abcdef"), st.integers(0, 45)
steps = st.one_of(
    st.tuples(st.just("hold"), jobs, signers, amounts),
    st.tuples(st.just("release"), jobs),
    st.tuples(st.just("promise"), signers, amounts, st.dictionaries(jobs, amounts, max_size=3)),
    st.tuples(st.just("collect"), signers, amounts),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 61, HOLD_SECONDS // 2, HOLD_SECONDS + 1])),
)


@dataclass
class Counted:
    """The same credit as a list that is summed anew each time, beside the chain and the clock."""

    now: int = 1000
    holds: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    promised: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    collected: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    seen: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    #: By place, what of a total is for a job, and how much of that was held. No job has the place of an earlier one.
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)

    async def standing(self, payer: Address, signer: Address, fresh: bool) -> Standing:
        """What the chain says: what was collected has left the balance."""
        used = self.collected[SIGNERS.index(signer)]
        return Standing(BALANCE - sum(self.collected.values()), used, CAP, self.now + 1)

    def missing(self, job: str, signer: int, amount: int) -> tuple[str, int] | None:
        """What keeps a job from being held; what expired is gone."""
        self.holds = {name: hold for name, hold in self.holds.items() if hold[2] >= self.now}
        others = [hold for name, hold in self.holds.items() if name != job]
        capped = max(self.seen[signer], self.promised[signer]) + sum(a for a, s, _ in others if s == signer)
        owed = sum(max(0, self.promised[each] - self.seen[each]) for each in (0, 1)) + sum(a for a, _, _ in others)
        if capped + amount > CAP:
            return "cap", max(0, CAP - capped)
        balance = BALANCE - sum(self.collected.values())
        return ("funds", max(0, balance - owed)) if owed + amount > balance else None

    def hold(self, job: str, signer: int, amount: int) -> tuple[str, int] | None:
        """Holds, after a second look at the chain if the first refused."""
        self.seen[signer] = self.collected[signer]
        refused = self.missing(job, signer, amount)
        if refused is not None:
            # Who promised nothing is not asked about again, and owes nothing.
            self.seen = {each: self.collected[each] if self.promised[each] else self.seen[each] for each in (0, 1)}
            refused = self.missing(job, signer, amount)
        if refused is None:
            had, whose, _ = self.holds.get(job, (0, signer, 0))
            # Asked for again, a job keeps the larger of the two.
            most = max(amount, had) if whose == signer else amount
            self.holds[job] = (most, signer, self.now + HOLD_SECONDS)
        return refused

    def release(self, job: str) -> None:
        """What was promised for it stays promised."""
        self.holds.pop(job, None)
        self.ended[job] += 1

    def asks(self, signer: int, wanted: dict[str, int]) -> list[Ask]:
        """For which jobs so much more may be promised: of what the signer holds for them, and no more than that."""
        asks = []
        for job, most in wanted.items():
            amount, whose, ends = self.holds.get(job, (0, signer, self.now))
            if whose == signer and ends >= self.now and job in self.holds:
                place = f"{signer}:{job}:{self.ended[job]}"
                asks.append(Ask(place, job, self.marks.get(place, (0, 0))[0] + min(most, amount), is_own=True))
        return asks

    def promise(self, signer: int, total: int, asks: list[Ask]) -> Promised:
        """What is spare goes to jobs first; what is promised for one beyond that is held for it no more."""
        before, total = self.promised[signer], max(total, self.promised[signer])
        spare = total - sum(had for place, (had, _) in self.marks.items() if place.startswith(f"{signer}:"))
        for ask in asks:
            had, held = self.marks.get(ask.place, (0, 0))
            left = min(spare, ask.total - had)
            rest, spare = ask.total - had - left, spare - left
            amount, whose, ends = self.holds[ask.job]
            self.holds[ask.job] = (amount - rest, whose, ends)
            self.marks[ask.place] = (ask.total, held + rest)
            total += rest
        self.promised[signer] = total
        return Promised(total, before, {ask.place: Mark(*self.marks[ask.place]) for ask in asks})


async def hold(credit: Credit, job: str, signer: int, amount: int) -> tuple[str, int] | None:
    """How the router's credit answers."""
    try:
        await credit.hold(PAYER, SIGNERS[signer], job, amount)
    except CapExceeded as error:
        return "cap", error.left
    except InsufficientFunds as error:
        return "funds", error.available
    return None


async def step(credit: Credit, counted: Counted, name: str, *args: Any) -> None:
    """One step of both."""
    if name == "hold":
        assert await hold(credit, *args) == counted.hold(*args)
    elif name == "release":
        await credit.release(PAYER, args[0])
        counted.release(args[0])
    elif name == "promise":
        signer, more, wanted = args
        asks, total = counted.asks(signer, wanted), counted.promised[signer] + more
        # Asked again, it does nothing.
        for _ in range(2):
            found = await credit.promise(ChannelId(PAYER, SIGNERS[signer], NODE, 0), asks, Count(total))
            assert found == counted.promise(signer, total, asks)
    elif name == "collect":
        signer, amount = args
        counted.collected[signer] = min(counted.promised[signer], counted.collected[signer] + amount)
    else:
        counted.now += args[0]


async def play(url: str, taken: list[tuple[Any, ...]]) -> None:
    """All steps; at last the sums are what is there."""
    async with Redis.from_url(url) as redis:
        await redis.delete(*[key async for key in redis.scan_iter(f"retally:{{{PAYER}}}:*")] or ["-"])
        counted = Counted()
        credit = Credit(redis, counted.standing, lambda: counted.now)
        for each in taken:
            await step(credit, counted, *each)
        row = {name.decode(): value.decode() for name, value in (await redis.hgetall(credit_key(PAYER))).items()}
        marks = await redis.hgetall(earmarks_key(PAYER))
    assert marks == {place.encode(): b"%d|%d|0|0" % mark for place, mark in counted.marks.items() if mark[0]}
    held = [value.split("|") for name, value in row.items() if name.startswith("hold:")]
    if "counted" in row:
        assert int(row.get("held", 0)) == sum(int(amount) for amount, *_ in held)
        for signer in SIGNERS:
            own = sum(int(amount) for amount, whose, *_ in held if whose == signer)
            assert int(row.get(f"held:{signer}", 0)) == own
        owed = [int(row.get(f"promised:{each}", 0)) - int(row.get(f"used:{each}", 0)) for each in SIGNERS]
        assert int(row.get("owed", 0)) == sum(max(0, each) for each in owed)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(taken=st.lists(steps, max_size=30))
# A job that is held again for less keeps what it holds.
@example(taken=[("hold", "c", 0, 8), ("hold", "c", 0, 0), ("promise", 0, 63, {}), ("promise", 0, 0, {"c": 8})])
# Nor is it held again what was promised for it.
@example(taken=[("hold", "a", 0, 45), ("promise", 0, 0, {"a": 40}), ("hold", "a", 0, 5), ("promise", 0, 0, {"a": 5})])
# What is spare is for a job first, and its hold stays.
@example(taken=[("hold", "c", 0, 8), ("promise", 0, 5, {"c": 8}), ("hold", "a", 0, 57), ("promise", 0, 0, {"c": 5})])
def test_running_sums_refuse_and_grant_as_a_full_count_does(redis_url: str, taken: list[tuple[Any, ...]]) -> None:
    asyncio.run(play(database_url(redis_url, DATABASE), taken))


#: What reads a whole hash.
WALKS = ("hgetall", "hkeys", "hvals")


async def commands(redis: Any, name: str) -> int:
    """How often Redis ran it."""
    return int((await redis.info("commandstats")).get(f"cmdstat_{name}", {}).get("calls", 0))


async def test_no_hold_promise_or_release_walks_what_is_open(redis_url: str) -> None:
    async with Redis.from_url(database_url(redis_url, DATABASE)) as redis:
        channel = ChannelId(PAYER, SIGNERS[0], NODE, 7)
        await redis.delete(credit_key(PAYER), channel_key_of(channel), earmarks_key(PAYER), open_key(PAYER))
        counted = Counted()
        credit = Credit(redis, counted.standing, lambda: counted.now)
        await credit.hold(PAYER, SIGNERS[0], "first", 0)
        before = [await commands(redis, name) for name in WALKS]
        for number in range(20):
            await credit.hold(PAYER, SIGNERS[0], str(number), 1)
            await redis.hset(open_key(PAYER), str(number), "{}")
        assert (await credit.promise(channel, [Ask("1", "1", 1)])).earmarks == {"1": Mark(1, 1)}
        await credit.promise(channel, count=Count(10**6))
        await credit.release(PAYER, "2")
        assert [await commands(redis, name) for name in WALKS] == before


async def test_sums_that_others_wrote_over_are_counted_anew(redis_url: str) -> None:
    async with Redis.from_url(database_url(redis_url, DATABASE)) as redis:
        await redis.delete(credit_key(PAYER))
        counted = Counted()
        credit = Credit(redis, counted.standing, lambda: counted.now)
        await credit.hold(PAYER, SIGNERS[0], "a", 10)
        await redis.hset(credit_key(PAYER), "held", 5)
        await credit.release(PAYER, "a")
        assert not await redis.hexists(credit_key(PAYER), "counted")
        await credit.hold(PAYER, SIGNERS[0], "b", 70)
        assert await redis.hget(credit_key(PAYER), "held") == b"70"

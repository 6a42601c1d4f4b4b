"""Jobs whose books end late: a node had them twice, the store breaks off, a node never comes back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from tests.fakes_router import FakeNode
from tests.fakes_world import DOMAIN
from tests.holds_world import JOB, KEY, Asking, OwnLane, Record, SlowNode, rest, settling
from tests.lease_world import NODE, PAYER, SIGNER, LeaseWorld, hold, line, promised, sell
from tests.router_world import router_world

from retally.errors import NodeUnavailable, RemoteError, RetallyError
from retally_router.channel_state import ChannelAccount
from retally_router.check_frames import ChoiceState, read_receipts
from retally_router.credit import Credit
from retally_router.job_log import JobLog, JobRecord
from retally_router.keys import Session
from retally_router.open_segments import OpenSegment
from retally_router.serve_job import ServeJob
from retally_router.settle_jobs import RECEIPT_LIFE_SECONDS, SettleJobs
from retally_router.store_errors import StoreUnreachable
from retally_router.vouchers import VoucherSender

OPEN = f"retally:{{{PAYER}}}:open"


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis, balance=100)


def segment(most: int, place: str) -> OpenSegment:
    return OpenSegment(0, 1_000_000, most, place)


def record(number: int, start: int) -> JobRecord:
    """The job's segment of that number at one node."""
    signed = {"payer": PAYER, "signer": SIGNER}
    return JobRecord(f"0x{JOB}", signed, NODE, "http://n", "m", {}, 0, 1, ((0, number, start),))


class Forgetful:
    """A node that never heard of any job."""

    async def receipts(self, endpoint: str, job: str) -> Any:
        raise RemoteError(404, "not_found", "unknown job")


@dataclass
class Clock:
    seconds: int = 0

    def now(self) -> int:
        return self.seconds


class Located(SettleJobs):
    """Nodes listen where they did."""

    def _located(self, placed: Any, known: Any = None) -> Any:
        return placed


def late(credit: Credit, log: Any, channels: Any, clock: Clock) -> SettleJobs:
    nothing, lanes = cast(Any, None), cast(Any, OwnLane())
    sender = VoucherSender(cast(Any, SlowNode()))
    return Located(
        cast(Any, Forgetful()),
        log,
        channels,
        credit,
        sender,
        lanes,
        clock,
        DOMAIN,
        find=lambda _: None,
        recover_seconds=nothing,
    )


async def test_a_node_that_has_a_job_twice_is_settled_twice(world: LeaseWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retally_router.settle_jobs.FIRST_DELAY_SECONDS", 0.01)
    credit, log = world.process(0), JobLog(world.redis)
    settle = late(credit, log, None, Clock())
    account = ChannelAccount(line(0), KEY, DOMAIN, "http://n", credit.promise)
    placed = cast(Any, SimpleNamespace(node=SimpleNamespace(endpoint="http://n"), request=SimpleNamespace(deadline=0)))
    # It lost a race; the winner broke off, and it went on.
    lost, won = record(0, 0), record(1, 6)
    for each in (lost, won):
        await log.begin(each)
        account.admit({(bytes.fromhex(JOB), 0, each.segments[0][1]): segment(50, each.field)})
    settle.later(placed, account, lost)
    await asyncio.sleep(0.5)
    assert await world.redis.hkeys(OPEN) == [won.field.encode()]
    assert [key[2] for key in account.open] == [1]
    # Both break off.
    await log.begin(lost)
    account.admit({(bytes.fromhex(JOB), 0, 0): segment(50, lost.field)})
    settle.later(placed, account, lost)
    settle.later(placed, account, won)
    await asyncio.sleep(0.5)
    assert (await world.redis.hkeys(OPEN), list(account.open)) == ([], [])
    await settle.close()


@pytest.mark.parametrize("lease_jobs", [0, 8])
async def test_a_store_that_breaks_off_at_the_end_frees_nothing_that_another_node_is_owed(
    world: LeaseWorld, lease_jobs: int
) -> None:
    credit, node, gate = world.process(lease_jobs), SlowNode(), asyncio.Event()
    node.gate.set()
    sender = VoucherSender(cast(Any, node))
    settle = settling(credit, sender)
    await hold(credit, JOB, 100)
    left, won = (ChannelAccount(line(lane), KEY, DOMAIN, "http://n", credit.promise) for lane in (0, 1))
    first, second = ((bytes.fromhex(JOB), 0, number) for number in (0, 1))
    left.admit({first: segment(50, f"0x{JOB}:0xA")})
    await left.voucher(10)
    won.admit({second: segment(50, f"0x{JOB}:0xC")})
    won.open.count(second, 20)
    await won.voucher(20)
    won.close(second, cast(Any, SimpleNamespace(fee=20, cum_from=0, cum_to=20)))
    won.delivered = 20

    async def receipts_come() -> None:
        """Of the node that was left in mid-answer."""
        await gate.wait()
        left.open.count(first, 50)
        left.close(first, cast(Any, SimpleNamespace(fee=50, cum_from=0, cum_to=50)))
        sender.pay(left)
        await left.put_on_record(0)

    tries = iter([StoreUnreachable("broke off")])

    class Log:
        async def forget(self, record: Any) -> None:
            if (error := next(tries, None)) is not None:
                raise error

    async def is_on_record(*_: Any) -> bool:
        return True

    settle._settling.start(f"0x{JOB}", "0xA", receipts_come())
    stream = SimpleNamespace(close=lambda: None)
    placement = SimpleNamespace(
        stream=stream, account=won, placed=None, record=Record(f"0x{JOB}", "0xC"), is_open=False
    )
    channels = SimpleNamespace(is_on_record=is_on_record)
    means = SimpleNamespace(settle=settle, credit=credit, sender=sender, log=Log(), channels=channels)
    request = SimpleNamespace(payer=PAYER)
    job = SimpleNamespace(caller=object.__new__(Session), job_id=bytes.fromhex(JOB), request=request)
    attempts, choice = SimpleNamespace(end=lambda: None, visits={}), ChoiceState(0)
    choice.ended = True
    nothing = cast(Any, None)
    serving = ServeJob(cast(Any, means), cast(Any, job), [], cast(Any, attempts), nothing)
    serving.placement, serving.choices = cast(Any, placement), [choice]
    await serving.finish()
    await asyncio.sleep(0.1)
    await sell(world, 100 - await promised(world) - await rest(world, credit))
    gate.set()
    await asyncio.sleep(0.2)
    assert (await promised(world), await rest(world, credit)) == (70, 0), "nothing was free for others"
    await sender.close()
    await settle.close()


async def test_a_dead_routers_job_at_a_node_that_never_comes_back_is_given_up(
    world: LeaseWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retally_router.settle_jobs.FIRST_DELAY_SECONDS", 0.01)
    dead, credit, clock = world.process(0), world.process(0), Clock()
    await dead.hold(PAYER, SIGNER, JOB, 100, lane=3)
    forgotten: list[str] = []

    class Books:
        """The log of one open job, and a channel that its node does not show."""

        async def open_jobs(self, payer: str, signer: str) -> list[Record]:
            return [Record(f"0x{JOB}", "0xA")]

        async def open(self, session: Session, placed: Any, *, past: Any) -> ChannelAccount:
            raise NodeUnavailable("gone")

        def take_up(self, record: Record) -> bool:
            return True

        async def forget(self, record: Record) -> None:
            forgotten.append(record.field)

    books = Books()
    settle = late(credit, cast(Any, books), cast(Any, books), clock)
    settle._recover_seconds = 30.0
    await settle.recover(cast(Session, Asking()))
    await asyncio.sleep(0.1)
    assert (forgotten, await world.held()) == ([], 100)
    clock.seconds = RECEIPT_LIFE_SECONDS + 1
    await asyncio.sleep(0.3)
    assert (forgotten, await world.held()) == ([f"0x{JOB}:0xA"], 0)
    await settle.close()


async def test_a_job_that_began_while_its_routers_past_was_read_keeps_its_hold(world: LeaseWorld) -> None:
    dead, credit = world.process(0), world.process(0)
    await dead.hold(PAYER, SIGNER, JOB, 100, lane=3)
    # It is on record a moment later, and then its router is dead.
    reads = iter([[], [Record(f"0x{JOB}", "0xA")]])

    class Books:
        """A log that grows, and a channel that its node does not show yet."""

        async def open_jobs(self, payer: str, signer: str) -> list[Record]:
            return next(reads)

        async def open(self, session: Session, placed: Any, *, past: Any) -> ChannelAccount:
            raise NodeUnavailable("not yet")

        def take_up(self, record: Record) -> bool:
            return True

        def leave(self, record: Record) -> None:
            """Its router ends."""

    books = Books()
    settle = late(credit, cast(Any, books), cast(Any, books), Clock())
    settle._recover_seconds = 30.0
    await settle.recover(cast(Session, Asking()))
    assert await world.held() == 100
    assert settle._taken_up.has(f"0x{JOB}", f"0x{JOB}:0xA")
    await settle.close()


@pytest.mark.parametrize("shown", [5, None, [5], [{}], {"receipts": []}])
def test_receipts_of_another_shape_are_an_error_that_is_told(shown: Any) -> None:
    with pytest.raises(RetallyError):
        read_receipts({"receipts": shown}, cast(Any, None))


async def test_a_job_that_is_over_is_not_opened_again_while_it_waits_to_be_forgotten(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget, is_gone = JobLog.forget, False

    async def breaking(self: JobLog, record: JobRecord) -> None:
        if is_gone:
            raise StoreUnreachable("gone")
        await forget(self, record)

    monkeypatch.setattr(JobLog, "forget", breaking)
    async with router_world(redis_url, [FakeNode("a")]) as world:
        is_gone = True
        assert (await world.ask()).status_code == 200
        (account,) = world.router.channels.accounts()
        assert account.is_idle
        # The lane lapses meanwhile.
        world.router.channels.drop_idle()
        assert (await world.ask(seed=2)).status_code == 200
        (again,) = world.router.channels.accounts()
        is_gone = False
        assert await world.settled()
        assert again is not account
        assert (again.open, again.is_idle) == ({}, True)

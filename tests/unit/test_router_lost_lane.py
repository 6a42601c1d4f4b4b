"""A router that lost its lane for a while: its own jobs stay its own, another's are read anew, and nothing is left."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from tests.fakes_world import DOMAIN
from tests.holds_world import JOB, KEY, Asking, OwnLane, Record, SlowNode, bill, settling
from tests.lease_world import NODE, PAYER, SIGNER, LeaseWorld, hold, line, promise, promised
from tests.unit.test_router_money import receipt

from retally.errors import InvalidReceipt, Unavailable
from retally.protocol.receipt import ReceiptLeaf
from retally.protocol.wire import ChannelState
from retally_router.channel_state import ChannelAccount
from retally_router.channels import Channels
from retally_router.job_log import JobLog, JobRecord
from retally_router.keys import Session
from retally_router.lanes import Lanes
from retally_router.open_segments import OpenSegment
from retally_router.tiling import Tiling
from retally_router.vouchers import VoucherSender

A, B = ("0a" * 32, "0b" * 32)
KEY_A, KEY_B = ((bytes.fromhex(job), 0, 0) for job in (A, B))


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis, balance=300)


class Books:
    """The log of a running job of this router, on a lane that it lost and that is free again."""

    def __init__(self, record: Record, *, is_own: bool) -> None:
        self.record, self.is_own = record, is_own
        self.asked = 0

    async def open_jobs(self, payer: str, signer: str) -> list[Record]:
        return [self.record]

    def take_up(self, record: Record) -> bool:
        return not self.is_own

    def leave(self, record: Record) -> None:
        """It may be taken up again."""

    async def open(self, session: Session, placed: Any, *, past: Any) -> ChannelAccount:
        self.asked += 1
        raise Unavailable("not yet")


@pytest.mark.parametrize("lane", [3, 5])
async def test_a_running_job_is_not_taken_up_as_a_dead_routers(world: LeaseWorld, lane: int) -> None:
    credit, books = world.process(0), Books(Record(f"0x{JOB}", "0xA", lane), is_own=True)
    await credit.hold(PAYER, SIGNER, JOB, 100, lane=lane)
    # One that holds already, and is not on record yet.
    await credit.hold(PAYER, SIGNER, "0c" * 32, 50, lane=lane)
    settle = settling(credit, VoucherSender(cast(Any, SlowNode())), books, OwnLane())
    settle._recovered.add(SIGNER)
    await settle.recover(cast(Session, Asking()))
    await asyncio.sleep(0.05)
    assert (books.asked, await world.held()) == (0, 150)


async def test_what_a_dead_router_left_on_the_lane_that_one_moves_to_is_taken_up(world: LeaseWorld) -> None:
    dead, credit = world.process(8), world.process(0)
    books = Books(Record(f"0x{JOB}", "0xA", 5), is_own=False)
    await dead.hold(PAYER, SIGNER, JOB, 10, lane=5)
    settle = settling(credit, VoucherSender(cast(Any, SlowNode())), books, OwnLane())
    # It was here before, on another lane.
    settle._recovered.add(SIGNER)
    await settle.recover(cast(Session, Asking()))
    await asyncio.sleep(0.05)
    assert books.asked
    assert await world.held(), "a lease stands until its jobs are settled"
    await settle.close()


class ShownApi:
    """A node that shows its channel as empty, or as billed so far."""

    def __init__(self, last_cum_to: int = 0) -> None:
        self._last = last_cum_to

    async def channel(self, *_: Any) -> dict[str, Any]:
        return ChannelState(best=0, best_signature=None, last_cum_to=self._last, due=0, open=0, unpaid=0).to_wire()


async def test_a_channel_that_another_may_have_written_is_read_anew_once_own_jobs_are_over(world: LeaseWorld) -> None:
    credit, log = world.process(0), JobLog(world.redis)
    channels = Channels(cast(Any, ShownApi()), log, credit, DOMAIN)
    placed = cast(Any, SimpleNamespace(node=SimpleNamespace(node=NODE, endpoint="http://n"), lane=0))
    session = cast(Session, Asking())
    old = await channels.open(session, placed)
    old.admit({KEY_A: OpenSegment(0, 1_000_000, 10, A)})
    channels.lapse()
    # Another router has the lane meanwhile, and dies.
    await promise(credit, line(0), {B: 40})
    assert await channels.open(session, placed) is old, "own jobs go on"
    with pytest.raises(Unavailable):
        await channels.open(session, placed, past=[KEY_B])
    # A past job whose own segments are in it may go in.
    assert await channels.open(session, placed, past=[KEY_A]) is old
    old.drop([KEY_A])
    again = await channels.open(session, placed, past=[KEY_B])
    assert (again is not old, again.promised) == (True, 40)
    assert await channels.open(session, placed, past=[KEY_B]) is again


async def test_a_gap_whose_receipt_never_comes_is_closed_by_what_the_node_counts(world: LeaseWorld) -> None:
    credit, log = world.process(0), JobLog(world.redis)
    await promise(credit, line(0), {B: 40})
    channels = Channels(cast(Any, ShownApi(30)), log, credit, DOMAIN)
    placed = cast(Any, SimpleNamespace(node=SimpleNamespace(node=NODE, endpoint="http://n"), lane=0))
    old = await channels.open(cast(Session, Asking()), placed)
    old.tiling = Tiling(0, {20: 30})
    old.admit({KEY_A: OpenSegment(0, 1_000_000, 10, A)})
    assert await channels.open(cast(Session, Asking()), placed) is old, "a job's receipt may still come"
    old.drop([KEY_A])
    again = await channels.open(cast(Session, Asking()), placed)
    assert again.tiling == Tiling(30)


async def test_a_node_is_no_cheat_for_what_another_router_had_of_it(
    world: LeaseWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    credit, log = world.process(0), JobLog(world.redis)
    channels = Channels(cast(Any, ShownApi()), log, credit, DOMAIN)
    offer = SimpleNamespace(price_in=0, price_out=1_000_000)
    placed = cast(Any, SimpleNamespace(node=SimpleNamespace(node=NODE, endpoint="http://n", offer=offer), lane=0))
    account = await channels.open(cast(Session, Asking()), placed)
    account.admit({KEY_A: OpenSegment(0, 1_000_000, 10, A)})
    theirs = {"job_id": KEY_B[0], "request": SimpleNamespace(max_output=20), "prompt_tokens_at_most": 5}
    other = SimpleNamespace(node=NODE, lane=0, segments=((0, 0, 0),))
    other.placed = lambda _: SimpleNamespace(**theirs, node=placed.node)

    async def past_jobs(*_: Any) -> list[Any]:
        return [other]

    leaf = ReceiptLeaf(receipt(20, 30, KEY_A[0]), b"")
    with pytest.raises(InvalidReceipt, match="R-21"):
        await channels.close_segment(account, leaf, 0, A)
    # The other's job, that it bills before it, is on record and open.
    monkeypatch.setattr(log, "past_jobs", past_jobs)
    await channels.close_segment(account, leaf, 0, A)
    assert (account.tiling, dict(account.open)) == (Tiling(0, {20: 30}), {})
    assert (await log.totals(account.channel))[1] == account.tiling


async def test_an_act_whose_total_fell_is_done_and_the_sender_rests(
    world: LeaseWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, acted = SlowNode(), list[str]()
    node.gate.set()
    credit, sender, sent = world.process(0), VoucherSender(cast(Any, node)), 0
    for job in (A, B):
        await hold(credit, job, 150)
    account = ChannelAccount(line(0), KEY, DOMAIN, "http://n", credit.promise)
    account.admit({KEY_A: OpenSegment(0, 1_000_000, 150, A), KEY_B: OpenSegment(0, 1_000_000, 150, B)})
    for key in (KEY_A, KEY_B):
        account.open.count(key, 100)
    account.note_due(300)

    async def act() -> None:
        acted.append("paid")

    async def counted(*args: Any) -> None:
        nonlocal sent
        sent += 1

    monkeypatch.setattr(node, "send_vouchers", counted)
    bill(account, 100, 0, A)
    account.once_paid.append((account.wanted, act))
    assert account.wanted > 130
    # The other's receipt is over less than was claimed.
    bill(account, 30, 100, B)
    sender.pay(account)
    assert await sender.drain(3.0)
    assert (acted, await promised(world), sent) == (["paid"], 130, 1)
    await sender.close()


def test_a_record_is_taken_up_once() -> None:
    log = JobLog(None)
    record = JobRecord(f"0x{JOB}", {}, NODE, "http://n", "m", {}, 0, 1, ((0, 0, 0),))
    assert [log.take_up(record), log.take_up(record)] == [True, False]
    log.leave(record)
    assert log.take_up(record)


async def test_a_channel_that_is_read_while_the_lane_lapses_is_read_once_more(world: LeaseWorld) -> None:
    credit, log, gate = world.process(0), JobLog(world.redis), asyncio.Event()

    class Late(ShownApi):
        async def channel(self, *_: Any) -> dict[str, Any]:
            await gate.wait()
            return await super().channel()

    channels = Channels(cast(Any, Late()), log, credit, DOMAIN)
    placed = cast(Any, SimpleNamespace(node=SimpleNamespace(node=NODE, endpoint="http://n"), lane=0))
    opening = asyncio.create_task(channels.open(cast(Session, Asking()), placed))
    await asyncio.sleep(0.05)
    await promise(credit, line(0), {B: 40})
    channels.lapse()
    gate.set()
    assert (await opening).promised == 40


async def test_a_lane_that_another_has_again_is_settled_there(world: LeaseWorld) -> None:
    credit, books = world.process(0), Books(Record(f"0x{JOB}", "0xA", 3), is_own=False)
    lanes = OwnLane()
    settle = settling(credit, VoucherSender(cast(Any, SlowNode())), books, lanes)
    await credit.hold(PAYER, SIGNER, "0c" * 32, 50, lane=5)
    await settle.recover(cast(Session, Asking()))
    await asyncio.sleep(0.3)
    asked, lanes.is_anothers = books.asked, True
    await asyncio.sleep(1.0)
    assert books.asked <= asked + 1
    assert not settle._taken_up.has(f"0x{JOB}", f"0x{JOB}:0xA")
    await settle.close()


async def test_an_adopted_lane_is_told_once_it_was_anothers(redis: Redis) -> None:
    told: list[int] = []
    first, second = (Lanes(redis, count=3, holder=name, lease_seconds=30.0, adopted=told.append) for name in ("a", "b"))
    await redis.flushdb()
    assert [await first.adopt(1), await first.adopt(1), await second.adopt(1)] == [True, True, False]
    assert told == [1]

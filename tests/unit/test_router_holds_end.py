"""When a job's hold ends: not before all is settled and promised that its nodes may be owed, at several nodes too."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from tests.fakes_world import DOMAIN
from tests.lease_world import PAYER, SIGNER, LeaseWorld, hold, line, promised, sell

from retally.errors import RemoteError, Unavailable
from retally.protocol.eip712 import SigningKey, keccak
from retally.protocol.voucher import ChannelId
from retally_router.channel_state import Act, ChannelAccount
from retally_router.credit import Credit
from retally_router.keys import Session
from retally_router.open_segments import OpenSegment
from retally_router.settle_jobs import SettleJobs
from retally_router.vouchers import VoucherSender, act_on

KEY = SigningKey(keccak(b"session"))
JOB = "0a" * 32


@pytest.fixture
def world(redis: Redis) -> LeaseWorld:
    return LeaseWorld(redis, balance=100)


@dataclass
class SlowNode:
    """Takes vouchers when told to."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def send_vouchers(self, endpoint: str, vouchers: list[Any]) -> None:
        await self.gate.wait()


@dataclass
class TwoNodes:
    """A dead router's log of one job that was hedged, and its channel."""

    account: ChannelAccount

    async def open_jobs(self, payer: str, signer: str) -> list[Any]:
        return [_Record(f"0x{JOB}", node) for node in ("0xA", "0xB")]

    async def open(self, session: Session, placed: Any) -> ChannelAccount:
        return self.account


@dataclass
class _Record:
    job_id: str
    node: str
    lane: int = 3

    @property
    def field(self) -> str:
        return f"{self.job_id}:{self.node}"

    def placed(self, domain: Any) -> Any:
        return self


@dataclass
class OwnLane:
    """Lane 5; it lapses when told to."""

    is_lapsed: bool = False

    async def held(self) -> int:
        if self.is_lapsed:
            raise Unavailable("this router holds no lane")
        return 5

    async def adopt(self, lane: int) -> bool:
        return True


class Settling(SettleJobs):
    """Whose second node is away for a while and then shows what it is owed."""

    shows: asyncio.Event
    sender: VoucherSender

    def _located(self, placed: Any, known: Any = None) -> Any:
        return placed

    async def _settle(self, placed: Any, account: ChannelAccount, record: Any) -> None:
        if record.node == "0xB":
            await self.shows.wait()
            account.owing, account.wanted = {bytes.fromhex(JOB): 70}, 90
            self.sender.pay(account)


def settling(credit: Credit, sender: VoucherSender, books: Any = None, lanes: Any = None) -> Settling:
    nothing = cast(Any, None)
    made = Settling(
        nothing,
        cast(Any, books),
        cast(Any, books),
        credit,
        sender,
        cast(Any, lanes),
        nothing,
        DOMAIN,
        find=lambda _: None,
        recover_seconds=30.0,
    )
    made.shows, made.sender = asyncio.Event(), sender
    return made


@dataclass
class Asking:
    """Who asks with the key of the dead router's job."""

    payer: Any = PAYER
    signer: Any = SIGNER
    signing_key: SigningKey = KEY


async def test_the_last_of_two_nodes_that_is_settled_frees_a_dead_routers_job(world: LeaseWorld) -> None:
    dead, credit = world.process(0), world.process(0)
    await dead.hold(PAYER, SIGNER, JOB, 100, lane=3)
    await dead.promise(line(3), 20, {JOB: 20})
    node = SlowNode()
    node.gate.set()
    sender = VoucherSender(cast(Any, node))
    account = ChannelAccount(line(3), KEY, DOMAIN, "http://n", credit.promise, promised=20, delivered=20)
    settle = settling(credit, sender, TwoNodes(account), OwnLane())
    await settle.recover(cast(Session, Asking()))
    await asyncio.sleep(0.1)
    assert await world.held() == 80
    settle.shows.set()
    assert await sender.drain(2.0)
    await asyncio.sleep(0.1)
    assert (await promised(world), await world.held()) == (90, 0)


@pytest.mark.parametrize("lease_jobs", [0, 8])
async def test_a_hold_outlasts_the_winners_last_promise_where_the_loser_is_settled_first(
    world: LeaseWorld, lease_jobs: int
) -> None:
    credit, node, gate = world.process(lease_jobs), SlowNode(), asyncio.Event()
    sender = VoucherSender(cast(Any, node))
    settle = settling(credit, sender)
    account = await begun(credit)

    async def late(channel: ChannelId, total: int, jobs: Mapping[str, int]) -> int:
        await gate.wait()
        return await credit.promise(channel, total, jobs)

    account.promise = late
    sender.pay(account)
    # The loser is settled while the winner's last promise is on its way.
    settle._start(f"open:0x{JOB}:0xB", asyncio.sleep(0.05))
    await settle.release(PAYER, JOB, account)
    await asyncio.sleep(0.2)
    assert (await promised(world), await world.held()) == (30, 70)
    gate.set()
    await asyncio.sleep(0.1)
    assert (await promised(world), await rest(world, credit)) == (80, 0)
    node.gate.set()
    assert await sender.drain(2.0)


@pytest.mark.parametrize("lease_jobs", [0, 8])
async def test_a_node_that_takes_no_voucher_keeps_nothing_beyond_what_is_promised(
    world: LeaseWorld, lease_jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retally_router.vouchers.FIRST_DELAY_SECONDS", 0.01)
    credit = world.process(lease_jobs)
    sender = VoucherSender(cast(Any, Refusing()))
    account = await begun(credit)
    sender.pay(account)
    await settling(credit, sender).release(PAYER, JOB, account)
    await asyncio.sleep(0.2)
    assert (account.delivered, await promised(world), await rest(world, credit)) == (0, 80, 0)
    await sell(world, 20)


@dataclass
class Refusing:
    """Takes no vouchers at all."""

    count: int = 0
    on_third: Callable[[], Awaitable[None]] | None = None

    async def send_vouchers(self, endpoint: str, vouchers: list[Any]) -> None:
        self.count += 1
        if self.count == 3 and self.on_third is not None:
            await self.on_third()
        raise RemoteError(400, "bad_request", "no")


async def begun(credit: Credit) -> ChannelAccount:
    """A channel that was promised 30 for the job, of 100 that it holds, and is owed 80."""
    await hold(credit, JOB, 100)
    account = ChannelAccount(line(0), KEY, DOMAIN, "http://n", credit.promise)
    key = (bytes.fromhex(JOB), 0, 0)
    account.admit({key: OpenSegment(0, 1_000_000, 100)})
    await account.voucher(30)
    account.note_due(31)
    account.open.count(key, 80)
    account.note_due(80)
    return account


async def rest(world: LeaseWorld, credit: Credit) -> int:
    """What is held once nobody uses a lease."""
    await credit.tidy()
    world.now += 2
    await credit.tidy()
    return await world.held()


async def test_a_past_that_was_not_read_is_read_again_by_the_next_job(world: LeaseWorld) -> None:
    credit, lanes = world.process(0), OwnLane(is_lapsed=True)
    account = ChannelAccount(line(3), KEY, DOMAIN, "http://n", credit.promise)
    sender = VoucherSender(cast(Any, SlowNode()))
    settle = settling(credit, sender, TwoNodes(account), lanes)
    await credit.hold(PAYER, SIGNER, "other", 1, lane=3)
    settle._recovered.add(SIGNER)
    with pytest.raises(Unavailable):
        await settle.recover(cast(Session, Asking()))
    lanes.is_lapsed = False
    assert await settle.recover(cast(Session, Asking())) == 5


async def test_what_fails_of_many_that_wait_is_done_once_and_in_full() -> None:
    done: list[str] = []
    gate = asyncio.Event()

    async def slow() -> None:
        await gate.wait()
        done.append("slow")

    async def quick() -> None:
        done.append("quick")

    acts: deque[tuple[int, Act]] = deque([(1, slow), (2, quick)])
    works = [asyncio.create_task(act_on(acts, 2)) for _ in range(2)]
    await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(*works)
    assert sorted(done) == ["quick", "slow"]
    assert not acts


@pytest.mark.parametrize("lease_jobs", [0, 8])
async def test_who_is_owed_while_a_node_refuses_others_is_asked_for_a_voucher(
    world: LeaseWorld, lease_jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retally_router.vouchers.FIRST_DELAY_SECONDS", 0.01)
    credit, node = world.process(lease_jobs), Refusing()
    sender = VoucherSender(cast(Any, node))
    other = ChannelAccount(line(1), KEY, DOMAIN, "http://n", credit.promise, wanted=1)
    account = await begun(credit)

    async def later() -> None:
        sender.pay(account)
        await settling(credit, sender).release(PAYER, JOB, account)

    node.on_third = later
    sender.pay(other)
    await asyncio.sleep(0.3)
    assert (node.count, await promised(world), await rest(world, credit)) == (6, 81, 0)


async def test_a_hold_ends_with_a_voucher_that_the_next_job_brought(world: LeaseWorld) -> None:
    credit = world.process(0)
    sender = VoucherSender(cast(Any, Refusing()))
    account = await begun(credit)
    account.once_promised.append((80, partial(credit.release, PAYER, JOB)))
    # The node has all that it is owed, by the submission of another job.
    await account.voucher(80)
    account.delivered = 80
    sender.pay(account)
    await asyncio.sleep(0.05)
    assert (await promised(world), await world.held()) == (80, 0)

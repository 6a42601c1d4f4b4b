"""What tests of holds that end stand on: nodes that take vouchers or don't, a dead router's log, a job to pay for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from retally.errors import RemoteError, Unavailable
from retally.protocol.eip712 import SigningKey, keccak
from retally.protocol.voucher import ChannelId
from retally_router.channel_state import ChannelAccount
from retally_router.credit import Credit
from retally_router.earmarks import Ask, Count, Earmark, Mark, Promised
from retally_router.keys import Session
from retally_router.open_segments import OpenSegment
from retally_router.settle_jobs import SettleJobs
from retally_router.vouchers import VoucherSender
from tests.books import Books
from tests.fakes_world import DOMAIN
from tests.lease_world import PAYER, SIGNER, LeaseWorld, hold, line

KEY = SigningKey(keccak(b"session"))
JOB = "0a" * 32


@dataclass
class SlowNode:
    """Takes vouchers when told to."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def send_vouchers(self, endpoint: str, vouchers: list[Any]) -> None:
        await self.gate.wait()


@dataclass
class TakingNode:
    """Takes every voucher."""

    taken: list[str] = field(default_factory=list)
    is_paid: asyncio.Event = field(default_factory=asyncio.Event)

    async def send_vouchers(self, endpoint: str, signed: list[dict[str, Any]]) -> None:
        self.taken += [each["voucher"]["cumulative"] for each in signed]
        self.is_paid.set()


@dataclass
class TwoNodes:
    """A dead router's log of one job that was hedged, and its channel."""

    account: ChannelAccount
    books: Books | None = None

    async def open_jobs(self, payer: str, signer: str) -> list[Any]:
        return [Record(f"0x{JOB}", node) for node in ("0xA", "0xB")]

    async def forget(self, record: Any) -> None:
        assert self.books is not None
        await self.books.forget(record.field)

    def take_up(self, record: Any) -> bool:
        return True

    def leave(self, record: Any) -> None:
        """It may be taken up again."""

    async def open(self, session: Session, placed: Any, *, past: Any) -> ChannelAccount:
        return self.account


@dataclass
class Record:
    job_id: str
    node: str
    lane: int = 3
    segments: tuple[tuple[int, int, int], ...] = ()
    request: Any = field(default_factory=lambda: SimpleNamespace(deadline=0))

    @property
    def field(self) -> str:
        return f"{self.job_id}:{self.node}"

    def placed(self, domain: Any) -> Any:
        return self


@dataclass
class OwnLane:
    """Lane 5; it lapses when told to, and all others are taken by somebody else when told so."""

    is_lapsed: bool = False
    is_anothers: bool = False

    async def held(self) -> int:
        if self.is_lapsed:
            raise Unavailable("this router holds no lane")
        return 5

    async def adopt(self, lane: int) -> bool:
        return not self.is_anothers


class Settling(SettleJobs):
    """Whose first node has nothing of a job, and whose second is away for a while and then shows what it is owed."""

    shows: asyncio.Event
    sender: VoucherSender

    def _located(self, placed: Any, known: Any = None) -> Any:
        return placed

    async def _settle(self, placed: Any, account: ChannelAccount, record: Any) -> None:
        if record.node == "0xB":
            await self.shows.wait()
            owe(account, JOB, 90, record.field)
            self.sender.pay(account)
            await self._until(partial(self.sender.once_promised, job_id=bytes.fromhex(JOB)), account, 10**9)
        else:
            await self._log.forget(record)


def settling(credit: Credit, sender: VoucherSender, books: Any = None, lanes: Any = None) -> Settling:
    nothing = cast(Any, None)
    made = Settling(
        nothing,
        cast(Any, books),
        cast(Any, books),
        credit,
        sender,
        cast(Any, lanes),
        cast(Any, StandingClock()),
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


@dataclass
class Plenty:
    """There is enough for one channel, whoever holds it."""

    total: int = 0
    marks: dict[str, int] = field(default_factory=dict)

    async def promise(self, channel: ChannelId, asks: Sequence[Ask], count: Count) -> Promised:
        before, self.total = self.total, max(self.total, count.total)
        for ask in asks:
            had = self.marks.get(ask.place, 0)
            self.marks[ask.place] = max(had, ask.total)
            self.total += self.marks[ask.place] - had
        return Promised(self.total, before, {ask.place: Mark(self.marks[ask.place]) for ask in asks})


def account_of(credit: Credit) -> ChannelAccount:
    """The channel's account in one router."""
    return ChannelAccount(line(0), KEY, DOMAIN, "http://n", credit.promise)


def receipt(start: int, to: int) -> Any:
    """A node's over so much of its line of money."""
    return SimpleNamespace(fee=to - start, cum_from=start, cum_to=to)


def owe(account: ChannelAccount, job: str, amount: int, place: str = "") -> None:
    """A node is owed so much more by a job's receipts; of the channel no other is open."""
    place = place or job
    mark = account.earmarks.setdefault(place, Earmark(place, bytes.fromhex(job), is_own=True))
    account.earmarks.bill(mark, amount)
    account.owing.setdefault(mark.job, {})[place] = mark
    account.tiling.close_to(account.tiling.closed + amount)
    account.claimed = account.tiling.closed


def bill(account: ChannelAccount, fee: int, start: int = 0, job: str = JOB) -> None:
    """A job's receipt is over so much."""
    account.close((bytes.fromhex(job), 0, 0), receipt(start, start + fee))


async def begun(credit: Credit) -> ChannelAccount:
    """A channel that was promised 30 for the job, of 100 that it holds, and is owed 80."""
    await hold(credit, JOB, 100)
    account = account_of(credit)
    key = (bytes.fromhex(JOB), 0, 0)
    account.admit({key: OpenSegment(0, 1_000_000, 100, JOB)})
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


class StandingClock:
    """A clock that stands still."""

    def now(self) -> int:
        return 0

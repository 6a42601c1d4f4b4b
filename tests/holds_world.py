"""What tests of holds that end stand on: nodes that take vouchers or don't, a dead router's log, a job to pay for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from retally.errors import RemoteError, Unavailable
from retally.protocol.eip712 import SigningKey, keccak
from retally_router.channel_state import ChannelAccount
from retally_router.credit import Credit
from retally_router.keys import Session
from retally_router.open_segments import OpenSegment
from retally_router.settle_jobs import SettleJobs
from retally_router.vouchers import VoucherSender
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

    async def open_jobs(self, payer: str, signer: str) -> list[Any]:
        return [Record(f"0x{JOB}", node) for node in ("0xA", "0xB")]

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
    """Whose second node is away for a while and then shows what it is owed."""

    shows: asyncio.Event
    sender: VoucherSender

    def _located(self, placed: Any, known: Any = None) -> Any:
        return placed

    async def _settle(self, placed: Any, account: ChannelAccount, record: Any) -> None:
        if record.node == "0xB":
            await self.shows.wait()
            account.owing, account.tiling.closed, account.claimed = {bytes.fromhex(JOB): 70}, 90, 90
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


class StandingClock:
    """A clock that stands still."""

    def now(self) -> int:
        return 0

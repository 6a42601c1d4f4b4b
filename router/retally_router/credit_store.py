"""The scripts of a payer's credit as calls: their keys, what goes in, what comes out.

Lua counts in doubles: amounts stay below 2^53, and what the chain reports beyond that is cut to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from retally.crash_points import crash_point
from retally.protocol.eip712 import Address
from retally.protocol.voucher import ChannelId
from retally_router.credit_answer import Answer, Want, covered_by
from retally_router.credit_keys import (
    channel_key_of,
    credit_key,
    earmarks_key,
    ended_key,
    forgotten_key,
    leases_key,
    open_key,
    wanted_key,
)
from retally_router.credit_scripts import HOLD, RELEASE, SHRINK, USED
from retally_router.earmark_scripts import PROMISE
from retally_router.earmarks import Ask, Count, Lacking, Mark, Promised
from retally_router.leases import HOLD_SECONDS, Lease
from retally_router.ports import Standing

LARGEST = 2**53 - 1


class CreditStore:
    """Redis, as credit sees it."""

    def __init__(self, redis: Any, clock: Callable[[], float]) -> None:
        self._redis = redis
        self._clock = clock

    async def hold(
        self,
        want: Want,
        standing: Standing,
        *,
        lease: Lease | None = None,
        block: int = 0,
        source: Lease | None = None,
        moved: int = 0,
    ) -> Answer:
        """Holds for the job alone, or grants its lease a block; alone, it takes so much with it out of its source."""
        name = "" if lease is None else lease.name
        payer, signer, now = want.payer, want.signer, int(self._clock())
        keys = credit_key(payer), leases_key(payer), wanted_key(payer), wanted_key(payer, signer)
        ended = ended_key(payer, want.job), ended_key(payer, name)
        ask = {
            "job": want.job,
            "signer": signer,
            "amount": min(want.amount, LARGEST),
            "balance": min(standing.balance, LARGEST),
            "used": min(standing.used, LARGEST),
            "cap": min(standing.cap, LARGEST),
            "block": standing.block,
            "now": now,
            "expiry": str(now + HOLD_SECONDS),
            "lane": str(want.lane),
            "lease": name,
            "most": min(block, LARGEST),
            "counted": 0 if lease is None else lease.counted,
            "source": "" if source is None else source.name,
            "moved": moved,
        }
        crash_point("before:hold")
        reason, left, *leases = await self._redis.eval(HOLD, 6, *keys, *ended, msgspec.json.encode(ask))
        crash_point("after:hold")
        names = [each.decode() for each in leases]
        open_leases = frozenset(zip(names[::2], names[1::2], strict=True))
        is_held = reason == b"ok"
        left, took = (0, int(left)) if is_held else (int(left), 0)
        return Answer(reason.decode(), left, open_leases, covered_by(standing), took)

    async def promise(
        self, channel: ChannelId, asks: Sequence[Ask], holds: Mapping[str, str], count: Count
    ) -> Promised | Lacking:
        """What is on record then, or which hold has too little for it, and nothing was done.

        By job, `holds` names what it comes out of. Of a job that is not named, say a dead router's, it comes out of
        what that holds, and beyond that out of nothing: its node has to be paid.
        """
        of_payer = (of(channel.payer) for of in (earmarks_key, open_key, forgotten_key))
        keys = channel_key_of(channel), credit_key(channel.payer), *of_payer
        args: list[str | int] = [channel.signer, count.total, count.used, count.wanted]
        for ask in asks:
            args += [ask.place, ask.total - ask.ahead, ask.total, ask.known, int(ask.is_own)]
            args += [holds.get(ask.job, ask.job), int(ask.job in holds)]
        crash_point("before:promise")
        state, before, after, hold, *flat = await self._redis.eval(PROMISE, 5, *keys, *args)
        crash_point("after:promise")
        numbers = [int(each) for each in flat]
        marks = [Mark(*numbers[at : at + 3]) for at in range(0, len(numbers), 3)]
        found = {ask.place: mark if mark.promised >= 0 else None for ask, mark in zip(asks, marks, strict=True)}
        return Promised(int(after), int(before), found) if state == 1 else Lacking(hold.decode(), found)

    async def release(self, payer: Address, name: str, *, in_doubt: bool, settled: Sequence[str] = ()) -> None:
        """Ends a hold; one in doubt ends too if it is heard only later.

        With the places at which its job was settled, it stays while that is open at any other.
        """
        keys = credit_key(payer), leases_key(payer), ended_key(payer, name), open_key(payer)
        crash_point("before:release")
        await self._redis.eval(RELEASE, 4, *keys, name, int(in_doubt), *settled)
        crash_point("after:release")

    async def shrink(self, lease: Lease, back: int, *, in_doubt: bool) -> bool:
        """Gives back so much of a lease; whether the store had that and what its jobs need.

        While no promise is on its way, all goes that its jobs don't need, whatever is counted here. In doubt, no block
        that is heard only later comes to it.
        """
        crash_point("before:shrink")
        keys = credit_key(lease.payer), leases_key(lease.payer), ended_key(lease.payer, lease.name)
        most = back if lease.flying else LARGEST
        args = lease.name, most, lease.taken, back + lease.taken, int(in_doubt)
        was_backed = await self._redis.eval(SHRINK, 3, *keys, *args)
        crash_point("after:shrink")
        return bool(was_backed)

    async def note_used(self, payer: Address, signer: Address, standing: Standing) -> bool:
        """What the chain has seen of the signer's promises; whether it was not seen too early to be counted."""
        crash_point("before:used")
        look = min(standing.used, LARGEST), standing.block, int(self._clock())
        is_counted = await self._redis.eval(USED, 1, credit_key(payer), signer, *look)
        crash_point("after:used")
        return bool(is_counted)

    async def fields(self, payer: Address, kind: str) -> list[tuple[str, str]]:
        """Names and values of one kind among the payer's numbers."""
        found = [(key.decode(), value.decode()) for key, value in (await self._all(payer)).items()]
        return [(key.partition(":")[2], value) for key, value in found if key.startswith(f"{kind}:")]

    async def is_wanted(self, owner: tuple[Address, Address]) -> bool:
        """Whether somebody was refused that payer's credit, or what that signer of it may spend, a moment ago."""
        marks: Sequence[Any] = await self._redis.mget(wanted_key(owner[0]), wanted_key(*owner))
        return any(mark is not None for mark in marks)

    async def _all(self, payer: Address) -> dict[bytes, bytes]:
        return dict(await self._redis.hgetall(credit_key(payer)))

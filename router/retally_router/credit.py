"""What a payer may still promise here: outstanding promises and holds against what the chain has for it.

All of a payer's numbers lie under one hash tag `{payer}`, so that one Lua script sees them at once, on a cluster too.
Lua counts in doubles: amounts stay below 2^53, and what the chain reports beyond that is cut to it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any

from retally.crash_points import crash_point
from retally.errors import CapExceeded, InsufficientFunds, SignerExpired
from retally.protocol.eip712 import Address
from retally.protocol.voucher import ChannelId
from retally_router.credit_scripts import HOLD, PROMISE, RELEASE, USED
from retally_router.ports import Standing

LARGEST = 2**53 - 1
HOLD_SECONDS = 3600
NO_JOBS: Mapping[str, int] = MappingProxyType({})


def credit_key(payer: Address) -> str:
    """Where a payer's promises and holds are counted."""
    return f"retally:{{{payer}}}:credit"


def channel_key_of(channel: ChannelId) -> str:
    """Where a channel's totals are kept."""
    return f"retally:{{{channel.payer}}}:channel:{channel.signer}:{channel.node}:{channel.lane}"


class Credit:
    """Holds an amount for each job in flight, counts promises, refuses what the chain does not cover."""

    def __init__(
        self,
        redis: Any,
        standing: Callable[[Address, Address, bool], Awaitable[Standing]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._standing = standing
        self._clock = clock

    async def hold(self, payer: Address, signer: Address, job: str, amount: int, *, lane: int = 0) -> None:
        """Sets the job's largest fee aside; raises with what is missing. The lane names the process that holds."""
        reason, left = await self._try(payer, signer, job, amount, lane, fresh=False)
        if reason != "ok":
            # Collections of the payer's other signers may only look outstanding: read the chain again, once.
            await self._refresh(payer)
            reason, left = await self._try(payer, signer, job, amount, lane, fresh=True)
        if reason == "cap":
            raise CapExceeded(amount, left)
        if reason == "funds":
            raise InsufficientFunds(amount, left)

    async def release(self, payer: Address, job: str) -> None:
        """Ends the hold of a job; what was promised for it stays counted."""
        crash_point("before:release")
        await self._redis.eval(RELEASE, 1, credit_key(payer), job)
        crash_point("after:release")

    async def holds(self, payer: Address, signer: Address) -> list[tuple[str, int]]:
        """The signer's jobs that hold something, each with the lane of the process that holds it."""
        found = []
        for field, value in (await self._redis.hgetall(credit_key(payer))).items():
            kind, _, job = field.decode().partition(":")
            if kind == "hold":
                _, holder, _, lane = value.decode().split("|")
                found += [(job, int(lane))] if holder == signer else []
        return found

    async def promise(self, channel: ChannelId, cumulative: int, jobs: Mapping[str, int] = NO_JOBS) -> int:
        """Records the highest total promised on a channel, and for which jobs; answers the highest so far."""
        if cumulative > LARGEST:
            raise CapExceeded(cumulative, LARGEST)
        keys = (channel_key_of(channel), credit_key(channel.payer))
        crash_point("before:promise")
        promised = int(
            await self._redis.eval(PROMISE, 2, *keys, cumulative, channel.signer, *chain.from_iterable(jobs.items()))
        )
        crash_point("after:promise")
        return promised

    async def _try(
        self, payer: Address, signer: Address, job: str, amount: int, lane: int, *, fresh: bool
    ) -> tuple[str, int]:
        standing = await self._standing(payer, signer, fresh)
        if not standing.authorised:
            raise SignerExpired(signer, standing.expiry)
        now = int(self._clock())
        numbers = [min(standing.balance, LARGEST), min(standing.used, LARGEST), min(standing.cap, LARGEST)]
        args = [job, min(amount, LARGEST), signer, *numbers, now, now + HOLD_SECONDS, lane]
        crash_point("before:hold")
        reason, left = await self._redis.eval(HOLD, 1, credit_key(payer), *args)
        crash_point("after:hold")
        return reason.decode(), int(left)

    async def _refresh(self, payer: Address) -> None:
        key = credit_key(payer)
        for field in await self._redis.hkeys(key):
            kind, _, signer = field.decode().partition(":")
            if kind == "promised":
                standing = await self._standing(payer, Address(signer), True)
                crash_point("before:used")
                await self._redis.eval(USED, 1, key, signer, min(standing.used, LARGEST))
                crash_point("after:used")

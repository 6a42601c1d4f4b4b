"""A channel's books in a real store, for jobs that are no more than a name: begun, billed, forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from retally.protocol.voucher import ChannelId
from retally_router.channel_state import ChannelAccount
from retally_router.credit_keys import channel_key_of, earmarks_key, forgotten_key, open_key
from retally_router.earmark_scripts import FORGET
from retally_router.tiling import ADD_RECEIPTS, Tiling


@dataclass
class Books:
    """What routers write down of the jobs of a channel."""

    redis: Any
    channel: ChannelId

    async def begin(self, place: str) -> None:
        await self.redis.hset(open_key(self.channel.payer), place, "{}")

    async def record(self, account: ChannelAccount, place: str, start: int, to: int) -> None:
        """A receipt is put on record, and what others put there is counted."""
        keys = channel_key_of(self.channel), earmarks_key(self.channel.payer)
        billed = (start, to, place) if to > start else ()
        found = await self.redis.eval(ADD_RECEIPTS, 2, *keys, account.tiling.closed, *billed)
        account.take_in(Tiling.of_reply(found))
        account.note_recorded([place])

    async def forget(self, place: str, *, is_others: bool = False) -> None:
        payer = self.channel.payer
        keys = channel_key_of(self.channel), earmarks_key(payer), open_key(payer), forgotten_key(payer)
        await self.redis.eval(FORGET, 4, *keys, place, int(is_others))

    async def line(self) -> tuple[int, int, int]:
        """What is promised, for open jobs beyond what they billed, and billed."""
        found = await self.redis.hmget(channel_key_of(self.channel), "promised", "kept", "billed")
        promised, kept, billed = (int(each or 0) for each in found)
        return promised, kept, billed

    async def is_empty(self) -> bool:
        """Whether nothing is open, and nothing for anybody but those that were sold to."""
        payer = self.channel.payer
        places = [each for key in (open_key(payer), earmarks_key(payer)) for each in await self.redis.hkeys(key)]
        return all(place.startswith(b"other") for place in places) and (await self.line())[1] == 0

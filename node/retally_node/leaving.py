"""Who may leave before the next settlement: a payer that thaws, a signer that runs out, a receipt that gets late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retally.protocol.encoding import Address
from retally.protocol.receipt import JobReceipt
from retally_node.channels import Channel
from retally_node.ledger import Ledger
from retally_node.ports import Payers, Standing

WATCH_SECONDS = 30
#: At most once in this time, or a quarter of the interval, is a payer collected from out of turn: it costs us gas.
PAUSE_SECONDS = 3600
#: Once more, however short the pause was, when so little is left.
LAST_CALL_SECONDS = 600
#: R-54: a receipt may be committed until so long after the deadline of its request.
LATE_SECONDS = 7 * 86_400
#: So much earlier it counts as late here: its transaction waits for gas to get cheaper, or for the chain.
LATE_MARGIN_SECONDS = 3600


def committable_until(deadline: int) -> int:
    """The last moment at which a receipt is put under a root (R-54)."""
    return deadline + LATE_SECONDS - LATE_MARGIN_SECONDS


def is_late(receipt: JobReceipt, ledger: Ledger, now: int) -> bool:
    """Whether a receipt is put under no root any more."""
    # Served before its deadline: most need no look at the request.
    if now <= committable_until(receipt.started_at):
        return False
    deadline = ledger.jobs.deadline(receipt.job_id)
    return deadline is None or now > committable_until(deadline)


def payable(channel: Channel) -> int:
    """How far a channel can be collected, by its best voucher and its receipts."""
    return min(channel.best, channel.last_cum)


_Pair = tuple[Address, Address]
_State = tuple[tuple[bytes, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Tried:
    """What of a payer and its signer was collected and collectable when they were last tried out of turn."""

    state: _State
    at: int


class Leavers:
    """Watches those who owe this node, and says when to collect from them out of turn."""

    def __init__(self, ledger: Ledger, payers: Payers, *, interval_seconds: int, expiry_seconds: int) -> None:
        self._ledger = ledger
        self._payers = payers
        self._pause_seconds = min(PAUSE_SECONDS, interval_seconds // 4)
        self._expiry_seconds = expiry_seconds
        self._watched_at = 0
        self._leaving: dict[_Pair, _State] = {}
        self._tried: dict[_Pair, _Tried] = {}
        self._paused_at: dict[Address, int] = {}

    async def any(self, channels: Sequence[Channel], now: int, next_settlement: int) -> bool:
        """Whether somebody who owes us may be gone before the next settlement, and was not tried just now."""
        if now - self._watched_at < WATCH_SECONDS:
            return False
        self._watched_at = now
        owing, owed = _owing(channels)
        self._tried = {pair: tried for pair, tried in self._tried.items() if pair in owing}
        self._paused_at = {payer: at for payer, at in self._paused_at.items() if now - at < self._pause_seconds}
        self._leaving = {}
        for pair, of_pair in owing.items():
            if await self._leaves(pair, of_pair, owed[pair[0]], now, next_settlement):
                self._leaving[pair] = _state(of_pair)
        return bool(self._leaving)

    def collected(self, now: int) -> None:
        """Those found leaving were collected from: remember it, for none is tried again for nothing."""
        for pair, state in self._leaving.items():
            self._tried[pair] = _Tried(state, now)
            self._paused_at[pair[0]] = now
        self._leaving = {}

    async def _leaves(
        self, pair: _Pair, channels: Sequence[Channel], owed_by_payer: int, now: int, next_settlement: int
    ) -> bool:
        tried = self._tried.get(pair)
        if tried is not None and tried.state == _state(channels):
            return False
        standing = await self._payers.standing(*pair)
        if standing.expiry is not None and now > standing.expiry:
            # The Escrow collects nothing for a signer that has expired: there is nothing to be early for.
            return False
        if pair[0] in self._paused_at:
            return _is_last_call(standing, tried, now)
        # What thaws may go; as long as the rest covers all that the payer owes us, it takes nothing of ours along.
        thaws = standing.thawing > 0 and owed_by_payer > standing.funds
        expires = standing.expiry is not None and standing.expiry - now < self._expiry_seconds
        return thaws or expires or self._gets_late(channels, now, next_settlement)

    def _gets_late(self, channels: Sequence[Channel], now: int, next_settlement: int) -> bool:
        deadlines = [self._ledger.jobs.oldest_deadline(channel.id.key, channel.collected) for channel in channels]
        return any(now <= committable_until(each) < next_settlement for each in deadlines if each is not None)


def _owing(channels: Sequence[Channel]) -> tuple[dict[_Pair, list[Channel]], dict[Address, int]]:
    """The channels that can be collected from by payer and signer, and what each payer owes on all of them."""
    owing: dict[_Pair, list[Channel]] = {}
    owed: dict[Address, int] = {}
    for channel in channels:
        if payable(channel) > channel.collected:
            owing.setdefault((channel.id.payer, channel.id.signer), []).append(channel)
            owed[channel.id.payer] = owed.get(channel.id.payer, 0) + payable(channel) - channel.collected
    return owing, owed


def _is_last_call(standing: Standing, tried: _Tried | None, now: int) -> bool:
    if standing.expiry is None:
        return False
    last_call = standing.expiry - LAST_CALL_SECONDS
    return now >= last_call and (tried is None or tried.at < last_call)


def _state(channels: Sequence[Channel]) -> _State:
    return tuple(sorted((bytes(channel.id.key), channel.collected, payable(channel)) for channel in channels))

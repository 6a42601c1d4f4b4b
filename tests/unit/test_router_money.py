"""Accounting of channels, credit of payers, API keys."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.fakes_world import DOMAIN, NOW
from tests.holds_world import Plenty

from retally.errors import CapExceeded, InsufficientFunds, InvalidReceipt, SignerExpired, Unauthorized
from retally.protocol.eip712 import Address, SigningKey, check_signed_by, keccak
from retally.protocol.merkle import EMPTY_ROOT
from retally.protocol.receipt import JobReceipt
from retally.protocol.voucher import ChannelId, SignerAuth
from retally_router.channel_state import ChannelAccount
from retally_router.credit import Credit
from retally_router.earmarks import Ask, Count, Promised
from retally_router.keys import Keys
from retally_router.open_segments import OpenSegment
from retally_router.ports import Standing

PAYER, SESSION, NODE = (SigningKey(keccak(name)) for name in (b"payer", b"session", b"node"))
CHANNEL = ChannelId(PAYER.address, SESSION.address, NODE.address, 4)
JOB, OTHER = keccak(b"job"), keccak(b"other")


def receipt(start: int, to: int, job: bytes = JOB) -> JobReceipt:
    values: dict[str, Any] = dict.fromkeys(("choice", "prompt_tokens", "cached_tokens", "output_from", "started_at"), 0)
    roots: dict[str, Any] = dict.fromkeys(("prompt_root", "prefix_root", "output_root"), EMPTY_ROOT)
    hashes: dict[str, Any] = dict.fromkeys(
        ("model_id", "profile_id", "offer_hash", "params_hash", "seed"), keccak(b"x")
    )
    return JobReceipt(
        job_id=job,
        payer=PAYER.address,
        signer=SESSION.address,
        node=NODE.address,
        lane=4,
        cum_from=start,
        cum_to=to,
        output_to=1,
        finish_reason=0,
        finished_at=0,
        **values,
        **roots,
        **hashes,
    )


def segment(prompt: int = 100, output: int = 0, place: str = "job") -> OpenSegment:
    """Prices of one unit a token: sums are easy to read."""
    return OpenSegment(prompt * 1_000_000, 1_000_000, 1000, place, output)


def account() -> ChannelAccount:
    return ChannelAccount(CHANNEL, SESSION, DOMAIN, "http://node", Plenty().promise)


class TestChannelAccount:
    def test_prepays_closed_receipts_and_full_input(self) -> None:
        line = account()
        assert line.admit({(JOB, 0, 0): segment(100)}) == 100

    async def test_what_was_refused_is_not_in_the_next_voucher(self) -> None:
        refused, plenty = [InsufficientFunds(100, 0)], Plenty()

        async def promise(channel: ChannelId, asks: Sequence[Ask], count: Count) -> Promised:
            if refused:
                raise refused.pop()
            return await plenty.promise(channel, asks, count)

        line = ChannelAccount(CHANNEL, SESSION, DOMAIN, "http://node", promise)
        line.admit({(JOB, 0, 0): segment(100)})
        with pytest.raises(InsufficientFunds):
            await line.voucher(110)
        assert (await line.voucher(105))[0].cumulative == 105

    def test_never_promises_less_than_before(self) -> None:
        line = account()
        line.promised = 500
        assert line.admit({(JOB, 0, 0): segment(100)}) == 500

    def test_leaves_room_for_tokens_not_yet_seen_on_other_streams(self) -> None:
        line = account()
        line.admit({(JOB, 0, 0): segment(100)})
        assert line.admit({(OTHER, 0, 0): segment(50, place="other")}) > 150 + 64

    def test_takes_a_due_that_its_own_count_bears_out(self) -> None:
        line = account()
        line.admit({(JOB, 0, 0): segment(100, output=16)})
        assert line.note_due(116)
        assert line.wanted == 116

    def test_pays_a_due_beyond_its_count_only_as_far_as_it_counted(self) -> None:
        line = account()
        line.admit({(JOB, 0, 0): segment(100, output=16)})
        assert not line.note_due(5000)
        assert line.wanted == 116 + 65

    def test_receipts_of_parallel_streams_may_come_out_of_order(self) -> None:
        line = account()
        line.admit({(JOB, 0, 0): segment(100, 50), (OTHER, 0, 0): segment(100, 50, "other")})
        line.close((OTHER, 0, 0), receipt(150, 300, OTHER))
        assert (line.tiling.closed, line.tiling.beyond) == (0, {150: 300})
        line.close((JOB, 0, 0), receipt(0, 150))
        assert (line.tiling.closed, line.tiling.beyond, line.wanted) == (300, {}, 300)

    @pytest.mark.parametrize(("start", "to"), [(0, 10), (90, 120)])
    def test_refuses_a_receipt_that_overlaps(self, start: int, to: int) -> None:
        line = account()
        line.tiling.closed = 100
        line.admit({(JOB, 0, 0): segment(100, 50)})
        with pytest.raises(InvalidReceipt, match="R-20"):
            line.close((JOB, 0, 0), receipt(start, to))

    def test_refuses_a_receipt_that_no_open_segment_can_cost(self) -> None:
        line = account()
        line.admit({(JOB, 0, 0): segment(100)})
        with pytest.raises(InvalidReceipt, match="R-21"):
            line.close((JOB, 0, 0), receipt(0, 1101))

    def test_same_receipt_twice_counts_once(self) -> None:
        line = account()
        line.admit({(JOB, 0, 0): segment(100, 50)})
        line.close((JOB, 0, 0), receipt(0, 150))
        line.close((JOB, 0, 0), receipt(0, 150))
        assert (line.tiling.closed, line.earmarks["job"].owes) == (150, 150)

    @pytest.mark.parametrize(("closed", "pending"), [(150, {}), (200, {}), (0, {100: 150})])
    def test_a_receipt_counted_before_a_crash_counts_once(self, closed: int, pending: dict[int, int]) -> None:
        line = account()
        line.tiling.closed, line.tiling.beyond = closed, dict(pending)
        line.reopen({(JOB, 0, 0): segment(100, 50)})
        line.close((JOB, 0, 0), receipt(100, 150))
        assert (line.tiling.closed, line.tiling.beyond, line.open) == (closed, pending, {})

    def test_a_reopened_segment_may_not_overlap_what_was_counted(self) -> None:
        line = account()
        line.tiling.closed = 120
        line.reopen({(JOB, 0, 0): segment(100, 50)})
        with pytest.raises(InvalidReceipt, match="R-20"):
            line.close((JOB, 0, 0), receipt(100, 150))

    async def test_signs_for_its_own_channel(self) -> None:
        line = account()
        line.admit({(JOB, 0, 0): segment(100)})
        voucher, signature = await line.voucher(77)
        assert (voucher.channel, voucher.cumulative) == (CHANNEL, 77)
        check_signed_by(voucher.digest(DOMAIN), signature, SESSION.address)


class Chain:
    """Standings by signer."""

    def __init__(self) -> None:
        self.standings: dict[Address, Standing] = {}

    async def standing(self, payer: Address, signer: Address, fresh: bool) -> Standing:
        return self.standings[signer]


class TestCredit:
    @pytest.fixture
    def chain(self) -> Chain:
        chain = Chain()
        chain.standings[SESSION.address] = Standing(balance=1000, used=0, cap=800, expiry=NOW)
        return chain

    @pytest.fixture
    def credit(self, redis: Redis, chain: Chain) -> Credit:
        return Credit(redis, chain.standing)

    async def test_holds_add_up_to_the_cap(self, credit: Credit) -> None:
        await credit.hold(PAYER.address, SESSION.address, "a", 500)
        with pytest.raises(CapExceeded) as caught:
            await credit.hold(PAYER.address, SESSION.address, "b", 400)
        assert caught.value.left == 300
        await credit.release(PAYER.address, "a")
        await credit.hold(PAYER.address, SESSION.address, "b", 400)

    async def test_same_job_is_held_once(self, credit: Credit) -> None:
        for _ in range(3):
            await credit.hold(PAYER.address, SESSION.address, "a", 500)

    async def test_promises_count_until_collected(self, credit: Credit, chain: Chain) -> None:
        chain.standings[SESSION.address] = Standing(balance=1000, used=0, cap=10**6, expiry=NOW)
        await credit.promise(CHANNEL, count=Count(900))
        with pytest.raises(InsufficientFunds) as caught:
            await credit.hold(PAYER.address, SESSION.address, "a", 200)
        assert caught.value.available == 100
        chain.standings[SESSION.address] = Standing(balance=300, used=700, cap=10**6, expiry=NOW)
        with pytest.raises(InsufficientFunds):
            await credit.hold(PAYER.address, SESSION.address, "a", 200)
        chain.standings[SESSION.address] = Standing(balance=300, used=900, cap=10**6, expiry=NOW)
        await credit.hold(PAYER.address, SESSION.address, "a", 200)

    async def test_signers_of_one_payer_share_its_deposit(self, credit: Credit, chain: Chain) -> None:
        other = SigningKey(keccak(b"second")).address
        chain.standings[other] = Standing(balance=1000, used=0, cap=10**6, expiry=NOW)
        await credit.promise(CHANNEL, count=Count(700))
        with pytest.raises(InsufficientFunds):
            await credit.hold(PAYER.address, other, "a", 400)
        # The first signer's promise was collected meanwhile: seen when the refusal makes us look again.
        chain.standings[SESSION.address] = Standing(balance=1000, used=700, cap=800, expiry=NOW)
        await credit.hold(PAYER.address, other, "a", 400)

    async def test_promises_only_grow(self, credit: Credit) -> None:
        for total in (50, 20):
            assert (await credit.promise(CHANNEL, count=Count(total))).total == 50

    async def test_unauthorised_signer(self, credit: Credit, chain: Chain) -> None:
        chain.standings[SESSION.address] = Standing(1000, 0, 0, 0)
        with pytest.raises(SignerExpired):
            await credit.hold(PAYER.address, SESSION.address, "a", 1)

    async def test_concurrent_holds_never_exceed_the_deposit(self, credit: Credit, chain: Chain) -> None:
        chain.standings[SESSION.address] = Standing(balance=1000, used=0, cap=10**6, expiry=NOW)
        jobs = [credit.hold(PAYER.address, SESSION.address, str(n), 100) for n in range(30)]
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)
        assert sum(outcome is None for outcome in outcomes) == 10


class TestKeys:
    @pytest.fixture
    def keys(self, redis: Redis) -> Keys:
        return Keys(redis, DOMAIN)

    async def test_opens_to_the_authorised_signer(self, keys: Keys) -> None:
        made = await keys.create(PAYER.address, 5, NOW + 9, NOW + 5, NOW)
        session = await keys.open(made["apiKey"])
        assert (session.payer, session.signer) == (PAYER.address, made["signer"])
        auth = SignerAuth(PAYER.address, session.signer, 5, NOW + 9, NOW + 5)
        check_signed_by(auth.digest(DOMAIN), bytes.fromhex(made["proof"][2:]), session.signer)

    async def test_store_holds_neither_key_nor_secret(self, keys: Keys, redis: Redis) -> None:
        made = await keys.create(PAYER.address, 5, NOW + 9, NOW + 5, NOW)
        secret = (await keys.open(made["apiKey"])).signing_key.secret
        stored = await redis.get(f"retally:key:{made['keyId']}")
        assert stored is not None
        assert secret not in stored
        assert made["apiKey"].split("-", 2)[2].encode() not in stored

    async def test_record_moved_to_another_payer_does_not_open(self, keys: Keys, redis: Redis) -> None:
        made = await keys.create(PAYER.address, 5, NOW + 9, NOW + 5, NOW)
        name = f"retally:key:{made['keyId']}"
        stored = await redis.get(name)
        assert stored is not None
        await redis.set(name, stored.replace(PAYER.address.encode(), NODE.address.encode()))
        with pytest.raises(Unauthorized):
            await keys.open(made["apiKey"])

    async def test_revoked_by_another_replica_within_seconds(self, keys: Keys, redis: Redis) -> None:
        made = await keys.create(PAYER.address, 5, NOW + 9, NOW + 5, NOW)
        await keys.open(made["apiKey"])
        await Keys(redis, DOMAIN).revoke(made["keyId"], PAYER.address)
        await asyncio.sleep(2.1)
        with pytest.raises(Unauthorized):
            await keys.open(made["apiKey"])

"""The wallet's books: nothing is promised twice, whatever dies and in whatever order receipts arrive."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes_market import DOMAIN

from retally.errors import BadRequest, InvalidReceipt, NotFound, SpendingLimitExceeded, Unauthorized
from retally.keystore import Keystore
from retally.money_line import MoneyLine
from retally.protocol.eip712 import SigningKey, check_signed_by
from retally.protocol.encoding import Address, Bytes32, keccak
from retally.protocol.receipt import JobReceipt
from retally.spending import DailySpending, SpendingGuard
from retally.wallet import Wallet

KEY = SigningKey(keccak(b"payer"))
NODE = SigningKey(keccak(b"node")).address


def job(number: int) -> Bytes32:
    return keccak(number.to_bytes(4, "big"))


def receipt(wallet_lane: int, number: int, cum_from: int, cum_to: int) -> JobReceipt:
    zero = Bytes32(bytes(32))
    return JobReceipt(
        job(number), 0, KEY.address, KEY.address, NODE, wallet_lane, cum_from, cum_to,
        zero, zero, zero, zero, 1, 0, zero, 0, 1, zero, zero, zero, 0, 0, 0,
    )  # fmt: skip


class TestLanes:
    def test_two_wallets_at_once_never_share_a_lane(self, tmp_path: Path) -> None:
        first, second = Wallet(KEY, DOMAIN, tmp_path), Wallet(KEY, DOMAIN, tmp_path)
        assert first.lane != second.lane

    def test_a_lane_is_taken_up_again_with_its_promises(self, tmp_path: Path) -> None:
        first = Wallet(KEY, DOMAIN, tmp_path)
        first.begin(NODE, job(1), prepaid=[100], most=[500], deadline=9)
        lane = first.lane
        first.close()
        second = Wallet(KEY, DOMAIN, tmp_path)
        assert second.lane == lane
        assert second.line(NODE).promised == 100
        assert [stale.job_id for stale in second.stale()] == ["0x" + job(1).hex()]

    def test_other_deployments_have_lanes_of_their_own(self, tmp_path: Path) -> None:
        first = Wallet(KEY, DOMAIN, tmp_path)
        first.begin(NODE, job(1), prepaid=[100], most=[500], deadline=9)
        first.close()
        assert Wallet(KEY, replace(DOMAIN, chain_id=8453), tmp_path).line(NODE).promised == 0

    def test_every_promise_survives_kill_9(self, tmp_path: Path) -> None:
        # The child promises as fast as it can and prints each voucher after signing it.
        code = (
            "import sys\nfrom pathlib import Path\nfrom retally.wallet import Wallet\n"
            "from tests.unit.test_wallet import KEY, NODE, DOMAIN, job\n"
            "wallet = Wallet(KEY, DOMAIN, Path(sys.argv[1]))\n"
            "for n in range(10**6):\n"
            "    voucher = wallet.begin(NODE, job(n), prepaid=[7], most=[9], deadline=9).voucher\n"
            "    print(voucher.lane, voucher.cumulative, flush=True)\n"
        )
        child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        seen = [child.stdout.readline() for _ in range(20)]
        os.kill(child.pid, signal.SIGKILL)
        seen += child.stdout.readlines()
        child.wait()
        child.stdout.close()
        lane, promised = (int(part) for part in [line for line in seen if line.endswith("\n")][-1].split())
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        assert wallet.lane == lane
        assert wallet.line(NODE).promised >= promised


class TestVouchers:
    def test_are_signed_and_cumulative(self, tmp_path: Path) -> None:
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        first = wallet.begin(NODE, job(1), prepaid=[100], most=[500], deadline=9)
        second = wallet.begin(NODE, job(2), prepaid=[50], most=[500], deadline=9)
        check_signed_by(second.voucher.digest(DOMAIN), second.signature, KEY.address)
        assert (first.voucher.cumulative, second.voucher.cumulative) == (100, 150)

    def test_none_where_enough_is_promised(self, tmp_path: Path) -> None:
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        wallet.begin(NODE, job(1), prepaid=[100], most=[500], deadline=9)
        assert wallet.owe(NODE, job(1), 0, 90) is None
        voucher = wallet.owe(NODE, job(1), 0, 130)
        assert voucher is not None
        assert voucher.voucher.cumulative == 130

    def test_never_beyond_the_most_that_was_agreed(self, tmp_path: Path) -> None:
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        wallet.begin(NODE, job(1), prepaid=[100], most=[500], deadline=9)
        voucher = wallet.owe(NODE, job(1), 0, 10_000)
        assert voucher is not None
        assert voucher.voucher.cumulative == 500

    def test_a_refused_job_prepays_the_next(self, tmp_path: Path) -> None:
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        wallet.begin(NODE, job(1), prepaid=[100], most=[500], deadline=9)
        wallet.abandon(NODE, job(1), 1)
        assert wallet.begin(NODE, job(2), prepaid=[80], most=[500], deadline=9).voucher.cumulative == 100

    def test_receipts_that_arrive_in_another_order_are_not_paid_twice(self, tmp_path: Path) -> None:
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        wallet.begin(NODE, job(1), prepaid=[100], most=[500], deadline=9)
        wallet.begin(NODE, job(2), prepaid=[100], most=[500], deadline=9)
        assert wallet.settle(receipt(wallet.lane, 2, 100, 180)) is None
        assert wallet.line(NODE).needed == 180
        assert wallet.settle(receipt(wallet.lane, 1, 0, 100)) is None
        assert (wallet.line(NODE).closed, wallet.line(NODE).needed) == (180, 180)

    def test_refuses_a_gap_that_nothing_explains(self, tmp_path: Path) -> None:
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        wallet.begin(NODE, job(1), prepaid=[100], most=[500], deadline=9)
        with pytest.raises(InvalidReceipt, match="gap"):
            wallet.settle(receipt(wallet.lane, 1, 50, 100))

    def test_refuses_money_billed_before(self, tmp_path: Path) -> None:
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        wallet.begin(NODE, job(1), prepaid=[100], most=[500], deadline=9)
        wallet.begin(NODE, job(2), prepaid=[100], most=[500], deadline=9)
        wallet.settle(receipt(wallet.lane, 1, 0, 100))
        with pytest.raises(InvalidReceipt, match="R-20"):
            wallet.settle(receipt(wallet.lane, 2, 50, 120))

    def test_refuses_another_lane_s_receipt(self, tmp_path: Path) -> None:
        wallet = Wallet(KEY, DOMAIN, tmp_path)
        with pytest.raises(InvalidReceipt):
            wallet.settle(receipt((wallet.lane + 1) % 2**32, 1, 0, 1))


class TestMoneyLine:
    @given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.randoms(use_true_random=False))
    def test_any_order_of_arrival_closes_the_same_line(self, fees: list[int], order: object) -> None:
        line, start, receipts = MoneyLine(), 0, []
        for number, fee in enumerate(fees):
            line.begin(str(number), owed=fee, most=fee, deadline=0)
            receipts.append((str(number), receipt(0, number, start, start + fee)))
            start += fee
        order.shuffle(receipts)  # type: ignore[attr-defined]  # hypothesis hands out a random.Random
        for name, closing in receipts:
            assert line.needed == start
            line.close(name, closing)
        assert (line.closed, line.needed, line.detached, line.open) == (start, start, {}, {})

    def test_a_gap_that_never_fills_does_not_make_it_grow(self) -> None:
        line = MoneyLine()
        line.begin("lost", owed=5, most=5, deadline=0)
        for number in range(9):
            line.begin(str(number), owed=3, most=3, deadline=0)
            line.close(str(number), receipt(0, number, 5 + 3 * number, 8 + 3 * number))
        assert (line.closed, line.detached) == (0, {5: 32})
        line.close("lost", receipt(0, 99, 0, 5))
        assert (line.closed, line.detached) == (32, {})

    def test_a_refused_receipt_explains_a_gap(self) -> None:
        line = MoneyLine()
        line.begin("0", owed=5, most=50, deadline=0)
        line.cap("0", 10)
        with pytest.raises(InvalidReceipt, match="above the most"):
            line.close("0", receipt(0, 0, 0, 30))
        line.refuse("0")
        line.begin("1", owed=5, most=5, deadline=0)
        line.close("1", receipt(0, 1, 30, 35))
        assert (line.needed, line.at_most, line.open) == (5, 5, {})

    def test_is_the_same_after_json(self) -> None:
        line = MoneyLine(promised=9, closed=4, detached={6: 8}, refused=3)
        line.begin("a", owed=1, most=2, deadline=3)
        assert MoneyLine.from_json(line.to_json()) == line


class TestKeystore:
    def test_stores_privately_and_unlocks(self, tmp_path: Path) -> None:
        keystore = Keystore(tmp_path / "keys", iterations=2)
        stored = keystore.add(KEY, "secret")
        assert stat.S_IMODE(stored.path.stat().st_mode) == 0o600
        assert keystore.unlock("secret").address == KEY.address
        assert KEY.secret.hex() not in stored.path.read_text()

    def test_refuses_a_wrong_password(self, tmp_path: Path) -> None:
        keystore = Keystore(tmp_path, iterations=2)
        keystore.add(KEY, "secret")
        with pytest.raises(Unauthorized, match="password"):
            keystore.unlock("guess")

    def test_asks_which_key_where_there_are_several(self, tmp_path: Path) -> None:
        keystore = Keystore(tmp_path, iterations=2)
        keystore.add(KEY, "a")
        keystore.add(SigningKey.generate(), "b")
        with pytest.raises(BadRequest, match="several"):
            keystore.find()
        assert keystore.find(KEY.address.lower()).address == KEY.address

    def test_says_where_no_key_is(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="no key"):
            Keystore(tmp_path).find()

    def test_refuses_what_is_no_key_file(self, tmp_path: Path) -> None:
        (tmp_path / "UTC--x--y").write_text("{}")
        with pytest.raises(BadRequest, match="not a key file"):
            Keystore(tmp_path).list()


class TestSpending:
    def test_holds_then_books_what_it_cost(self, tmp_path: Path) -> None:
        daily = DailySpending(tmp_path / "s.sqlite")
        guard = SpendingGuard("payer", limit=100, daily_limit=150, daily=daily)
        hold = guard.hold(80)
        with pytest.raises(SpendingLimitExceeded):
            guard.hold(30)
        guard.settle(hold, 10)
        assert (guard.used, daily.spent("payer")) == (10, 10)

    def test_a_day_s_limit_is_shared_by_processes_and_outlives_them(self, tmp_path: Path) -> None:
        path = tmp_path / "s.sqlite"
        SpendingGuard("payer", daily_limit=100, daily=DailySpending(path)).hold(90)
        with pytest.raises(SpendingLimitExceeded) as refused:
            SpendingGuard("payer", daily_limit=100, daily=DailySpending(path)).hold(20)
        assert refused.value.spent == 90

    def test_a_new_day_starts_from_nothing(self, tmp_path: Path) -> None:
        now = [0.0]
        daily = DailySpending(tmp_path / "s.sqlite", wall_clock=lambda: now[0])
        guard = SpendingGuard("payer", daily_limit=100, daily=daily)
        hold = guard.hold(100)
        now[0] = 86_400.0
        guard.hold(100)
        guard.settle(hold, 5)
        assert (daily.spent("payer", "1970-01-01"), daily.spent("payer")) == (5, 100)

    def test_what_a_node_keeps_counts_until_its_job_s_deadline(self, tmp_path: Path) -> None:
        now, daily = [0.0], DailySpending(tmp_path / "s.sqlite")
        guard = SpendingGuard("payer", limit=100, daily_limit=100, daily=daily, clock=lambda: now[0])
        guard.lose(guard.hold(80, NODE), job="a", growth=80, surplus=80, seconds=600)
        assert (guard.used, daily.spent("payer")) == (80, 80)
        with pytest.raises(SpendingLimitExceeded):
            guard.hold(30, "another node")
        assert daily.spent("payer") == 80
        now[0] = 600.0
        guard.hold(100, "another node")
        assert (guard.used, daily.spent("payer")) == (100, 100)

    def test_what_a_node_keeps_pays_for_its_next_job(self, tmp_path: Path) -> None:
        daily = DailySpending(tmp_path / "s.sqlite")
        guard = SpendingGuard("payer", limit=100, daily_limit=100, daily=daily)
        guard.lose(guard.hold(80, NODE), job="a", growth=80, surplus=80, seconds=600)
        hold = guard.hold(100, NODE)
        assert (guard.used, daily.spent("payer")) == (100, 100)
        guard.lose(hold, job="b", growth=10, surplus=90, seconds=600)
        assert (guard.used, daily.spent("payer")) == (90, 90)

    def test_late_receipts_replace_what_was_thought(self) -> None:
        guard = SpendingGuard("payer")
        guard.settle(guard.hold(80, NODE), 50, unproven="a")
        guard.add_cost("a", 20)
        guard.add_cost("a", 5)
        guard.add_cost("of an earlier life", 7)
        assert guard.used == 25

    def test_a_daily_limit_needs_a_file(self) -> None:
        with pytest.raises(ValueError, match="file"):
            SpendingGuard("payer", daily_limit=1)


def test_addresses_are_checksummed(tmp_path: Path) -> None:
    assert Wallet(KEY, DOMAIN, tmp_path).payer == Address(KEY.address)

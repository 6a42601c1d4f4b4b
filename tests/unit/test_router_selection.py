"""Which node gets a job."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from tests.fakes_router import FakeNode
from tests.fakes_world import DOMAIN, MODEL

from retally.errors import ContextExceeded, NodeUnavailable, PriceAboveMax, UnknownModel
from retally.protocol.eip712 import Bytes32
from retally.protocol.pricing import Prices
from retally_router.directory import Listed
from retally_router.observed import Expectation, Watch
from retally_router.selection import Need, Selection
from retally_router.wishes import Wishes


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def listed(name: str, *, stake: int = 10**9, price: int = 2_000_000) -> Listed:
    node = FakeNode(name, price_in=price, price_out=3 * price)
    offer = node.offer
    return Listed(
        node=node.address,
        owner=node.owner,
        endpoint="http://node",
        model=MODEL,
        model_id=offer.model_id,
        profile_id=offer.profile_id,
        offer=offer,
        offer_signature=b"",
        offer_hash=offer.digest(DOMAIN),
        stake=stake,
        free_exposure=10**9,
        audited=True,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> Watch:
    return Watch(breaker_failures=2, breaker_seconds=10, clock=clock)


@pytest.fixture
def selection(watch: Watch) -> Selection:
    return Selection(watch, value_of_second=300, random=Random(1))


def need(**changes: object) -> Need:
    wishes = Wishes(**changes)  # type: ignore[arg-type]  # any of its fields
    return Need(MODEL, 60, 128, 1, wishes)


def fail(watch: Watch, node: Listed) -> None:
    visit = watch.visit(node.node)
    visit.failed()
    visit.end()


def finish(
    watch: Watch, clock: Clock, node: Listed, expected: Expectation, *, first_seconds: float, seconds: float
) -> None:
    """A job of 101 tokens that took so long there."""
    visit = watch.visit(node.node, expected)
    clock.time += first_seconds
    visit.first_token()
    clock.time += seconds
    visit.succeeded(101)
    visit.end()


class TestFilters:
    def test_unknown_model(self, selection: Selection) -> None:
        with pytest.raises(UnknownModel):
            selection.choose([listed("a")], replace(need(), model="other"))

    def test_model_by_its_id(self, selection: Selection) -> None:
        node = listed("a")
        assert selection.choose([node], replace(need(), model=node.model_hex)) == [node]

    def test_price_above_max_names_the_cheapest(self, selection: Selection) -> None:
        with pytest.raises(PriceAboveMax) as caught:
            selection.choose([listed("a"), listed("b", price=10**7)], need(max_prices=Prices(10**9, 10**9, 5)))
        assert caught.value.price == 6_000_000

    def test_context(self, selection: Selection) -> None:
        with pytest.raises(ContextExceeded):
            selection.choose([listed("a")], replace(need(), prompt_tokens=10**6))

    @pytest.mark.parametrize("change", [{"audited": False}, {"free_exposure": 3}, {"alive": False}])
    def test_unfit_node(self, selection: Selection, change: dict[str, int]) -> None:
        unfit, fit = replace(listed("a"), **change), listed("b")  # type: ignore[arg-type]  # any of its fields
        assert selection.choose([unfit, fit], need()) == [fit]
        with pytest.raises(NodeUnavailable):
            selection.choose([unfit], need())

    def test_wishes(self, selection: Selection) -> None:
        a, b = listed("a"), listed("b")
        assert selection.choose([a, b], need(only=(b.node.lower(),))) == [b]
        assert selection.choose([a, b], need(ignore=(b.node.lower(),))) == [a]
        assert selection.choose([a, b], need(order=(b.node.lower(),), allow_fallbacks=False)) == [b]
        assert selection.choose([a, b], need(order=(b.node.lower(),)))[0] == b

    def test_cheat_and_open_breaker(self, selection: Selection, watch: Watch, clock: Clock) -> None:
        a, b, c = listed("a"), listed("b"), listed("c")
        watch.visit(a.node).cheated("a wrong fee")
        for _ in range(2):
            fail(watch, b)
        assert selection.choose([a, b, c], need()) == [c]
        clock.time += 11.5
        assert set(selection.choose([a, b, c], need())) == {b, c}


class TestOrder:
    def test_cheaper_first(self, selection: Selection) -> None:
        dear, cheap = listed("a", price=4_000_000), listed("b")
        assert selection.choose([dear, cheap], need()) == [cheap, dear]

    def test_slow_node_loses_its_price_advantage(self, selection: Selection, watch: Watch, clock: Clock) -> None:
        slow, quick = listed("a", price=1_900_000), listed("b")
        for _ in range(30):
            expected = selection.plan([slow], need()).expected[slow.node]
            finish(watch, clock, slow, expected, first_seconds=1.0, seconds=100.0)
        assert selection.choose([slow, quick], need())[0] == quick
        assert selection.choose([slow, quick], need(sort="price"))[0] == slow

    def test_near_ties_are_drawn_by_stake(self, selection: Selection) -> None:
        small, large = listed("a"), listed("b", stake=3 * 10**9)
        drawn = Counter(selection.choose([small, large], need())[0].node for _ in range(2000))
        assert 2.4 < drawn[large.node] / drawn[small.node] < 3.7

    def test_stake_buys_nothing_at_a_worse_price(self, selection: Selection) -> None:
        rich, cheap = listed("a", stake=10**15, price=4_000_000), listed("b")
        assert all(selection.choose([rich, cheap], need())[0] == cheap for _ in range(50))

    def test_burst_spreads(self, selection: Selection, watch: Watch) -> None:
        nodes = [listed(name) for name in "abcd"]
        for _ in range(24):
            plan = selection.plan(nodes, need())
            first = plan.candidates[0].node
            watch.visit(first, plan.expected[first])
        assert all(watch.of(node.node).in_flight >= 3 for node in nodes)


class TestAgain:
    """Who may go on with a broken stream."""

    def ask(self, *tried: Listed, most: int = 10**9) -> Need:
        asked = need(max_prices=Prices(most, most, most))
        model = listed("any").model_hex
        return replace(asked, model=model, exclude=frozenset(node.node.lower() for node in tried))

    def test_who_failed_of_late_comes_last_and_is_not_left_out(self, selection: Selection, watch: Watch) -> None:
        bad, good = listed("a", price=1), listed("b")
        fail(watch, bad)
        fail(watch, bad)
        assert selection.plan([bad, good], need()).candidates == [good]
        assert selection.again([bad, good], self.ask()).candidates == [good, bad]
        assert selection.again([bad], self.ask()).expected.keys() == {bad.node}

    def test_never_who_cheated_or_had_the_job_or_asks_more_than_was_signed(
        self, selection: Selection, watch: Watch
    ) -> None:
        cheat, before, dear, dead = (
            listed("a"),
            listed("b"),
            listed("c", price=10**9),
            replace(listed("d"), alive=False),
        )
        watch.visit(cheat.node).cheated("another id than it signed")
        assert selection.again([cheat, before, dear, dead], self.ask(before)).candidates == []

    def test_never_another_model(self, selection: Selection) -> None:
        other = replace(listed("a"), model_id=Bytes32(b"\1" * 32))
        assert selection.again([other], self.ask()).candidates == []

    def test_never_an_unaudited_node_where_the_client_minds(self, selection: Selection) -> None:
        node = replace(listed("a"), audited=False, on_probation=True)
        assert selection.again([node], self.ask()).candidates == []
        mild = replace(self.ask(), wishes=replace(self.ask().wishes, allow_unaudited=True))
        assert selection.again([node], mild).candidates == [node]

"""Nodes on probation, new ones, near ones, and those whose cache is warm."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from tests.unit.test_router_selection import Clock, fail, finish, listed, need

from retally.errors import BadRequest, NodeUnavailable
from retally_router.accept_job import prompt_bytes
from retally_router.directory import Listed, read_capacity
from retally_router.observed import Watch
from retally_router.predict import UNKNOWN, Capacity
from retally_router.prefix_map import chain_of_bytes
from retally_router.probation import FIRST_AT_ONCE, KNOWN_AFTER
from retally_router.selection import Need, Selection

LONG = chain_of_bytes(bytes(100) * 100)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> Watch:
    return Watch(breaker_failures=100, breaker_seconds=10, clock=clock, random=Random(2))


@pytest.fixture
def selection(watch: Watch) -> Selection:
    return Selection(watch, value_of_second=300, random=Random(1), trial_share=0.02, trial_loss_cap=100_000)


def know(watch: Watch, clock: Clock, selection: Selection, *nodes: Listed) -> None:
    """Each has finished enough jobs, as quickly as it said."""
    for node in nodes:
        for _ in range(KNOWN_AFTER):
            expected = selection.plan([node], need()).expected[node.node]
            finish(watch, clock, node, expected, first_seconds=0.016, seconds=2.5)


def on_probation(name: str) -> Listed:
    return replace(listed(name), audited=False, on_probation=True)


def roomy(name: str) -> Listed:
    node = listed(name)
    return replace(node, offer=replace(node.offer, max_context=10_000))


def firsts(selection: Selection, nodes: list[Listed], asked: Need, times: int = 4000) -> Counter[str]:
    return Counter(selection.choose(nodes, asked)[0].node for _ in range(times))


class TestTrials:
    def test_an_uncalibrated_node_gets_its_small_share(self, selection: Selection, watch: Watch, clock: Clock) -> None:
        known, fresh = listed("a"), on_probation("b")
        know(watch, clock, selection, known)
        assert 0.01 < firsts(selection, [known, fresh], need())[fresh.node] / 4000 < 0.03

    def test_it_is_no_candidate_beyond_that(self, selection: Selection) -> None:
        known, fresh = listed("a"), on_probation("b")
        rests = [selection.choose([known, fresh], need()) for _ in range(500)]
        assert all(fresh not in ordered[1:] for ordered in rests)

    def test_alone_it_serves_nobody_who_did_not_ask(self, selection: Selection) -> None:
        with pytest.raises(NodeUnavailable, match="audited"):
            selection.choose([on_probation("b")], need())
        assert selection.choose([on_probation("b")], need(allow_unaudited=True))

    @pytest.mark.parametrize("wish", [{"only_audited": True}, {"sort": "price"}, {"allow_fallbacks": False}])
    def test_a_client_that_is_particular_gets_no_trial(self, selection: Selection, wish: dict[str, bool]) -> None:
        known, fresh = listed("a"), on_probation("b")
        assert set(firsts(selection, [known, fresh], need(**wish), 1000)) == {known.node}

    def test_what_was_lost_there_ends_the_trials_for_a_day(
        self, selection: Selection, watch: Watch, clock: Clock
    ) -> None:
        known, fresh = listed("a"), on_probation("b")
        know(watch, clock, selection, known)
        expected = selection.plan([known, fresh], need()).expected[fresh.node]
        for _ in range(100_000 // expected.price + 1):
            visit = watch.visit(fresh.node, expected)
            visit.failed()
            visit.end()
        assert fresh.node not in firsts(selection, [known, fresh], need(), 2000)
        clock.time += 86_401
        assert fresh.node in firsts(selection, [known, fresh], need(), 2000)

    def test_a_node_that_nobody_saw_for_long_is_tried_again(
        self, selection: Selection, watch: Watch, clock: Clock
    ) -> None:
        quick, slow = listed("a"), listed("b")
        know(watch, clock, selection, quick, slow)
        for _ in range(30):
            finish(watch, clock, slow, selection.plan([slow], need()).expected[slow.node], first_seconds=9, seconds=90)
        know(watch, clock, selection, quick)
        assert slow.node not in firsts(selection, [quick, slow], need(), 1000)
        clock.time += 400
        know(watch, clock, selection, quick)
        assert 0 < firsts(selection, [quick, slow], need(), 2000)[slow.node] < 60


class TestSlowStart:
    def test_a_new_node_gets_few_jobs_at_once_however_good_it_looks(
        self, selection: Selection, watch: Watch, clock: Clock
    ) -> None:
        known, bargain = listed("a"), listed("b", price=200_000)
        know(watch, clock, selection, known)
        sent: Counter[str] = Counter()
        for _ in range(50):
            plan = selection.plan([known, bargain], need())
            sent[plan.candidates[0].node] += 1
            watch.visit(plan.candidates[0].node, plan.expected[plan.candidates[0].node])
        assert sent[bargain.node] == FIRST_AT_ONCE

    def test_with_nothing_but_new_nodes_all_are_candidates(self, selection: Selection, watch: Watch) -> None:
        nodes = [listed("a"), listed("b")]
        for _ in range(50):
            plan = selection.plan(nodes, need())
            assert set(plan.candidates) == set(nodes)
            watch.visit(plan.candidates[0].node, plan.expected[plan.candidates[0].node])


class TestRegion:
    def test_only_near_nodes_by_measured_round_trip(self, selection: Selection) -> None:
        near, far = replace(listed("a"), rtt_seconds=0.01), replace(listed("b"), rtt_seconds=0.2)
        assert selection.choose([near, far], need(max_rtt_seconds=0.05)) == [near]
        with pytest.raises(NodeUnavailable, match="region") as caught:
            selection.choose([far], need(max_rtt_seconds=0.05))
        assert "max_rtt_ms" in (caught.value.hint or "")


class TestCache:
    def test_a_long_prompt_goes_where_it_was(self, selection: Selection, watch: Watch) -> None:
        nodes = [roomy(name) for name in "abcd"]
        asked = replace(need(), prompt_tokens=2500, is_exact=True, links=LONG)
        plan = selection.plan(nodes, asked)
        first = plan.candidates[0]
        visit = watch.visit(first.node, plan.expected[first.node])
        visit.first_token()
        visit.end()
        assert firsts(selection, nodes, asked, 50) == {first.node: 50}
        after = selection.plan(nodes, asked).expected[first.node]
        assert after.prediction.new_tokens < 150
        assert plan.expected[first.node].prediction.new_tokens == 2500

    def test_a_session_that_goes_on_counts_its_answer_too(self, selection: Selection, watch: Watch) -> None:
        node = roomy("a")
        asked = replace(need(), prompt_tokens=2500, is_exact=True, links=LONG, session="talk")
        visit = watch.visit(node.node, selection.plan([node], asked).expected[node.node])
        visit.first_token()
        visit.succeeded(700, 2500)
        visit.end()
        longer = replace(asked, prompt_tokens=3300, links=(*LONG, 1, 2, 3))
        assert selection.plan([node], longer).expected[node.node].cached_tokens == 3200
        other = replace(longer, links=chain_of_bytes(b"x" * 12_000))
        assert selection.plan([node], other).expected[node.node].cached_tokens == 0

    def test_a_cache_that_does_not_hold_what_it_should_is_trusted_less(
        self, selection: Selection, watch: Watch
    ) -> None:
        node = roomy("a")
        asked = replace(need(), prompt_tokens=2500, is_exact=True, links=LONG)
        for _ in range(30):
            visit = watch.visit(node.node, selection.plan([node], asked).expected[node.node])
            visit.first_token()
            visit.succeeded(10, 2500, 0)
            visit.end()
        assert selection.plan([node], asked).expected[node.node].cached_tokens < 250

    def test_prompts_hash_by_what_they_begin_with(self) -> None:
        talk = [{"role": "system", "content": "x" * 2000}, {"role": "user", "content": "a"}]
        longer = [*talk, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c" * 900}]
        one, other = (chain_of_bytes(prompt_bytes({"messages": messages})) for messages in (talk, longer))
        assert one
        assert other[: len(one)] == one
        assert prompt_bytes({"promptIds": [1, 2]}) == bytes([1, *[0] * 7, 2, *[0] * 7])


class TestReports:
    def test_others_work_counts_and_ours_is_not_counted_twice(
        self, selection: Selection, watch: Watch, clock: Clock
    ) -> None:
        node = listed("a")
        plan = selection.plan([node], need())
        visits = [watch.visit(node.node, plan.expected[node.node]) for _ in range(3)]
        watch.reported(node.node, streams=5, prefill_tokens=1000.0, rtt_seconds=0.05)
        seen = watch.of(node.node)
        assert seen.streams == 5
        for visit in visits:
            visit.end()
        assert seen.streams == 2
        assert 900 < seen.queued_tokens(clock.time, node.capacity) <= 1000
        assert seen.queued_tokens(clock.time + 10, node.capacity) == 0

    def test_failures_cost_a_node_its_place(self, selection: Selection, watch: Watch) -> None:
        good, bad = listed("a"), listed("b", price=1_900_000)
        for _ in range(6):
            fail(watch, bad)
        assert selection.choose([good, bad], need())[0] == good

    def test_capacity_is_read_or_refused(self) -> None:
        assert read_capacity(None) is UNKNOWN
        assert read_capacity({"prefill": 9000, "decode": 50, "batch": 900}) == Capacity(9000.0, 50.0, 900.0)
        for bad in ({}, {"prefill": 0, "decode": 1, "batch": 1}, {"prefill": -1, "decode": 1, "batch": 1}, 7):
            with pytest.raises(BadRequest):
                read_capacity(bad)

"""Choosing a node: no dominated node wins outside a tie, liars are found out, memories stay bounded."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from retally_router.breaker import Breaker
from retally_router.choose import NEAR, Aim, Estimate, order
from retally_router.observed import Expectation, Watch
from retally_router.predict import Capacity, predict
from retally_router.prefix_map import BLOCK_BYTES, PrefixMap, chain, chain_of_bytes
from retally_router.wishes import ORDINARY, PRESETS

paces = st.sampled_from([ORDINARY, *PRESETS.values()])
sorts = st.sampled_from([None, "price", "latency", "throughput"])
positive = st.floats(1e-4, 1e3)
estimate_lists = st.lists(
    st.builds(
        Estimate,
        node=st.text("abcdef", min_size=1, max_size=6),
        money=positive,
        ttft_seconds=positive,
        tpot_seconds=st.floats(1e-4, 1.0),
        p_ok=st.floats(0.05, 1.0),
        stake=st.integers(0, 10**12),
        in_flight=st.integers(0, 100),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda estimate: estimate.node,
)


def is_dominated(worse: Estimate, better: Estimate) -> bool:
    """Worse by more than a tie in everything that counts."""
    pairs = [
        (worse.money, better.money),
        (worse.ttft_seconds, better.ttft_seconds),
        (worse.tpot_seconds, better.tpot_seconds),
        (1 / worse.p_ok, 1 / better.p_ok),
    ]
    return all(bad > good * NEAR for bad, good in pairs)


@given(estimate_lists, paces, sorts, st.floats(0, 1e4), st.integers(0, 2**32))
def test_a_dominated_node_is_never_first(
    estimates: list[Estimate], pace: object, sort: str | None, value: float, seed: int
) -> None:
    aim = Aim(pace, value, 100.0, sort)  # type: ignore[arg-type]  # drawn above
    ordered = order(estimates, aim, Random(seed))
    assert sorted(ordered, key=lambda each: each.node) == sorted(estimates, key=lambda each: each.node)
    assert not any(is_dominated(ordered[0], other) for other in estimates)


@given(estimate_lists, st.floats(0, 1e4), st.integers(0, 2**32))
def test_whoever_misses_the_targets_is_first_only_if_all_do(estimates: list[Estimate], value: float, seed: int) -> None:
    aim = Aim(ORDINARY, value, 100.0)
    met = [aim.meets(each) for each in order(estimates, aim, Random(seed))]
    assert met[0] == any(met)
    assert met[1:] == sorted(met[1:], reverse=True)


@given(estimate_lists, st.integers(0, 2**32))
def test_after_the_drawn_one_the_order_is_by_score(estimates: list[Estimate], seed: int) -> None:
    aim = Aim(ORDINARY, 300.0, 100.0)
    scores = [aim.score(each) for each in order(estimates, aim, Random(seed))]
    assert scores[1:] == sorted(scores[1:])
    assert scores[0] <= (scores[1][0], scores[1][1] * NEAR) if len(scores) > 1 else True


blocks_lists = st.lists(st.integers(0, 3), max_size=20)


@given(blocks_lists, blocks_lists)
def test_chains_agree_exactly_as_far_as_their_blocks(one: list[int], other: list[int]) -> None:
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    links, others = chain(one), chain(other)
    assert links[:same] == others[:same]
    assert not set(links[same:]) & set(others[same:])


@given(st.binary(max_size=5 * BLOCK_BYTES), st.binary(max_size=2 * BLOCK_BYTES))
def test_a_longer_prompt_goes_on_with_the_same_chain(raw: bytes, more: bytes) -> None:
    links = chain_of_bytes(raw)
    assert len(links) == len(raw) // BLOCK_BYTES
    assert chain_of_bytes(raw + more)[: len(links)] == links


@given(st.lists(st.tuples(blocks_lists, st.integers(0, 3)), max_size=40), st.integers(1, 12))
def test_the_map_is_bounded_and_knows_whole_prefixes_only(sent: list[tuple[list[int], int]], bound: int) -> None:
    time = [0.0]
    known = PrefixMap(blocks_per_node=bound, sessions=2, expire_seconds=10.0, clock=lambda: time[0])
    for blocks, wait in sent:
        links = chain(blocks)
        time[0] += wait
        known.sent("a", links)
        known.answered("a", links, 100.0, session=len(blocks))
        assert known.size("a") <= bound
        assert len(known._sessions) <= 2
        assert known.matched("a", links) == min(bound, len(links))
        for other, _ in sent:
            chained = chain(other)
            found = known.matched("a", chained)
            # Searched for by halves, and yet what a walk from the front would find.
            fresh = [known._nodes["a"].get(link, -99.0) > time[0] - 10.0 for link in chained]
            assert found == next((i for i, is_fresh in enumerate(fresh) if not is_fresh), len(fresh))
    time[0] += 10.0
    assert all(known.matched("a", chain(blocks)) == 0 for blocks, _ in sent)


@given(st.integers(1, 5), st.lists(st.sampled_from(["fail", "succeed", "wait", "begin"]), max_size=60))
def test_a_breaker_is_open_only_after_enough_failures_and_never_for_ever(bound: int, events: list[str]) -> None:
    breaker, now, run = Breaker(bound, 10.0), 0.0, 0
    for event in events:
        if event == "fail":
            breaker.failed(now, 0.5)
            run += 1
        elif event == "succeed":
            breaker.succeeded()
            run = 0
            assert not breaker.is_open(now)
        elif event == "begin":
            breaker.began(now)
        else:
            now += 7.0
        if breaker.is_open(now):
            assert run >= bound
    breaker.ended()
    assert not breaker.is_open(now + 10.0 * 32 * 1.1)


def run_jobs(watch: Watch, clock: list[float], lie: float, jobs: int) -> list[float]:
    """Jobs at a node that is so many times slower than it says; its predicted TTFT before each."""
    declared, predicted = Capacity(4000.0, 40.0, 800.0), []
    for _ in range(jobs):
        seen = watch.of("node")
        prediction = predict(
            declared,
            queued_tokens=0.0,
            streams=0,
            new_tokens=1000.0,
            rtt_seconds=0.0,
            slow_prefill=seen.slow_prefill,
            slow_decode=seen.slow_decode,
        )
        predicted.append(prediction.ttft_seconds)
        visit = watch.visit("node", Expectation(prediction))
        clock[0] += lie * 1000.0 / declared.prefill
        visit.first_token()
        clock[0] += lie * 10 / declared.decode
        visit.succeeded(11)
        visit.end()
    return predicted


@given(st.floats(1.5, 10.0))
@settings(max_examples=20)
def test_a_liar_is_believed_less_with_each_job(lie: float) -> None:
    clock = [0.0]
    watch = Watch(3, 10.0, clock=lambda: clock[0], random=Random(1))
    predicted = run_jobs(watch, clock, lie, 40)
    assert all(later >= earlier for earlier, later in pairwise(predicted))
    assert abs(predicted[-1] / (lie * 0.25) - 1) < 0.1
    assert abs(watch.of("node").slow_decode / lie - 1) < 0.1


@given(st.lists(st.tuples(st.integers(1, 4), st.floats(1, 5000), st.booleans(), st.booleans()), max_size=30))
def test_what_is_under_way_counts_at_once_and_is_gone_afterwards(jobs: list[tuple[int, float, bool, bool]]) -> None:
    watch = Watch(10**6, 10.0, clock=lambda: 0.0, random=Random(1))
    visits, streams = [], 0
    for count, tokens, starts, fails in jobs:
        prediction = predict(
            Capacity(),
            queued_tokens=0.0,
            streams=0,
            new_tokens=tokens,
            rtt_seconds=0.0,
            slow_prefill=1.0,
            slow_decode=1.0,
        )
        visits.append((watch.visit("node", Expectation(prediction, price=5), streams=count), starts, fails))
        streams += count
        assert watch.of("node").in_flight == streams
        assert watch.of("node").at_risk == 5 * len(visits)
    for visit, starts, fails in visits:
        if starts:
            visit.first_token()
        if fails:
            visit.failed()
        visit.end()
        visit.end()
    seen = watch.of("node")
    assert (seen.in_flight, seen.at_risk) == (0, 0)
    assert abs(seen.prefilling) < 1e-6
    assert seen.lost == 5 * sum(fails for *_, fails in visits)

"""The routing simulator: traces as published, nodes that keep their books, and the shape of what it finds."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from routing_check import check, text_of, trace_of
from routing_nodes import Cache, Fate, Job, Make, SimNode, market
from routing_ours import ABLATIONS
from routing_report import Row, Target, bootstrap, figures, ratio, table, targets
from routing_trace import BLOCK_TOKENS, Turn, load, synthetic
from routing_world import RULES, Setup, simulate
from simulate_routing import PAGE, filled

TRACES = Path(__file__).parent.parent / "vectors" / "traces"


class TestTraces:
    def test_mooncake(self) -> None:
        trace = load(f"mooncake:{TRACES / 'mooncake.jsonl'}", 10)
        assert trace.block_tokens == 512
        assert [turn.at for turn in trace.turns] == [0.0, 0.0, 3.052, 6.104]
        assert trace.turns[0].blocks == (0, 1)
        assert trace.turns[2].links[:2] == trace.turns[0].links
        assert trace.turns[0].session == trace.turns[2].session != trace.turns[1].session
        assert trace.turns[3].output_tokens == 1

    @pytest.mark.parametrize("year", [2023, 2024])
    def test_azure(self, year: int) -> None:
        trace = load(f"azure:{TRACES / f'azure_{year}.csv'}", 10)
        gaps = {2023: [0.0, 0.052, 10.0], 2024: [0.0, 0.007405, 0.99007]}
        assert [turn.at for turn in trace.turns] == pytest.approx(gaps[year], abs=1e-6)
        assert trace.turns[0].prompt_tokens == {2023: 4808, 2024: 2162}[year]
        assert not trace.turns[0].blocks

    def test_burstgpt_leaves_failures_out(self) -> None:
        trace = load(f"burstgpt:{TRACES / 'burstgpt.csv'}", 10)
        assert [(turn.at, turn.prompt_tokens, turn.output_tokens) for turn in trace.turns] == [
            (0.0, 472, 18),
            (113.0, 417, 276),
        ]

    def test_burstgpt_with_sessions(self) -> None:
        trace = load(f"burstgpt:{TRACES / 'burstgpt_sessions.csv'}", 10)
        assert [turn.session for turn in trace.turns] == [0, 1, 0]
        assert trace.turns[2].at == 82.0

    @pytest.mark.parametrize("text", ["mooncake", "orca:file", ":file"])
    def test_what_is_no_trace_is_said_so(self, text: str) -> None:
        with pytest.raises(SystemExit, match="FORMAT:PATH"):
            load(text, 10)

    def test_synthetic_conversations_grow_and_share_their_system_prompts(self) -> None:
        trace = synthetic(500, 1)
        assert trace == synthetic(500, 1) != synthetic(500, 2)
        talks: dict[int, list[Turn]] = {}
        for turn in trace.turns:
            talks.setdefault(turn.session, []).append(turn)
        for turns in talks.values():
            for one, later in pairwise(turns):
                assert later.prompt_tokens > one.prompt_tokens + one.output_tokens - 1
                assert later.blocks[: len(one.blocks)] == one.blocks
        assert len({turn.links[0] for turn in trace.turns if turn.links}) < len(talks) / 2
        assert [turn.at for turn in trace.at_load(2).turns] == [turn.at / 2 for turn in trace.turns]


class Clockwork:
    """Calls in the order of their times."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, object]] = []

    def schedule(self, at: float, call: object) -> None:
        self.calls.append((at, call))

    def run(self) -> None:
        while self.calls:
            self.calls.sort(key=lambda item: item[0])
            self.calls.pop(0)[1]()  # type: ignore[operator]  # calls


class TestNodes:
    def make(self) -> Make:
        return replace(market(1)[0], failure_rate=0.0, prefill=1000.0, decode=20.0, batch=40.0, slots=4)

    def run(self, turns: list[Turn]) -> tuple[list[float], list[float], SimNode]:
        clock, firsts, ends = Clockwork(), [], []
        node = SimNode(self.make(), 64, Random(1), clock.schedule)
        for turn in turns:
            job = Job(turn, lambda at, _: firsts.append(at), lambda at, fate: ends.append(at))
            clock.schedule(turn.at, lambda job=job: node.arrive(job.turn.at, job))
        clock.run()
        return firsts, ends, node

    def test_one_job_takes_its_prefill_and_its_tokens(self) -> None:
        firsts, ends, node = self.run([Turn(0.0, 1, 1000, 21, 50)])
        assert 0.7 < firsts[0] < 1.4
        assert ends[0] - firsts[0] == pytest.approx(1.0)
        assert (node.running, node.waiting, node.prefill_tokens) == (0, 0, 0)

    def test_streams_share_the_batch_rate(self) -> None:
        firsts, ends, _ = self.run([Turn(0.0, number, 64, 201, 300) for number in range(4)])
        assert ends[-1] - firsts[-1] == pytest.approx(200 / 10.0, rel=0.1)

    def test_a_cached_prefix_is_not_computed_again(self) -> None:
        blocks = tuple(range(30))
        firsts, _, _ = self.run([Turn(0.0, 1, 1920, 2, 5, blocks), Turn(60.0, 1, 1984, 2, 5, (*blocks, 30))])
        assert firsts[0] > 1.3
        assert firsts[1] - 60.0 < 0.1

    def test_no_more_streams_than_slots(self) -> None:
        firsts, ends, _ = self.run([Turn(0.0, number, 64, 101, 300) for number in range(6)])
        assert sorted(firsts)[4] > min(ends) - 1e-9

    def test_the_cache_drops_the_ends_of_old_prompts_first(self) -> None:
        cache = Cache(4)
        cache.add([1, 2, 3])
        cache.add([1, 2, 9])
        assert cache.match([1, 2, 9]) == 3
        cache.add([7])
        assert cache.match([1, 2, 3]) == 2

    def test_a_node_that_dies_ends_all_it_had(self) -> None:
        clock, fates = Clockwork(), []
        node = SimNode(self.make(), 64, Random(1), clock.schedule)
        for number in range(3):
            job = Job(Turn(0.0, number, 64, 500, 600), lambda *_: None, lambda _, fate: fates.append(fate))
            node.arrive(0.0, job)
        clock.schedule(0.2, lambda: node.die(0.2))
        clock.run()
        assert set(fates) <= {Fate.BROKEN, Fate.REFUSED}
        assert len(fates) == 3

    def test_liars_are_as_many_as_asked_for_and_slow(self) -> None:
        for count in range(5):
            lying = [make for make in market(1, liars=count) if make.is_liar]
            assert len(lying) == count
            assert all(make.prefill <= 2001 for make in lying)


class TestSimulation:
    def test_ours_is_quicker_and_finds_the_liars_out(self) -> None:
        trace, setup = synthetic(1200, 3), Setup(seed=3, routers=2)
        found = {policy: figures(simulate(trace, policy, setup)) for policy in ("p2c", "scorers", "retally")}
        ours = found["retally"]
        assert ours["ttft_p99"] < 0.4 * found["p2c"]["ttft_p99"]
        assert ours["ttft_p99"] < found["scorers"]["ttft_p99"]
        assert ours["liars"] < 3.0 < found["p2c"]["liars"]
        assert ours["price"] < 1.1 * found["p2c"]["price"]

    def test_without_learning_the_liars_win(self) -> None:
        trace, setup = synthetic(800, 3), Setup(seed=3)
        blind = figures(simulate(trace, "retally: no learning", setup))
        assert blind["liars"] > 2 * figures(simulate(trace, "retally", setup))["liars"]

    @pytest.mark.parametrize("policy", [*RULES, "retally: patient", *(f"retally: {term}" for term in ABLATIONS)])
    def test_every_policy_serves_every_request_again_alike(self, policy: str) -> None:
        trace, setup = synthetic(60, 1), Setup(seed=1, churn=200.0)
        runs = [simulate(trace, policy, setup) for _ in range(2)]
        assert figures(runs[0]) == figures(runs[1])
        for outcome in runs[0].outcomes:
            assert outcome.broken != (outcome.seconds is not None)
        assert all(node.running == node.waiting == 0 for node in runs[0].nodes)
        for router in runs[0].routers:
            assert all(view.own == 0 for view in router.views)

    def test_an_unknown_policy_is_said_so(self) -> None:
        with pytest.raises(SystemExit, match="no policy"):
            simulate(synthetic(5, 1), "luck", Setup())


class TestReport:
    def rows(self) -> dict[str, Row]:
        names = ("ttft_p50", "ttft_p95", "ttft_p99", "seconds_mean", "in_time")
        rest = ("price", "broken", "liars", "hit", "prefill_use")
        scale = {"p2c": 10.0, "scorers": 2.0, "scorers+own": 3.0, "retally": 1.0}
        return {
            policy: Row("", policy, [dict.fromkeys((*names, *rest), factor * seed) for seed in (1.0, 1.1, 0.9)])
            for policy, factor in scale.items()
        }

    def test_ratios_are_paired_by_seed(self) -> None:
        rows = self.rows()
        found, interval = ratio(rows["retally"], rows["p2c"], "ttft_p99")
        assert found == pytest.approx(0.1)
        assert interval == pytest.approx((0.1, 0.1))

    def test_intervals_hold_the_mean_and_shrink_to_it(self) -> None:
        low, high = bootstrap([1.0, 2.0, 3.0], lambda values: sum(values) / len(values))
        assert low < 2.0 < high
        assert bootstrap([2.0, 2.0], lambda values: sum(values) / len(values)) == (2.0, 2.0)

    def test_targets_are_judged_by_the_whole_interval(self) -> None:
        found = targets(self.rows())
        assert [target.verdict for target in found] == ["met"] * 5
        assert Target("x", 1.0, 0.9, (0.8, 1.2)).verdict == "met on average"
        assert Target("x", 1.0, 1.1, (0.9, 1.2)).verdict == "missed"

    def test_tables_stand_between_their_marks(self) -> None:
        page = PAGE.read_text(encoding="utf-8")
        written = filled(page, {"usual": table(list(self.rows().values()))})
        assert "| p2c | 10.000" in written
        assert filled(written, {"usual": "x"}) == filled(page, {"usual": "x"})
        with pytest.raises(SystemExit, match="marks"):
            filled(page, {"unheard of": ""})


class TestAgainstTheRealRouter:
    def test_an_answers_length_is_known_beforehand_and_texts_share_what_blocks_share(self) -> None:
        trace = trace_of(60, 4.0)
        first = trace.turns[0]
        later = next(turn for turn in trace.turns[1:] if turn.session == first.session)
        assert text_of(first)[:3] == text_of(later)[:3]
        shared = len(first.blocks) * BLOCK_TOKENS
        assert text_of(later).split()[:shared] == text_of(first).split()[:shared]
        assert [len(text_of(turn).split()) for turn in trace.turns] == [turn.prompt_tokens for turn in trace.turns]

    async def test_the_real_router_serves_the_trace_that_is_simulated(self) -> None:
        found = await check(requests=8, per_second=6.0)
        assert found.requests == 8
        assert 0.0 < found.simulated < 2.0
        assert found.overhead < found.real

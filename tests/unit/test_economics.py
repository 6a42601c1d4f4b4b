"""Deterrence: closed forms in known cases, what must rise and fall, and attackers that a bug would make harmless."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import economics
import economics_plot
import economics_print
from economics_bounds import agreement, nats, one_shot_bound, one_shot_profit, slow_bound
from economics_conviction import convicts, wealth_of
from economics_evidence import ASSUMED, BadEvidence, distribution, load, one_token
from economics_findings import profiting
from economics_held import (
    beyond_cap,
    cheaper_overflow,
    new_overflow,
    overflow,
    overflow_break_even,
    stakeless,
    stakeless_silence,
)
from economics_profit import RATES, World, cell, collected, fees, gain_of, honest_loss
from economics_special import (
    false_accuser,
    hits_to_convict,
    least_undisclosed,
    looking_verifier,
    specials,
    trap_break_even,
    traps_a_period,
)
from economics_terms import Assumptions, Cheat, cheats, terms_of
from retally.chain.parameters import default_parameters
from retally.protocol.evidence import OWNER_MISMATCH

TERMS = terms_of(default_parameters())
WORLD = World(TERMS, Assumptions(), load(ASSUMED), trials=10)
LEAST = TERMS.minimum_stake


def way(name: str) -> Cheat:
    return next(each for each in cheats(WORLD.assumed) if each.name == name)


class TestTerms:
    def test_are_the_deployed_parameters(self) -> None:
        deployed = default_parameters()
        staking, registry = deployed["Staking"], deployed["Registry"]
        assert TERMS.minimum_stake * 1e6 == staking["minimumOperator"]
        assert round(TERMS.exposure * 1e6) == staking["exposurePpm"]
        assert {name: round(value * 1e6) for name, value in TERMS.severities.items()} == {
            name: staking[f"{name}Ppm"] for name in ("mismatch", "tiling", "overbilling", "conflict", "duty")
        }
        assert (TERMS.new_step, TERMS.established_step) == (registry["newStepUnits"], registry["establishedStepUnits"])

    def test_follow_a_change_of_them(self) -> None:
        changed = {name: dict(values) for name, values in default_parameters().items()}
        changed["Staking"]["mismatchPpm"] = 250_000
        changed["Registry"]["establishedStepUnits"] = 100
        terms = terms_of(changed)
        assert terms.severities["mismatch"] == 0.25
        assert terms.established_step == 100


class TestClosedForms:
    def test_give_the_known_example(self) -> None:
        assert one_shot_bound(0.5, 1, 500, 0.9) == pytest.approx(0.0011, abs=5e-5)
        assert slow_bound(0.5, 500, 5) == pytest.approx(0.0041, abs=5e-5)

    def test_the_bound_is_where_a_single_cheat_earns_nothing(self) -> None:
        chance = one_shot_bound(0.5, 1, 500, 0.9)
        assert one_shot_profit(chance, 0.5, 1, 500, 0.9) == pytest.approx(0)
        assert one_shot_profit(chance / 2, 0.5, 1, 500, 0.9) > 0

    def test_no_evidence_deters_nothing(self) -> None:
        assert slow_bound(0.5, 500, 0) == math.inf

    def test_corrupt_verifiers_ask_for_more_audits(self) -> None:
        assert slow_bound(0.5, 500, 5, corrupt=0.5) == pytest.approx(2 * slow_bound(0.5, 500, 5))
        assert one_shot_bound(0.5, 1, 500, 0.9, corrupt=0.5) == pytest.approx(2 * one_shot_bound(0.5, 1, 500, 0.9))

    def test_nats_of_a_certain_job(self) -> None:
        each, _ = nats(distribution({"logE": [18.0]}), 1.0)
        assert each == pytest.approx(math.log(0.5 + 0.5 * math.exp(18)))

    @pytest.mark.parametrize("name", ["4-bit", "wrong seed", "fp8, same kernels"])
    @pytest.mark.parametrize("rate", RATES)
    def test_agree_with_the_simulation(self, name: str, rate: float) -> None:
        found = agreement(WORLD, way(name), rate, trials=60)
        assert found is not None
        assert found.holds

    def test_nothing_to_agree_on_without_evidence(self) -> None:
        assert agreement(WORLD, way("8-bit, other kernels"), 1.0) is None


class TestConviction:
    def test_one_job_never_convicts(self) -> None:
        assert not convicts(wealth_of([18.0], [0], 0))
        assert convicts(wealth_of([18.0, 18.0], [0, 1], 0))

    def test_points_not_shown_ask_for_more_jobs(self) -> None:
        needed = [hits_to_convict(count, 20) for count in (0, 1_000, 100_000, 10_000_000)]
        assert needed == sorted(needed)
        assert needed[0] == 2
        assert needed[-1] == 33

    def test_one_payer_is_lost_among_fewer_points_than_many(self) -> None:
        alone, together = least_undisclosed(1), least_undisclosed(20)
        assert alone < together
        assert convicts(wealth_of([18.0] * 32, [0] * 32, alone - 1))
        assert not convicts(wealth_of([18.0] * 32, [0] * 32, alone))


class TestProfit:
    def test_the_honest_control_loses_nothing(self) -> None:
        for is_new in (False, True):
            honest = cell(WORLD, way("honest control"), 1.0, LEAST, is_new=is_new)
            assert (honest.profit, honest.convicted) == (0, 0)
        assert honest_loss(WORLD, LEAST, 1e-9) == pytest.approx(13 * 1e-9 * LEAST / 2)

    def test_a_cheat_with_evidence_loses_and_the_same_without_audits_wins(self) -> None:
        blind = replace(WORLD, audited=False)
        for name in ("4-bit", "hidden prompt", "over-billing", "silence", "conflicting receipts"):
            for rate in (1.0, 1 / 20):
                assert cell(WORLD, way(name), rate, LEAST).profit < 0
                free = cell(blind, way(name), rate, LEAST)
                weeks = WORLD.assumed.horizon_days / TERMS.window_days
                assert free.profit == pytest.approx(way(name).gain * rate * TERMS.fees(LEAST) * (1 + weeks))

    def test_what_gives_no_evidence_profits_in_proportion(self) -> None:
        often, seldom = (cell(WORLD, way("8-bit, other kernels"), rate, LEAST).profit for rate in (1.0, 0.01))
        assert often == pytest.approx(100 * seldom)
        assert seldom > 0

    def test_falls_with_the_severity_and_rises_with_the_gain(self) -> None:
        harder = replace(WORLD, terms=replace(TERMS, severities={**TERMS.severities, "mismatch": 1.0}))
        assert cell(harder, way("4-bit"), 1.0, LEAST).profit < cell(WORLD, way("4-bit"), 1.0, LEAST).profit
        dearer = replace(way("4-bit"), gain=0.9)
        assert cell(WORLD, dearer, 1.0, LEAST).profit > cell(WORLD, way("4-bit"), 1.0, LEAST).profit

    def test_sparser_audits_find_later(self) -> None:
        sparse = replace(WORLD, terms=replace(TERMS, established_step=5_000))
        found, late = (cell(world, way("4-bit"), 0.05, LEAST) for world in (WORLD, sparse))
        assert late.profit > found.profit

    def test_all_verifiers_corrupt_find_nothing(self) -> None:
        assert cell(WORLD, replace(way("4-bit"), corrupt=1.0), 1.0, LEAST).convicted == 0

    def test_a_case_halves_what_is_paid_meanwhile(self) -> None:
        cap = TERMS.cap(LEAST)
        assert collected(TERMS, LEAST, 7, 0, 0.5) == pytest.approx(2 * cap)
        assert collected(TERMS, LEAST, 7, 7, 0.5) == pytest.approx(2.5 * cap)

    def test_the_cap_counts_what_the_audit_share_leaves(self) -> None:
        early, late = (fees(TERMS, LEAST, days, 0, 0, new_days=28) for days in (28, 35))
        assert early == pytest.approx(5 * TERMS.cap(LEAST) / 0.7)
        assert late - early == pytest.approx(TERMS.cap(LEAST) / 0.97)

    def test_the_same_seed_gives_the_same_figures(self) -> None:
        one, two = (cell(WORLD, way("temperature"), 0.01, LEAST) for _ in range(2))
        assert one == two


class TestOtherAttackers:
    def test_a_false_accuser_loses_what_it_paid(self) -> None:
        assert all(-TERMS.case_cost <= profit < 0 for profit in false_accuser(WORLD).profits)

    def test_held_credit_is_slashed_like_stake(self) -> None:
        old = TERMS.established_share
        twice, thrice = (beyond_cap(WORLD, LEAST, times, gain_of(WORLD), old) for times in (2, 3))
        more = TERMS.cap(LEAST) * (1 + (1 + TERMS.duty_days + TERMS.case_days) / TERMS.window_days)
        assert thrice - twice == pytest.approx(more * (gain_of(WORLD) / (1 - old) - TERMS.severities["mismatch"]))
        assert all(profit < 0 for profit in overflow(WORLD).profits)
        assert overflow_break_even(WORLD, gain_of(WORLD), old) == math.inf

    def test_it_pays_where_more_is_gained_on_it_than_the_severity_takes(self) -> None:
        assert all(profit > 0 for profit in (*new_overflow(WORLD).profits, *cheaper_overflow(WORLD).profits))
        harder = replace(WORLD, terms=replace(TERMS, severities={**TERMS.severities, "mismatch": 0.7}))
        assert overflow_break_even(harder, gain_of(WORLD), TERMS.new_share) == math.inf

    def test_whose_stake_has_left_loses_the_more_by_silence(self) -> None:
        pairs = zip(stakeless_silence(WORLD).profits, stakeless(WORLD).profits, strict=True)
        assert all(silent < answered < 0 for silent, answered in pairs)

    def test_traps_convict_their_planter_where_it_sets_many(self) -> None:
        assert all(0 < share < 0.01 for share in traps_a_period(WORLD))
        assert trap_break_even(WORLD) < 0.01

    def test_a_verifier_that_looks_for_traps_saves_nearly_all(self) -> None:
        assert all(profit > 0 for profit in looking_verifier(WORLD).profits)

    def test_each_that_does_not_lose_is_named_with_what_would_change_it(self) -> None:
        found = profiting(WORLD, [cell(WORLD, way("fp8, other kernels"), 1.0, LEAST)], specials(WORLD), [])
        names = {item["name"] for item in found}
        assert {"fp8, other kernels", "self-audit, sole verifier", "lazy verifier, no traps"} <= names
        assert not any(item["change"] == "unexplained" for item in found)


class TestEvidence:
    def test_says_that_it_is_assumed(self) -> None:
        assert load(ASSUMED).source == "assumed"

    def test_of_measured_jobs_takes_the_least_re_executor_and_clips(self) -> None:
        found = distribution({"logE": [[12.0, 3.0], 40.0]})
        assert list(found.values) == [18.0, 3.0]

    def test_fills_what_a_measured_file_lacks_and_says_so(self, tmp_path: Path) -> None:
        data = {
            "version": 1,
            "source": "measured",
            "about": "here.",
            "tokensPerJob": 64,
            "jobs": {"int4": {"logE": [5]}},
        }
        (tmp_path / "jobs.json").write_text(json.dumps(data), encoding="utf-8")
        found = load(tmp_path / "jobs.json")
        assert (found.source, found.jobs["int4"].mean) == ("measured", 5)
        assert "early-stop" in found.about
        assert "int4" not in found.about

    @pytest.mark.parametrize("entry", [{"logE": []}, {"atoms": [[1, 0.5]]}, {"atoms": [[1, 1.5], [2, -0.5]]}])
    def test_refuses_what_is_no_distribution(self, entry: dict[str, object]) -> None:
        with pytest.raises(BadEvidence):
            distribution(entry)

    def test_the_strongest_of_many_jobs(self) -> None:
        found = distribution({"atoms": [[1, 0.5], [9, 0.5]]})
        assert found.strongest(np.random.default_rng(1), 1_000, 3) == [9, 9, 9]

    def test_one_splice_under_the_shipped_calibration_is_evidence_and_no_verdict(self) -> None:
        assert 5 < one_token(256) < OWNER_MISMATCH


class TestScript:
    def test_prints_tables_a_plot_and_one_object(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        plot = tmp_path / "plot.svg"
        code = economics.main(
            ["--json", "--markdown", "--trials", "1", "--evidence", str(ASSUMED), "--plot", str(plot)]
        )
        lines = capsys.readouterr().out.strip().splitlines()
        report = json.loads(lines[-1])
        assert code == 0
        assert report["failures"] == []
        assert report["evidence"]["source"] == "assumed"
        assert any(line.startswith("| honest control | 0.00 | 0 / 0 / 0 |") for line in lines)
        lines_drawn = ElementTree.parse(plot).getroot().iter("{http://www.w3.org/2000/svg}polyline")
        assert len(list(lines_drawn)) == 3 * len(economics_plot.COLOURS)


class TestPage:
    def test_holds_the_tables_that_no_chance_enters(self) -> None:
        page = (ASSUMED.parents[1] / "VERIFICATION.md").read_text(encoding="utf-8")
        shown = replace(WORLD, evidence=load(None))
        for table in (economics_print.given(shown), economics_print.others(specials(shown))):
            assert table.render(markdown=True) in page

"""The script that plays the adversaries: who plays together, what counts as known, what the table says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.adversaries.registry import ADVERSARIES, Act

import adversaries_results
from adversaries import AT_ONCE, PLAYS_OF_THEIR_OWN, main, waves
from adversaries_results import LIARS, Results, markdown, profit_of, rows, summary


def test_who_plays_together_shares_an_act_and_few_engines() -> None:
    played = list(waves(ADVERSARIES))
    assert all(len({each.act for each in wave}) == 1 for wave in played)
    assert all(len({each.weights for each in wave} - {""}) <= 2 for wave in played)
    assert all(len(wave) <= AT_ONCE for wave in played)
    assert [each.name for wave in played for each in wave if each.act == Act.COURT] == [
        each.name for each in ADVERSARIES if each.act == Act.COURT
    ]


def test_a_result_is_known_until_the_lie_changes(tmp_path: Path) -> None:
    results, first = Results(tmp_path), ADVERSARIES[0]
    assert results.read(first) is None
    results.write(first, {"convicted": False, "points": 3})
    assert results.read(replace(first, note="another remark")) == {"convicted": False, "points": 3}
    assert results.read(replace(first, one_in=5)) is None


@pytest.mark.parametrize(("published_for", "is_earlier"), [("now", False), ("other rules", True), (None, True)])
def test_a_published_result_counts_for_what_it_was_played_under(
    tmp_path: Path, published_for: str | None, is_earlier: bool
) -> None:
    published = tmp_path / "adversaries.json"
    results, first = Results(tmp_path / "cache", published), ADVERSARIES[0]
    digest = results.digest(first) if published_for == "now" else published_for
    row = {"name": first.name, "digest": digest, "live": {"outcome": "caught", "earlier": not is_earlier}}
    published.write_text(json.dumps({"adversaries": [row]}))
    found = rows(results, {})[0]
    assert (found["digest"], found["live"].get("earlier", False)) == (digest, is_earlier)
    assert rows(results, {})[1]["live"] is None


def test_the_table_has_every_adversary_once_and_says_what_was_not_run(tmp_path: Path) -> None:
    published = tmp_path / "adversaries.json"
    published.write_text(json.dumps({"adversaries": []}))
    text = markdown(rows(Results(tmp_path, published), {}))
    assert all(text.count(f"| {each.name} |") == 1 for each in ADVERSARIES)
    assert text.count("| not run |") == len(ADVERSARIES)


@pytest.mark.parametrize(
    ("name", "program"),
    [("sibling-audit", "sibling_audit_node.py"), ("selfish-router", "selfish_router.py")],
)
def test_a_program_named_after_its_lie_is_part_of_what_its_result_alone_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, program: str
) -> None:
    results, by_name = Results(tmp_path), {each.name: each for each in ADVERSARIES}
    for path in LIARS.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(adversaries_results, "LIARS", tmp_path)
    before = {each: results.digest(by_name[each]) for each in (name, "4-bit")}
    assert (tmp_path / program).exists()
    (tmp_path / program).write_text("another lie")
    assert results.digest(by_name[name]) != before[name]
    assert results.digest(by_name["4-bit"]) == before["4-bit"]


def test_every_party_with_a_play_of_its_own_has_one() -> None:
    assert {each.name for each in ADVERSARIES if each.act == Act.OWN} == PLAYS_OF_THEIR_OWN.keys()


def test_who_is_not_convicted_stands_out() -> None:
    said = summary({"convicted": False, "points": 10, "logE": [-0.4, -1.0]})
    assert said == "**not convicted** after 10 audits, largest log e -0.4"


def test_a_profit_is_that_of_the_rate_at_which_somebody_cheats() -> None:
    cells = [
        {"cheat": "wrong seed", "stake": 1_000.0, "is_new": False, "rate": rate, "profit": profit}
        for rate, profit in ((1.0, -480.0), (0.2, -500.0))
    ]
    by_name = {each.name: each for each in ADVERSARIES}
    said = {"cells": cells, "others": []}
    assert profit_of(by_name["wrong-seed"], said) == {"dollars": -480.0, "round": "a year"}
    assert profit_of(by_name["one-in-5"], said) == {"dollars": -500.0, "round": "a year"}
    assert profit_of(by_name["one-in-20"], said) is None


def test_half_a_table_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--write", "--only", "4-bit"])
    assert "--only" in capsys.readouterr().err


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "nobody"])
    assert "--list" in capsys.readouterr().err

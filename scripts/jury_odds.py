"""Exact odds of a case's last verdict where some owners of a pool collude; `scripts/jury_odds` runs it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from math import comb
from typing import Any

MATCH, MISMATCH, INCONCLUSIVE = 1, 2, 3
APPEALS = 2
#: Owners of a pool, the accused among them, and jurors of a first round there.
POOLS = ((5, 3), (7, 3), (15, 7), (30, 7))


@dataclass(frozen=True, slots=True)
class Standing:
    """A case between two rounds: colluders and others that have not sat and that have, and what stands."""

    fresh_bought: int
    fresh_honest: int
    sat_bought: int
    sat_honest: int
    wanted: int
    last: int = 0
    verdict: int = 0
    appeals: int = 0
    enlarged: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """Everybody votes the truth and the coalition the contrary; the side that a verdict does not favour appeals."""

    guilty: bool
    #: Decision 27: a mismatch falls that half of an appeal's jury speaks against.
    tie_spares: bool
    #: Whether the accuser, too, appeals to the end; else only the accused does.
    accuser_appeals: bool = True


def odds(pool: int, bought: int, jury: int, setting: Setting) -> dict[int, Fraction]:
    """How probable each last verdict is; stakes are equal, and the accused of a pool never sits."""
    begun = Standing(bought, pool - 1 - bought, 0, 0, jury)
    return dict(_ended(begun, setting))


@cache
def _ended(case: Standing, setting: Setting) -> tuple[tuple[int, Fraction], ...]:
    """The last verdicts from here on."""
    able = case.fresh_bought + case.fresh_honest + case.sat_bought + case.sat_honest
    size = min(case.wanted, able)
    least = case.last + 1 if case.last else case.wanted
    if size < least:
        return ((case.verdict or INCONCLUSIVE, Fraction(1)),)
    found: dict[int, Fraction] = {}
    for fresh, again, chance in _juries(case, size):
        sat = replace(
            case,
            fresh_bought=case.fresh_bought - fresh,
            fresh_honest=case.fresh_honest - (min(size, case.fresh_bought + case.fresh_honest) - fresh),
        )
        sat = replace(
            sat,
            sat_bought=case.sat_bought + fresh,
            sat_honest=case.sat_honest + case.fresh_honest - sat.fresh_honest,
        )
        after = heard(sat, size, fresh + again, setting)
        ends = ((after.verdict, Fraction(1)),) if after.wanted == 0 else _ended(after, setting)
        for verdict, part in ends:
            found[verdict] = found.get(verdict, Fraction(0)) + chance * part
    return tuple(found.items())


def heard(case: Standing, size: int, bought: int, setting: Setting) -> Standing:
    """One round by R-62 and R-63; `wanted` is zero where the case ends."""
    acquitting = bought if setting.guilty else size - bought
    outcome = INCONCLUSIVE
    if 3 * acquitting >= 2 * size:
        outcome = MATCH
    elif 3 * (size - acquitting) >= 2 * size:
        outcome = MISMATCH
    doubted = setting.tie_spares and case.verdict == MISMATCH and 2 * acquitting >= size
    verdict = outcome if case.appeals == 0 or outcome != INCONCLUSIVE or doubted else case.verdict
    after = replace(case, last=size, verdict=verdict, wanted=2 * size + 1)
    if outcome == INCONCLUSIVE and not case.enlarged:
        return replace(after, enlarged=True)
    appealed = verdict == MISMATCH or setting.accuser_appeals
    if appealed and case.appeals < APPEALS:
        return replace(after, appeals=case.appeals + 1)
    return replace(after, wanted=0)


def _juries(case: Standing, size: int) -> Iterator[tuple[int, int, Fraction]]:
    """Colluders among the fresh and among those that sat before, who take only the seats that are left."""
    fresh = min(size, case.fresh_bought + case.fresh_honest)
    for new, chance in _drawn(case.fresh_bought, case.fresh_honest, fresh):
        for old, part in _drawn(case.sat_bought, case.sat_honest, size - fresh):
            yield new, old, chance * part


def _drawn(bought: int, honest: int, seats: int) -> Iterator[tuple[int, Fraction]]:
    for count in range(max(0, seats - honest), min(bought, seats) + 1):
        yield count, Fraction(comb(bought, count) * comb(honest, seats - count), comb(bought + honest, seats))


def table() -> list[dict[str, Any]]:
    """An honest owner convicted and a guilty one let go, of each pool and coalition, before and now."""
    rows = []
    for pool, jury in POOLS:
        for bought in range(1, (2 * pool) // 3 + 1):
            row: dict[str, Any] = {"owners": pool, "firstJury": jury, "colluding": bought}
            for name, spares in (("before", False), ("now", True)):
                honest = odds(pool, bought, jury, Setting(guilty=False, tie_spares=spares))
                guilty = odds(pool, bought, jury, Setting(guilty=True, tie_spares=spares))
                row[name] = {
                    "honestConvicted": float(honest.get(MISMATCH, 0)),
                    "guiltyLetGo": float(1 - guilty.get(MISMATCH, Fraction(0))),
                }
            rows.append(row)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object on the last line")
    options = parser.parse_args()
    rows = table()
    print("owners  jury  colluding | honest convicted: before, now | guilty let go: before, now")
    for row in rows:
        before, now = row["before"], row["now"]
        print(
            f"{row['owners']:6} {row['firstJury']:5} {row['colluding']:10} |"
            f" {before['honestConvicted']:17.5f} {now['honestConvicted']:11.5f} |"
            f" {before['guiltyLetGo']:14.5f} {now['guiltyLetGo']:11.5f}"
        )
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()

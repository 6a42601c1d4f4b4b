"""Every dishonest party on a real devnet, honest controls beside it; `scripts/adversaries` runs it.

Usage: scripts/adversaries [--list] [--only NAME]... [--json] [--write] [--no-run] [--again]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.adversaries.registry import ADVERSARIES, Act, Adversary

from adversaries_collusion import COLLUSIONS
from adversaries_court import PLAYS, check_honest
from adversaries_engines import Engines
from adversaries_padding import padded_commits
from adversaries_payer import play_claims
from adversaries_plays import OWN_PLAYS
from adversaries_results import PUBLISHED, Results, economics, markdown, rows, summary
from adversaries_rotation import identity_rotation
from adversaries_router import selfish_router
from adversaries_siblings import sibling_audit
from adversaries_stage import PlayFailed, Stage, cheat_spec
from adversaries_traps import lazy_verifier
from retally.devnet.processes import log_tail
from retally.devnet.tools import repo_root
from retally.errors import RetallyError

CACHE = repo_root() / ".cache" / "adversaries"
DOCUMENT = repo_root() / "docs" / "ADVERSARIES.md"
START, END = "<!-- table -->", "<!-- end of table -->"
#: Dishonest nodes in one network, and honest ones: cheats with most of the stake would look like drift.
AT_ONCE = 4
PLAYED = {**PLAYS, Act.CLAIM: play_claims}
PLAYS_OF_THEIR_OWN = {
    **OWN_PLAYS,
    **COLLUSIONS,
    "identity-rotation": identity_rotation,
    "lazy-verifier": lazy_verifier,
    "padded-commits": padded_commits,
    "selfish-router": selfish_router,
    "sibling-audit": sibling_audit,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and not known yet, print the table, and fail where an honest control lost anything."""
    options = _options(arguments)
    chosen = [each for each in ADVERSARIES if not options.only or each.name in options.only]
    if options.list:
        for each in chosen:
            print(f"{each.name:22} {each.party:9} {each.found.value:12} {each.act.value:8} {each.lie}")
        return 0
    results = Results(CACHE)
    failures: list[str] = []
    if not options.no_run:
        missing = [each for each in chosen if options.again or results.read(each) is None]
        failures = asyncio.run(run(missing, results, options))
    said = economics(CACHE) if options.write or options.json else {}
    found = [row for row in rows(results, said) if row["name"] in {each.name for each in chosen}]
    failures += [f"{row['name']}: {loss}" for row in found if row["live"] for loss in row["live"]["control"]["lost"]]
    print(markdown(found))
    print("\n".join(f"FAILED: {each}" for each in failures))
    if options.write:
        write(found)
    if options.json:
        print(json.dumps({"adversaries": found, "failures": failures}))
    return 1 if failures else 0


def waves(missing: Sequence[Adversary]) -> Iterator[list[Adversary]]:
    """Who plays together: the same act, two folders of weights at most beside the genuine one."""
    for act in PLAYED:
        wave: list[Adversary] = []
        for each in (each for each in missing if each.act == act):
            weights = {other.weights for other in (*wave, each)} - {""}
            if len(wave) == AT_ONCE or len(weights) > 2:
                yield wave
                wave = []
            wave.append(each)
        if wave:
            yield wave


async def run(missing: Sequence[Adversary], results: Results, options: argparse.Namespace) -> list[str]:
    """Play wave after wave; one that fails is named and keeps no other from its turn."""
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="retally-adversaries-") as scratch:
        home = options.keep or Path(scratch)
        engines = Engines(home / "engines", CACHE, options.engine_url)
        try:
            for number, wave in enumerate(waves(missing)):
                failures += await _play(wave, results, engines, home / f"net{number}", options.seed + number)
            for each in (each for each in missing if each.act == Act.OWN):
                failures += await _play([each], results, engines, home / each.name, options.seed)
        finally:
            await engines.stop()
    return failures


async def _play(wave: Sequence[Adversary], results: Results, engines: Engines, home: Path, seed: int) -> list[str]:
    names = ", ".join(each.name for each in wave)
    started = time.monotonic()
    say(f"{names}: starting")
    try:
        urls = await engines.need({each.weights for each in wave if each.weights})
        play = PLAYED.get(wave[0].act)
        if play is None:
            found = {wave[0].name: await PLAYS_OF_THEIR_OWN[wave[0].name](home, seed, urls[""])}
        else:
            cheats = [cheat_spec(each, urls) for each in wave]
            async with Stage(home, seed, cheats, urls[""], honest=AT_ONCE) as stage:
                found = await play(stage, wave)
                control = await check_honest(stage)
                for each in wave:
                    refused = stage.traffic[each.name].refused if each.name in stage.traffic else []
                    found[each.name] |= {"control": control, "refused": refused}
    except (PlayFailed, RetallyError, AssertionError) as error:
        for log in sorted((home / "logs").glob("*.log")):
            say(f"--- {log.name}\n{log_tail(log)}")
        return [f"{names}: {type(error).__name__}: {error}"]
    for each in wave:
        live = found[each.name]
        live |= {"seed": seed, "seconds": round(time.monotonic() - started), "together": len(wave)}
        results.write(each, live)
        say(f"{each.name}: {summary(live)}")
    return []


def write(found: Sequence[dict[str, Any]]) -> None:
    """The figures into docs/data, the table into docs/ADVERSARIES.md."""
    PUBLISHED.write_text(
        json.dumps({"version": 1, "command": "scripts/adversaries --write", "adversaries": found}, indent=1) + "\n",
        encoding="utf-8",
    )
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    DOCUMENT.write_text(f"{before}{START}\n\n{markdown(found)}\n\n{END}{after}", encoding="utf-8")


def say(line: str) -> None:
    """Progress, beside the results."""
    print(line, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/adversaries", description=__doc__)
    parser.add_argument("--list", action="store_true", help="who there is, and stop")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    parser.add_argument("--write", action="store_true", help="fill docs/data/adversaries.json and docs/ADVERSARIES.md")
    parser.add_argument("--no-run", action="store_true", help="only what is known already")
    parser.add_argument("--again", action="store_true", help="run again what is known")
    parser.add_argument("--engine-url", default=None, help="an engine that already serves the devnet's model")
    parser.add_argument("--keep", type=Path, default=None, help="keep keys, settings and logs in this folder")
    parser.add_argument("--seed", type=int, default=3, help="fixes keys, prompts and client seeds")
    options = parser.parse_args(arguments)
    if unknown := set(options.only) - {each.name for each in ADVERSARIES}:
        parser.error(f"no adversary is called {', '.join(sorted(unknown))}; --list names them")
    if options.write and options.only:
        parser.error("--write fills the whole table; leave --only out (what is known is not run again)")
    return options


if __name__ == "__main__":
    sys.exit(main())

"""Plays of owners that lie together: as re-executors, and as jurors of whoever is accused on their word."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adversaries_court import APPEAL_SECONDS, check_honest
from adversaries_plays import DOLLARS, JOBS, OwnPlay, credited
from adversaries_stage import PROGRAM, WAIT_SECONDS, Finding, PlayFailed, Stage
from demo_books import Books
from retally.chain.court import CaseStatus
from retally.devnet.options import NodeSpec

#: Days of trade at most, and the log e from which a verifier says mismatch.
DAYS, FOOLED = 6, 9.2
#: So long no case may go on, in real seconds, until nobody will appeal any more: nodes look twice a second.
QUIET_SECONDS = 15


async def colluding_pair(home: Path, seed: int, engine_url: str) -> dict[str, Any]:
    """Two owners of seven score everybody's answers as fraud, as re-executors and as jurors."""
    return await collude(home, seed, engine_url, [NodeSpec(name=f"honest{number}") for number in (4, 5)])


async def colluding_half(home: Path, seed: int, engine_url: str) -> dict[str, Any]:
    """Two owners of five do so."""
    return await collude(home, seed, engine_url, [])


async def collude(home: Path, seed: int, engine_url: str, more: list[NodeSpec]) -> dict[str, Any]:
    """Trade with the honest nodes alone, and see what the verifier, the juries and the accused make of it.

    The verifier has an engine of its own, and looks before it accuses.
    """
    pair = [NodeSpec(name=f"pair{n}", program=(str(PROGRAM),), arguments=("--cheat", "false-scores")) for n in (1, 2)]
    async with Stage(home, seed, [*more, *pair], engine_url, {"engine_url": engine_url}) as stage:
        honest = [node for node in stage.net.nodes if node.spec.name.startswith("honest")]
        for _ in range(DAYS):
            await stage.trade([(node, JOBS, {}) for node in honest])
            await stage.collect()
            await stage.until(lambda books: books.unaudited() == 0, "every commit to be audited")
            await asyncio.sleep(5)
            if (await stage.books()).cases():
                break
        await last_word(stage)
        await stage.net.jump(APPEAL_SECONDS)
        books = await stage.until(lambda books: all(case.executed for case in books.cases()), "their execution")
        found = [found for node in honest for found in stage.findings(node.owner.address)]
        opened = len(books.cases()) * await stage.chain.court.opening_cost()
        lost = opened - credited(books, stage.verifier)
        control = await check_honest(stage)
    return told(books, found, lost, control)


async def last_word(stage: Stage) -> None:
    """Wait until every case is decided and nobody appeals any more; time does not pass on the chain meanwhile."""
    waited = quiet = 0
    while quiet < QUIET_SECONDS:
        if waited > WAIT_SECONDS:
            raise PlayFailed(f"waited {WAIT_SECONDS:.0f} s for the verdicts")
        await asyncio.sleep(1)
        cases = await stage.chain.court.cases()
        going_on = any(case.status in (CaseStatus.DRAWING, CaseStatus.VOTING) for case in cases.values())
        waited, quiet = waited + 1, 0 if going_on else quiet + 1


def told(books: Books, found: Sequence[Finding], verifier_lost: int, control: dict[str, Any]) -> dict[str, Any]:
    """What came of it."""
    cases = [f"{case.verdict} ({', '.join(sorted(case.votes.values()))})" for case in books.cases()]
    said = [each.detail.get("own", {}).get("others", each.log_e) for each in found]
    fooled = sum(log_e >= FOOLED for log_e in said)
    cleared = sum(
        "own" in each.detail and each.log_e < FOOLED <= log_e for each, log_e in zip(found, said, strict=True)
    )
    convicted = sum(case.startswith("mismatch") for case in cases)
    appeals = sum(int(event.args["appellant"], 16) > 0 for event in books.named("RoundOpened"))
    # Whoever is accused here is a victim: what it lost is the result, and no failure of the run.
    victims = control["lost"]
    return {
        "by": "court",
        "audits": len(found),
        "fooled": fooled,
        "cleared": cleared,
        "cases": cases,
        "appeals": appeals,
        "victims": victims,
        "verifierLost": verifier_lost,
        "control": control | {"lost": []},
        "outcome": f"{fooled} of {len(found)} honest audits looked like fraud to the re-executors"
        + (f", {cleared} of them not to the verifier's own engine" if cleared else "")
        + f"; cases: {'; '.join(cases) or 'none'}"
        + (f"; appeals: {appeals}" if appeals else "")
        + f"; honest owners convicted: {convicted}; the verifier lost {verifier_lost / DOLLARS:,.2f}",
    }


COLLUSIONS: Mapping[str, OwnPlay] = {"colluding-pair": colluding_pair, "colluding-half": colluding_half}

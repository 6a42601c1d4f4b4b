"""The play of owners whose siblings replay their answers: one that the siblings declared, one that they did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adversaries_collusion import FOOLED
from adversaries_court import HONEST_JOBS, ROUNDS, are_accused, check_honest, court_result, ended, executed
from adversaries_plays import DOLLARS
from adversaries_stage import PROGRAM, Finding, PlayFailed, Stage
from retally.devnet.network import RunningNode
from retally.devnet.options import NodeSpec
from retally.devnet.tools import repo_root

#: Serves honestly and scores everybody's answers as match.
FRIEND = repo_root() / "tests" / "adversaries" / "sibling_audit_node.py"
HONEST = 4
#: Jobs a day, and how many of them are no lie: so that many audits come before the court does.
JOBS, ONE_IN = 60, 10
ASKED = {"temperature": 1.0, "top_p": 0.95}


@dataclass(frozen=True, slots=True)
class Sibling:
    """What a sibling made of the audits of one owner."""

    audits: int
    drawn: int
    lies: int
    """Audits of answers that some re-executor called fraud."""
    covered: int
    """Those of them that the sibling called match."""
    hidden: int
    """Those of them that weigh nothing in the end."""


def sibling_of(found: Sequence[Finding], sibling: str) -> Sibling:
    """Over the findings of one owner's drawn points."""
    said = [(each, {r["owner"]: r["logE"] for r in each.detail.get("replays", ()) if "logE" in r}) for each in found]
    said = [(each, by_owner) for each, by_owner in said if by_owner]
    lies = [(each, by_owner) for each, by_owner in said if max(by_owner.values()) >= FOOLED]
    covered = [(each, by_owner) for each, by_owner in lies if by_owner.get(sibling, FOOLED) < 0]
    return Sibling(
        audits=len(said),
        drawn=sum(sibling in by_owner for _, by_owner in said),
        lies=len(lies),
        covered=len(covered),
        hidden=sum(each.log_e < FOOLED for each, _ in covered),
    )


async def declare(stage: Stage, one: RunningNode, other: RunningNode) -> None:
    """Both say on chain that they are siblings (R-44)."""
    for node, sibling in ((one, other), (other, one)):
        await node.owner.send(stage.chain.registry.declare_sibling(sibling.owner.address, True))


async def sibling_audit(home: Path, seed: int, engine_url: str) -> dict[str, Any]:
    """Two cheats, each with a sibling; those of the one are declared, and the other says match of everybody."""
    lie = ("--cheat", "wrong-seed", "--one-in", str(ONE_IN))
    flatterer = NodeSpec(name="cheat-sibling", program=(str(FRIEND),), arguments=("--cheat", "flattering-scores"))
    specs = [
        *(NodeSpec(name=name, program=(str(PROGRAM),), arguments=lie) for name in ("cheat", "declared")),
        flatterer,
        # It would lie for none but its own, and is never asked about that one.
        NodeSpec(name="declared-sibling"),
    ]
    async with Stage(home, seed, specs, engine_url, honest=HONEST) as stage:
        pairs = {name: (stage.node(name), stage.node(f"{name}-sibling")) for name in ("cheat", "declared")}
        await declare(stage, *pairs["declared"])
        cheats = [cheat for cheat, _ in pairs.values()]
        for _ in range(ROUNDS):
            await stage.trade(
                [*((node, HONEST_JOBS, {}) for node in stage.honest), *((node, JOBS, ASKED) for node in cheats)]
            )
            await stage.collect()
            await stage.until(lambda books: books.unaudited() == 0, "every commit to be audited")
            if await are_accused(stage, [node.owner.address for node in cheats]):
                break
        books = await executed(stage)
        results = {name: court_result(stage, books, cheat.owner.address) for name, (cheat, _) in pairs.items()}
        found = {name: stage.findings(cheat.owner.address) for name, (cheat, _) in pairs.items()}
        seen = {name: sibling_of(found[name], friend.owner.address) for name, (_, friend) in pairs.items()}
        juror = pairs["cheat"][1].owner.address
        lost = sum(each.args["amount"] for each in books.named("JurorPenalised") if each.args["juror"] == juror)
        control = await check_honest(stage)
    if seen["declared"].drawn:
        raise PlayFailed(f"a declared sibling was drawn {seen['declared'].drawn} times to audit its own")
    return {**results["cheat"], "declared": results["declared"], "control": control, **told(seen, results, lost)}


def told(seen: dict[str, Sibling], results: dict[str, dict[str, Any]], lost: int) -> dict[str, Any]:
    """What came of it; `lost` is what a vote for its own cost the undeclared sibling."""
    mine, declared = seen["cheat"], seen["declared"]
    return {
        "audits": mine.audits,
        "siblingDrawn": mine.drawn,
        "lies": mine.lies,
        "covered": mine.covered,
        "hidden": mine.hidden,
        "declaredAudits": declared.audits,
        "lost": lost,
        "outcome": f"undeclared: drawn in {mine.drawn} of {mine.audits} audits; it called {mine.covered} of the"
        f" {mine.lies} lies match, of which {mine.hidden} weigh nothing; {ended(results['cheat'])}"
        f"{f', on which it sat and lost {lost / DOLLARS:,.2f}' if lost else ''}."
        f" Declared: drawn in {declared.drawn} of {declared.audits}; {ended(results['declared'])}",
    }

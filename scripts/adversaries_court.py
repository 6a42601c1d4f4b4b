"""What audits, challenges and juries make of dishonest nodes, and what is left of the honest ones beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.adversaries.registry import Act, Adversary
from tests.e2e.books import read_books

from adversaries_results import DOLLARS
from adversaries_stage import DAY, PlayFailed, Stage, of_owner
from chain_logs import Logs
from check_supply import check as check_supply
from demo_books import Books, CaseStory
from retally.chain.events import collected_of
from retally.chain.staking import Role
from retally.devnet.network import RunningNode

#: Jobs a round, by the share that is cheated: where it is rare, enough that some of those are drawn.
JOBS = {1: 10, 5: 20, 20: 60, 100: 300}
HONEST_JOBS = 4
ROUNDS = 6
APPEAL_SECONDS = 2 * DAY + 60
CASE_WAIT_SECONDS = 20


async def play_court(stage: Stage, cheats: Sequence[Adversary]) -> dict[str, dict[str, Any]]:
    """Trade, collect and audit until every cheat stands before the court, then let the juries judge."""
    owners = {stage.node(cheat.name).owner.address: cheat for cheat in cheats}
    for _ in range(ROUNDS):
        books = await stage.books()
        free = [cheat for owner, cheat in owners.items() if owner not in accused(books)]
        await stage.trade(
            [
                *((node, HONEST_JOBS, {}) for node in stage.honest),
                *((stage.node(c.name), JOBS[c.one_in], c.ask) for c in free),
            ]
        )
        await stage.collect()
        await stage.until(lambda books: books.unaudited() == 0, "every commit to be audited")
        if await are_accused(stage, owners):
            break
    books = await executed(stage)
    return {cheat.name: court_result(stage, books, owner) for owner, cheat in owners.items()}


async def are_accused(stage: Stage, owners: Collection[str]) -> bool:
    """Whether all of them come before the court in the time that a verifier needs to open cases."""
    for _ in range(CASE_WAIT_SECONDS):
        if accused(await stage.books()).issuperset(owners):
            return True
        await asyncio.sleep(1)
    return False


async def executed(stage: Stage) -> Books:
    """Let the juries judge and the time to appeal pass; the books once every verdict is executed."""
    await stage.until(lambda books: all(case.verdict for case in books.cases()), "the juries' verdicts")
    await stage.net.jump(APPEAL_SECONDS)
    return await stage.until(lambda books: all(case.executed for case in books.cases()), "verdicts to be executed")


def accused(books: Books) -> set[str]:
    """Who stands or stood before the court."""
    return {case.owner for case in books.cases()}


def court_result(stage: Stage, books: Books, owner: str) -> dict[str, Any]:
    """What became of one owner."""
    found = stage.findings(owner)
    by_receipt = {each.receipt: round(each.log_e, 1) for each in found if each.receipt is not None}
    log_es = sorted(by_receipt.values(), reverse=True)
    rules = sorted({str(each.detail["rule"]) for each in found if "rule" in each.detail})
    case = next((case for case in books.cases() if case.owner == owner), None)
    result: dict[str, Any] = {"points": len(found), "logE": log_es, "rules": rules, "convicted": False}
    if case is None:
        return result
    return {**result, **_judged(books, case)}


def _judged(books: Books, case: CaseStory) -> dict[str, Any]:
    flows = case.executed.args if case.executed else {"slashed": 0, "refunded": 0, "burned": 0}
    opened = next(event for event in books.named("CaseOpened") if event.args["caseId"] == case.case_id)
    before = Books([event for event in books.events if event.block <= opened.block])
    drawn = before.drawn()
    commits = {c.commit.id for c in map(collected_of, before.named("Collected")) if c.commit.owner == case.owner}
    refunded_in_full = flows["refunded"] == case.paid_for_shown
    return {
        "by": "court",
        "convicted": case.verdict == "mismatch" and flows["slashed"] > 0 and refunded_in_full,
        "verdict": case.verdict,
        "votes": sorted(case.votes.values()),
        "shown": len(case.shown),
        "audits": sum(len(points) for commit, points in drawn.items() if commit in commits),
        "slashed": flows["slashed"],
        "burned": flows["burned"],
        "refunded": flows["refunded"],
        "paidForShown": case.paid_for_shown,
    }


def ended(result: Mapping[str, Any]) -> str:
    """In words, what became of one owner of several in a play."""
    if "verdict" not in result:
        return f"**not convicted** after {result['points']} audits"
    what = f"slashed {result['slashed'] / DOLLARS:,.2f}" if result["convicted"] else f"**{result['verdict']}**"
    return f"court, {result['audits']} audits, jury {len(result['votes'])}: {what}"


async def play_silence(stage: Stage, cheats: Sequence[Adversary]) -> dict[str, dict[str, Any]]:
    """Trade and collect; who shows nothing is challenged on chain, and pays when its time has run out."""
    owners = {stage.node(cheat.name).owner.address: cheat for cheat in cheats}
    await stage.trade(
        [
            *((node, HONEST_JOBS, {}) for node in stage.honest),
            *((stage.node(cheat.name), JOBS[1], {}) for cheat in cheats),
        ]
    )
    await stage.collect()

    def challenged(books: Books) -> set[str]:
        nodes = {event.args["node"] for event in books.named("Challenged")}
        return {node.owner.address for node in stage.net.nodes if node.address in nodes}

    await stage.until(lambda books: owners.keys() <= challenged(books), "silent nodes to be challenged")
    await stage.net.jump(DAY + 60)
    books = await stage.until(
        lambda books: all(of_owner(books.named("SilenceSlashed"), owner) for owner in owners), "challenges to run out"
    )
    return {cheat.name: silence_result(stage, books, stage.node(cheat.name)) for cheat in owners.values()}


def silence_result(stage: Stage, books: Books, node: RunningNode) -> dict[str, Any]:
    """What silence cost a node's owner."""
    slashed = of_owner(books.named("SilenceSlashed"), node.owner.address)
    challenges = [event for event in books.named("Challenged") if event.args["node"] == node.address]
    return {
        "by": "silence",
        "convicted": bool(slashed) and slashed[0].args["slashed"] > 0,
        "audits": 1,
        "challenges": len(challenges),
        "slashed": sum(event.args["slashed"] for event in slashed),
        "refunded": 0,
    }


async def check_honest(stage: Stage) -> dict[str, Any]:
    """What the controls lost: nothing, or it is said what."""
    books = await stage.books()
    wrong: list[str] = []
    for node in stage.honest:
        wrong += await _losses(stage, books, node)
    supply = await asyncio.to_thread(_supply, stage.net.rpc_url, stage.net.deployment_path)
    if not supply["supply_conserved"]:
        wrong.append(f"the asset is not conserved: {supply}")
    verdicts = books.audits([node.owner.address for node in stage.honest], without_payer=stage.verifier)
    if verdicts["mismatch"] or not verdicts["match"]:
        wrong.append(f"audits of honest nodes: {verdicts}")
    return {"nodes": len(stage.honest), "verdicts": verdicts, "lost": wrong}


def _supply(rpc_url: str, deployment: Path) -> dict[str, Any]:
    found: dict[str, Any] = check_supply(Logs(rpc_url, deployment))
    return found


async def _losses(stage: Stage, books: Books, node: RunningNode) -> list[str]:
    owner, name = node.owner.address, node.spec.name
    wrong = []
    stake = await stage.chain.staking.stake_of(owner, Role.OPERATOR)
    if stake.bonded != stage.net.options.stake or stake.thawing:
        wrong.append(f"{name}'s stake is {stake.bonded} of {stage.net.options.stake}")
    wrong += [f"{name} was slashed {e.args['severity']}" for e in of_owner(books.named("Slashed"), owner)]
    wrong += [f"{name} was accused in case {case.case_id}" for case in books.cases() if case.owner == owner]
    wrong += [
        f"{name} was penalised {e.args['amount']} as a juror"
        for e in books.named("JurorPenalised")
        if e.args["juror"] == owner
    ]
    ledger = read_books(stage.net, node)
    for channel in ledger.channels:
        collected, billed = await stage.chain.escrow.channel(channel.id), channel.last_cum
        if channel.id.payer == stage.net.payer.address and collected != billed:
            wrong.append(f"{name} billed {billed} on lane {channel.id.lane} and collected {collected}")
    return wrong


PLAYS = {Act.COURT: play_court, Act.SILENCE: play_silence}

__all__ = ["PLAYS", "PlayFailed", "check_honest", "play_court", "play_silence"]

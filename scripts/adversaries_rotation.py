"""The play of an operator that leaves whenever it was caught once, and comes again as somebody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adversaries_court import HONEST_JOBS, JOBS, are_accused, check_honest, court_result, executed
from adversaries_plays import DOLLARS
from adversaries_stage import DAY, PROGRAM, PlayFailed, Stage
from retally.chain.staking import Role
from retally.devnet.network import RunningNode
from retally.devnet.options import NodeSpec

HONEST, IDENTITIES = 4, 3
#: An identity that nobody has caught by then stops the play.
DAYS = 6
ONE_IN = 5
ASKED = {"temperature": 1.0, "top_p": 0.95}
#: After so long the first day's owners are audited as established ones, and what began to thaw in a week has thawed.
ESTABLISHED_SECONDS = 28 * DAY + 60


def liar(name: str, one_in: int) -> NodeSpec:
    """A node that samples under seeds of its own."""
    return NodeSpec(name=name, program=(str(PROGRAM),), arguments=("--cheat", "wrong-seed", "--one-in", str(one_in)))


async def identity_rotation(home: Path, seed: int, engine_url: str) -> dict[str, Any]:
    """One collects a day of lies and starts its thaw at once; another lies seldom, and leaves once it was caught."""
    async with Stage(home, seed, [liar("hasty", 1), liar("identity1", ONE_IN)], engine_url, honest=HONEST) as stage:
        started, hasty, careful = stage.chain.clock.now(), stage.node("hasty"), [stage.node("identity1")]
        days = [await stay(stage, careful[0], hasty)]
        while len(careful) < IDENTITIES:
            careful.append(await stage.net.add_node(liar(f"identity{len(careful) + 1}", ONE_IN)))
            days.append(await stay(stage, careful[-1]))
        owners = [node.owner.address for node in (hasty, *careful)]
        await are_accused(stage, owners)
        books = await executed(stage)
        results = [court_result(stage, books, owner) for owner in owners]
        control = await check_honest(stage)
        await stage.net.jump(started + ESTABLISHED_SECONDS - stage.chain.clock.now())
        kept = [await withdraw(stage, node) for node in (hasty, *careful)]
        registry = stage.chain.registry
        newest = await registry.audit_level(careful[-1].owner.address)
        oldest = await registry.audit_level(stage.honest[0].owner.address)
    stake = stage.net.options.stake
    levels = f"{newest.step_units} units a point and a share of {newest.share_ppm / 10_000:g} %"
    levels += f", {oldest.step_units} and {oldest.share_ppm / 10_000:g} % for who stayed"
    return {
        "by": "cost",
        "identities": results,
        "days": days,
        "kept": kept,
        "levels": [[each.step_units, each.share_ppm] for each in (newest, oldest)],
        "control": control,
        "outcome": told(results, days, kept, stake) + f". The newest is audited at {levels}",
    }


def told(results: list[dict[str, Any]], days: list[int], kept: list[int], stake: int) -> str:
    """What became of the hasty one, and of the identities of the careful one."""
    hasty, *careful = results
    ended = f"{hasty['verdict']}, slashed {hasty['slashed'] / DOLLARS:,.2f}" if "verdict" in hasty else "not convicted"
    free = [number for number, each in enumerate(careful) if not each["convicted"]]
    audits = ", ".join(str(each["points"]) for each in careful)
    return (
        f"thawed before the audit of its one day: {ended} while it thawed, {kept[0] / DOLLARS:,.2f} of"
        f" {stake / DOLLARS:,.2f} withdrawn. Left when caught: {len(careful)} identities of {_list(days)} days with"
        f" {audits} audits, {len(free)} **not convicted**; each stake lay idle for 21 days, and"
        f" {sum(kept[1:]) / DOLLARS:,.2f} of {len(careful) * stake / DOLLARS:,.2f} came back"
    )


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


async def stay(stage: Stage, node: RunningNode, hasty: RunningNode | None = None) -> int:
    """Serve until a verdict on chain says mismatch, then leave; the days that it took."""
    for day in range(1, DAYS + 1):
        also = [(hasty, JOBS[1], ASKED)] if hasty and day == 1 else []
        await stage.trade([*((each, HONEST_JOBS, {}) for each in stage.honest), (node, JOBS[ONE_IN], ASKED), *also])
        await stage.collect()
        if hasty and day == 1:
            await leave(stage, hasty)
        books = await stage.until(lambda books: books.unaudited() == 0, "every commit to be audited")
        if books.audits([node.owner.address])["mismatch"]:
            await leave(stage, node)
            return day
    raise PlayFailed(f"{node.spec.name} was not caught once in {DAYS} days")


async def leave(stage: Stage, node: RunningNode) -> None:
    """Start the thaw of all that is bonded. The node goes on answering: silence would be proof (R-39)."""
    bonded = (await stage.chain.staking.stake_of(node.owner.address, Role.OPERATOR)).bonded
    await node.owner.send(stage.chain.staking.thaw(Role.OPERATOR, bonded))


async def withdraw(stage: Stage, node: RunningNode) -> int:
    """Take out what has thawed."""
    before = await stage.chain.asset.balance_of(node.owner.address)
    await node.owner.send(stage.chain.staking.withdraw(Role.OPERATOR))
    return await stage.chain.asset.balance_of(node.owner.address) - before

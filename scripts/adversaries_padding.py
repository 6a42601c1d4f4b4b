"""The play of a node that pays itself beside its payers, to dilute their audits, and of its twin that does not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adversaries_court import HONEST_JOBS, ROUNDS, are_accused, check_honest, court_result, ended, executed
from adversaries_plays import DOLLARS
from adversaries_stage import MAX_TOKENS, PROGRAM, PlayFailed, Stage
from demo_books import Books
from retally import AsyncClient, Wallet
from retally.chain.deployment import Deployment
from retally.chain.events import Collected, collected_of
from retally.devnet.keys import derive_key
from retally.devnet.network import RunningNode
from retally.devnet.options import RUSD, NodeSpec
from retally.devnet.parties import Party

PADDED, TWIN = "padded-commits", "twin"
HONEST = 4
#: Jobs a day: of the payers, who get them at half of their temperature, and its own, the longest that there are.
PAYERS_JOBS, OWN_JOBS = 30, 30
ASKED = {"temperature": 1.0, "top_p": 0.95}
PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was collected of some payers, what of it went to the audits, and how many points of it were drawn."""

    money: int
    share: int
    points: int
    least: int
    """The points that so much money has at the least: one in each whole step of each range (R-24)."""


def drawn_of(books: Books, owner: str, payers: Iterable[str]) -> Drawn:
    """Over the commits of an owner whose seeds are known."""
    known, wanted, points = books.drawn(), set(payers), 0
    money = share = least = 0
    for collected in map(collected_of, books.named("Collected")):
        commit = collected.commit
        if commit.owner != owner or commit.id not in known:
            continue
        sizes = _sizes(collected, wanted)
        money += sum(sizes.values())
        share += sum(sizes.values()) * commit.share_ppm // PPM
        least += sum(size // commit.step for size in sizes.values())
        points += sum(point.range_index in sizes for point in known[commit.id])
    return Drawn(money, share, points, least)


def _sizes(collected: Collected, payers: set[str]) -> dict[int, int]:
    """How much each range of these payers collected, by its place in the commit."""
    return {i: each.after - each.before for i, each in enumerate(collected.ranges) if each.payer in payers}


async def padded_commits(home: Path, seed: int, engine_url: str) -> dict[str, Any]:
    """The same prompts to both, which lie alike; one of them collects its own money in the same commits."""
    cheats = [NodeSpec(name=name, program=(str(PROGRAM),), arguments=("--cheat", "sampler")) for name in (PADDED, TWIN)]
    async with Stage(home, seed, cheats, engine_url, honest=HONEST) as stage:
        own = Party(derive_key(stage.seed, "own payer"), stage.net.anvil, stage.chain)
        await own.deposit(100 * RUSD)
        nodes = [stage.node(name) for name in (PADDED, TWIN)]
        owners = {node.owner.address for node in nodes}
        for _ in range(ROUNDS):
            await trade(stage, own, nodes)
            await stage.collect()
            await stage.until(lambda books: books.unaudited() == 0, "every commit to be audited")
            if await are_accused(stage, owners):
                break
        books = await executed(stage)
        payers = {each.payer for event in books.named("Collected") for each in collected_of(event).ranges}
        honest_payers = payers - {own.address, stage.verifier}
        beside, alone = (drawn_of(books, node.owner.address, honest_payers) for node in nodes)
        padding = drawn_of(books, nodes[0].owner.address, [own.address])
        result, twin = (court_result(stage, books, node.owner.address) for node in nodes)
        control = await check_honest(stage)
    if not padding.money or beside.points < beside.least:
        raise PlayFailed(f"{padding} of its own money left {beside} of the payers': fewer points than R-24 draws")
    return {**result, "twin": twin, "control": control, **told(beside, alone, padding, result, twin)}


def told(beside: Drawn, alone: Drawn, padding: Drawn, result: dict[str, Any], twin: dict[str, Any]) -> dict[str, Any]:
    """What came of it."""
    return {
        "payersPoints": beside.points,
        "twinsPoints": alone.points,
        "ownPoints": padding.points,
        "paddingCost": padding.share,
        "outcome": f"payers' {beside.money / DOLLARS:.6f} drew {beside.points} points beside"
        f" {padding.money / DOLLARS:.6f} of its own with {padding.points}; {alone.money / DOLLARS:.6f} drew"
        f" {alone.points} at a twin without padding. {ended(result)}; its twin: {ended(twin)}."
        f" The padding cost {padding.share / DOLLARS:.6f}, its audit share",
    }


async def trade(stage: Stage, own: Party, nodes: list[RunningNode]) -> None:
    """A day's jobs: the same ones to both cheats, a few to the honest, and the padding."""
    prompts = stage.draw(PAYERS_JOBS)
    await stage.trade([(node, HONEST_JOBS, {}) for node in stage.honest])
    for node in nodes:
        await stage.send(node, prompts, ASKED)
    await pad(stage, own, nodes[0])


async def pad(stage: Stage, own: Party, node: RunningNode) -> None:
    """Jobs that its own account buys from it: greedy ones, since half of no temperature is none, and no lie."""
    net = stage.net
    wallet = Wallet(own.key, Deployment.load(net.deployment_path).domain, net.home / "wallets" / "own")
    extra = {"provider": {"order": [node.address], "allow_fallbacks": False}, "min_tokens": MAX_TOKENS}
    async with AsyncClient(base_url=net.router_url, wallet=wallet, deployment=net.deployment_path) as client:
        gate = asyncio.Semaphore(4)

        async def ask(question: str, client_seed: int) -> None:
            async with gate:
                await client.chat.completions.create(
                    model=net.model,
                    messages=[{"role": "user", "content": question}],
                    max_tokens=MAX_TOKENS,
                    temperature=0,
                    seed=client_seed,
                    extra_body=extra,
                )

        await asyncio.gather(*(ask(question, client_seed) for question, client_seed in stage.draw(OWN_JOBS)))

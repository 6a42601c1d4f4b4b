"""Plays with a network of their own: verifiers and payers that lie."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openai import APIError
from tests.adversaries.cheating_payer import UnpayingWallet, noisiness
from tests.e2e.books import read_books

from adversaries_court import APPEAL_SECONDS, accused, check_honest
from adversaries_stage import MAX_TOKENS, Stage
from demo_books import Books
from retally import AsyncClient, result_of
from retally.chain.deployment import Deployment
from retally.devnet.configs import verifier_settings, write_config
from retally.devnet.keys import derive_key
from retally.devnet.network import RunningNode
from retally.devnet.options import NodeSpec
from retally.devnet.parties import Party, prepare_verifier
from retally.devnet.ports import HOST, free_port
from retally.devnet.processes import Service
from retally.devnet.readiness import wait_answers
from retally.devnet.tools import devnet_model_dir, repo_root
from retally.errors import RetallyError
from retally.inference.chat_format import ChatFormat
from retally.inference.vllm_engine import VllmEngine
from retally.protocol.job import job_seed
from retally.protocol.params import ONE, JobParams

OwnPlay = Callable[[Path, int, str], Awaitable[dict[str, Any]]]

LIAR = repo_root() / "tests" / "adversaries" / "cheating_verifier.py"
DOLLARS = 1_000_000
FOURTH = NodeSpec(name="honest4")
JOBS = 6
#: Jobs that a payer begins at once without paying, and the credit that the node grants.
AT_ONCE, CREDIT = 8, 5_000
#: Prompts that a payer tries for each one that it sends.
TRIED, SENT = 40, 8


async def start_verifier(stage: Stage, lie: str, *arguments: str) -> Party:
    """Bond and start a second verifier, which lies."""
    net = stage.net
    key = derive_key(stage.seed, f"{lie} verifier")
    party = Party(key, net.anvil, stage.chain)
    await prepare_verifier(party)
    port = free_port()
    settings = verifier_settings(net.options, port=port, rpc_url=net.rpc_url, deployment=net.deployment_path)
    settings |= {"key": "0x" + key.secret.hex(), "data_dir": str(net.home / "data" / lie), "lane": 1}
    config = write_config(net.home / f"{lie}.toml", settings)
    command = [sys.executable, str(LIAR), "--lie", lie, "--config", str(config), *arguments]
    service = Service(lie, command, net.logs / f"{lie}.log", mark=net.options.mark)
    net.services[lie] = service
    service.start()
    await wait_answers(f"http://{HOST}:{port}/healthz", service)
    return party


async def false_accuser(home: Path, seed: int, engine_url: str) -> dict[str, Any]:
    """A verifier brings an honest owner to court with the worst-looking jobs; the jury replays them."""
    async with Stage(home, seed, [FOURTH], engine_url) as stage:
        victim = stage.honest[0].owner
        liar = await start_verifier(stage, "accuse", "--victim", victim.address)
        before = await stage.chain.asset.balance_of(liar.address)
        await stage.trade([(node, JOBS, {}) for node in stage.net.nodes])
        await stage.collect()
        await stage.until(lambda books: victim.address in accused(books), "the false accusation")
        await stage.until(lambda books: all(case.verdict for case in books.cases()), "the verdict")
        await stage.net.jump(APPEAL_SECONDS)
        books = await stage.until(lambda books: all(case.executed for case in books.cases()), "its execution")
        case = books.cases()[0]
        wealths = sorted(found.log_e for found in stage.findings(victim.address))
        control = await check_honest(stage)
        # That it was accused is the lie; what must not be is that it cost anything.
        control["lost"] = [each for each in control["lost"] if "was accused" not in each]
        spent = before - await stage.chain.asset.balance_of(liar.address) - credited(books, liar.address)
        gained = credited(books, victim.address)
    return {
        "by": "court",
        "convicted": False,
        "verdict": case.verdict,
        "votes": sorted(case.votes.values()),
        "shown": len(case.shown),
        "largestLogE": max(wealths, default=0.0),
        "accuserLost": spent,
        "accusedGot": gained,
        "control": control,
        "outcome": f"jury says {case.verdict} ({', '.join(sorted(case.votes.values()))}); the accuser loses"
        f" {spent / DOLLARS:,.2f}, of which the accused gets {gained / DOLLARS:,.2f}",
    }


def credited(books: Books, account: str) -> int:
    """What the court gave an account."""
    return sum(event.args["amount"] for event in books.named("Credited") if event.args["account"] == account)


async def unpaying(home: Path, seed: int, engine_url: str) -> dict[str, Any]:
    """A payer pays for its prompts alone, many at once and then one more; the node risks the credit that it grants."""
    strict = NodeSpec(name="strict", settings={"credit_per_payer": CREDIT, "voucher_wait_seconds": 3})
    async with Stage(home, seed, [strict], engine_url) as stage:
        net, node = stage.net, stage.node("strict")
        told = await read_without_paying(stage, node)
        books = read_books(net, node)
        billed = sum(channel.last_cum for channel in books.channels if channel.id.payer == net.payer.address)
        vouched = sum(channel.best for channel in books.channels if channel.id.payer == net.payer.address)
        tokens = [receipt.output_tokens for receipt in books.receipts]
        await stage.trade([(each, JOBS, {}) for each in stage.honest])
        await stage.collect()
        await stage.until(lambda books: books.unaudited() == 0, "the audits of the others")
        control = await check_honest(stage)
    return {
        "by": "the node",
        "told": told,
        "billed": billed,
        "vouched": vouched,
        "tokens": tokens,
        "control": control,
        "outcome": f"of {AT_ONCE} jobs at once and one after, {len(tokens)} are begun; {billed / DOLLARS:.6f} billed,"
        f" {vouched / DOLLARS:.6f} vouched, {CREDIT / DOLLARS:.6f} of credit granted",
    }


async def read_without_paying(stage: Stage, node: RunningNode) -> list[str]:
    """Streams of a payer that vouches for their prompts alone: some at once, then one; what it got, or was told."""
    net = stage.net
    wallet = UnpayingWallet(net.payer.key, Deployment.load(net.deployment_path).domain, net.home / "unpaying")

    async def read(client: AsyncClient, question: str, client_seed: int) -> str:
        try:
            stream = await client.chat.completions.create(
                model=net.model,
                messages=[{"role": "user", "content": question}],
                max_tokens=MAX_TOKENS,
                seed=client_seed,
                stream=True,
                extra_body={"provider": {"order": [node.address], "allow_fallbacks": False}},
            )
            async for _ in stream:
                continue
            return f"{result_of(stream).output_tokens} tokens"
        except (APIError, RetallyError) as error:
            return f"{type(error).__name__}: {str(error)[:160]}"

    async with AsyncClient(base_url=net.router_url, wallet=wallet, deployment=net.deployment_path) as client:
        *at_once, last = stage.draw(AT_ONCE + 1)
        told = await asyncio.gather(*(read(client, *asked) for asked in at_once))
        return [*told, await read(client, *last)]


async def noise_searcher(home: Path, seed: int, engine_url: str) -> dict[str, Any]:
    """A payer tries prompts on an engine of its own and sends those with the most near ties to one honest node."""
    async with Stage(home, seed, [FOURTH], engine_url) as stage:
        victim, model = stage.honest[0], devnet_model_dir()
        form, engine = ChatFormat.load(model), VllmEngine(engine_url, stage.net.model)
        date = _today(stage)
        params = JobParams(max_tokens=MAX_TOKENS, template_date=date, temperature=ONE)
        tried = []
        for question, client_seed in stage.draw(TRIED):
            ids = form.render({"messages": [{"role": "user", "content": question}]}, date)
            sampled = job_seed(client_seed.to_bytes(32, "big"), 0)
            noisy, margin = await noisiness(engine, ids, params, sampled, form.eos_ids)
            tried.append((noisy, margin, question, client_seed))
        await engine.close()
        worst = sorted(tried, reverse=True)[:SENT]
        await stage.send(victim, [(question, client_seed) for _, _, question, client_seed in worst], {})
        await stage.trade([(node, JOBS, {}) for node in stage.net.nodes if node is not victim])
        await stage.collect()
        books = await stage.until(lambda books: books.unaudited() == 0, "every commit to be audited")
        log_es = sorted((round(found.log_e, 2) for found in stage.findings(victim.owner.address)), reverse=True)
        cases = len(books.cases())
        control = await check_honest(stage)
    ties = [noisy for noisy, _, _, _ in worst]
    return {
        "by": "evidence",
        "nearTies": ties,
        "meanNearTies": sum(noisy for noisy, *_ in tried) / len(tried),
        "largestMarginTried": max(margin for _, margin, *_ in tried),
        "logE": log_es,
        "cases": cases,
        "control": control,
        "outcome": f"{TRIED} prompts tried, {SENT} sent with {min(ties)} to {max(ties)} near ties each:"
        f" largest log e {log_es[0] if log_es else 0:+.2f}, {cases} cases",
    }


def _today(stage: Stage) -> str:
    return datetime.fromtimestamp(stage.chain.clock.now(), UTC).date().isoformat()


OWN_PLAYS: Mapping[str, OwnPlay] = {
    "false-accuser": false_accuser,
    "unpaying": unpaying,
    "noise-searcher": noise_searcher,
}

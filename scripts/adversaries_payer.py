"""The play of a payer that keeps what it is given, compares what the node shows later, and proves what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
from tests.adversaries.registry import Adversary

from adversaries_stage import MAX_TOKENS, Stage
from retally import AsyncClient, Wallet, result_of
from retally.chain.deployment import Deployment
from retally.chain.transactions import TxSender
from retally.claim_faults import Claimant
from retally.devnet.keys import derive_key
from retally.devnet.network import RunningNode
from retally.devnet.parties import GAS_WEI
from retally.inclusion import Inclusion
from retally.inference.chat_format import ChatFormat
from retally.job_result import JobResult
from retally.protocol.encoding import parse_signature
from retally.protocol.receipt import JobReceipt, ReceiptLeaf
from retally.receipt_faults import Fault, Shown, find_faults

JOBS = 3
NOTHING = {"convicted": False, "by": "nothing differed"}


async def play_claims(stage: Stage, cheats: Sequence[Adversary]) -> dict[str, dict[str, Any]]:
    """Buy from each with a key of one's own, compare, prove."""
    nodes = [*stage.honest, *(stage.node(cheat.name) for cheat in cheats)]
    bought = {node.spec.name: await buy(stage, node) for node in nodes}
    claimant = await claiming(stage)
    results: dict[str, dict[str, Any]] = {}
    for cheat in cheats:
        if cheat.name == "conflicting-receipts":
            results[cheat.name] = await conflict(stage, claimant, stage.node(cheat.name), bought[cheat.name])
    await stage.collect()
    for cheat in cheats:
        if cheat.name not in results:
            results[cheat.name] = await committed(stage, claimant, stage.node(cheat.name), bought[cheat.name])
    for cheat in cheats:
        failed = sorted({name for job in bought[cheat.name] for name, ok in checks_of(job).items() if ok is False})
        said = sorted({str(error) for job in bought[cheat.name] if (error := job.payment_error or job.voucher_error)})
        more = {"offlineChecksFailed": failed, "clientSaid": said, "audits": 0, "jobs": len(bought[cheat.name])}
        results[cheat.name] |= more
    for node in stage.honest:
        for job in bought[node.spec.name]:
            await compare_honest(stage, node, job)
    await stage.until(lambda books: books.unaudited() == 0, "every commit to be audited")
    return results


async def claiming(stage: Stage) -> Claimant:
    """An account that has nothing but gas."""
    key = derive_key(stage.seed, "claimant")
    await stage.net.anvil.set_balance(key.address, GAS_WEI)
    return Claimant(stage.chain, TxSender(stage.chain, key))


async def buy(stage: Stage, node: RunningNode) -> list[JobResult]:
    """A few answers of one node, with their receipts."""
    net = stage.net
    folder = net.home / "wallets" / node.spec.name
    wallet = Wallet(net.payer.key, Deployment.load(net.deployment_path).domain, folder)
    results = []
    async with AsyncClient(base_url=net.router_url, wallet=wallet, deployment=net.deployment_path) as client:
        for question, seed in stage.draw(JOBS):
            answer = await client.chat.completions.create(
                model=net.model,
                messages=[{"role": "user", "content": question}],
                max_tokens=MAX_TOKENS,
                seed=seed,
                extra_body={"provider": {"order": [node.address], "allow_fallbacks": False}},
            )
            results.append(result_of(answer))
    return results


def checks_of(job: JobResult) -> dict[str, Any]:
    """What the client's own checks said of an answer."""
    return dict(job.checks.as_dict())


async def conflict(stage: Stage, claimant: Claimant, node: RunningNode, jobs: Sequence[JobResult]) -> dict[str, Any]:
    """The receipt that the payer got against the one that the node shows: two signatures, no commit."""
    for job in jobs:
        shown = Shown(await receipts_of(node, str(job.job_id)))
        for fault in find_faults(job.evidence, shown, stage.chain.domain):
            return await proven(claimant, fault)
    return NOTHING


async def committed(stage: Stage, claimant: Claimant, node: RunningNode, jobs: Sequence[JobResult]) -> dict[str, Any]:
    """What lies under commits against what the payer holds; the first difference is proven."""
    for job in jobs:
        evidence = replace(job.evidence, renderer=ChatFormat.load(stage.net.model_dir).render)
        shown = Shown((), await inclusions_of(node, str(job.job_id)))
        for fault in find_faults(evidence, shown, stage.chain.domain):
            return await proven(claimant, fault)
    return NOTHING


async def proven(claimant: Claimant, fault: Fault) -> dict[str, Any]:
    """What the first fault that is found comes to."""
    ended = await claimant.prove(fault)
    return {
        "by": f"Faults, {fault.name}",
        "owner": ended.owner,
        "slashed": ended.slashed,
        "refunded": ended.refunded,
        "convicted": ended.slashed > 0,
    }


async def compare_honest(stage: Stage, node: RunningNode, job: JobResult) -> None:
    """An honest node's receipts are the ones that were given, each under a commit; raises where not."""
    found = await inclusions_of(node, str(job.job_id))
    if [each.leaf for each in found] != [each for each in job.receipts if each.receipt.fee]:
        raise AssertionError(f"{node.spec.name} committed other receipts than it gave")


async def receipts_of(node: RunningNode, job_id: str) -> list[ReceiptLeaf]:
    """The receipts of a job as its node shows them."""
    body = await _get(f"{node.url}/retally/v1/receipts/{job_id}")
    return [
        ReceiptLeaf(JobReceipt.from_wire(each["receipt"]), parse_signature("signature", each["signature"]))
        for each in body["receipts"]
    ]


async def inclusions_of(node: RunningNode, job_id: str) -> list[Inclusion]:
    """Where they lie under commits."""
    body = await _get(f"{node.url}/retally/v1/receipts/{job_id}/inclusion")
    return [Inclusion.from_wire(each) for each in body["inclusions"]]


async def _get(url: str) -> Any:
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        answer = await client.get(url)
    answer.raise_for_status()
    return answer.json()

"""The play of a verifier that says match without looking, and of an operator that plants a trap for it (R-57)."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eth_abi.abi import decode, encode
from openai import AsyncOpenAI
from tests.adversaries.cheating_answers import SURE, planted_ids

from adversaries_court import check_honest
from adversaries_payer import inclusions_of
from adversaries_plays import DOLLARS, FOURTH, JOBS, start_verifier
from adversaries_stage import PROGRAM, PlayFailed, Stage
from demo_books import Books
from retally.chain.events import ChainEvent, Collected, collected_of
from retally.chain.staking import Role
from retally.devnet.network import RunningNode
from retally.devnet.options import NodeSpec
from retally.devnet.tools import devnet_model_dir
from retally.inclusion import Inclusion
from retally.inference.chat_format import ChatFormat
from retally.protocol.audit_points import AuditPoint
from retally.protocol.encoding import Address, keccak, u32
from retally.protocol.job import canonical_json
from retally.protocol.merkle import CHUNK, leaf, prove, quantise_logprob
from retally.protocol.params import JobParams

SHORT = "Hello"
TRAPS = 10
TOKENS = CHUNK + 1
ROUNDS = 5
NO_BIAS = b',"logitBias":{},'
MATCH = 1


@dataclass(frozen=True, slots=True)
class Caught:
    """A verdict of match on a planted job."""

    collected: Collected
    revealed: ChainEvent
    point: AuditPoint
    inclusion: Inclusion


async def lazy_verifier(home: Path, seed: int, engine_url: str) -> dict[str, Any]:
    """Plant, be audited, and spring the trap on whoever said match."""
    secret = keccak(b"planted" + u32(seed))
    planter = NodeSpec(name="planter", program=(str(PROGRAM),), arguments=("--cheat", "trap", "--secret", secret.hex()))
    async with Stage(home, seed, [FOURTH, planter], engine_url) as stage:
        liar = await start_verifier(stage, "lazy")
        node = stage.node("planter")
        await node.owner.send(stage.chain.audits.call("plantTrap", hash_of(node.owner.address, secret)))
        stake = await bond_of(stage, liar.address)
        for day in range(1, ROUNDS + 1):
            jobs = await plant(stage, node)
            await stage.trade([(each, JOBS, {}) for each in stage.honest])
            await stage.collect()
            books = await stage.until(lambda books: books.unaudited() == 0, "every commit to be audited")
            caught = await find(stage, books, node, liar.address, jobs)
            if caught is not None:
                break
            if day == ROUNDS:
                raise PlayFailed(f"the lazy verifier was drawn for no planted point in {day} days")
        assert caught is not None
        await node.owner.send(await spring(stage, caught, secret))
        slashed = stake - await bond_of(stage, liar.address)
        paid = sum(event.args["slashed"] for event in (await stage.books()).named("CaseExecuted"))
        honest_bond = await bond_of(stage, stage.verifier)
        control = await check_honest(stage)
        if honest_bond != stake:
            control["lost"].append(f"the honest verifier's bond is {honest_bond} of {stake}")
    return {
        "by": "springTrap",
        "convicted": slashed > 0,
        "slashed": slashed,
        "refunded": 0,
        "audits": day,
        "planterSlashed": paid,
        "control": control,
        "outcome": f"a trap on day {day} took {slashed / DOLLARS:,.2f} of its bond, none of the honest verifier's;"
        f" the planter, whose node bears the evidence, paid {paid / DOLLARS:,.2f} in court",
    }


def hash_of(planter: str, secret: bytes) -> bytes:
    """What is planted."""
    return keccak(encode(["address", "bytes32"], [planter, secret]))


async def bond_of(stage: Stage, verifier: str) -> int:
    """What a verifier has at stake."""
    return (await stage.chain.staking.stake_of(Address(verifier), Role.VERIFIER)).bonded


async def plant(stage: Stage, node: RunningNode) -> list[str]:
    """Short prompts to the planter's own node, as anybody's would look; the ids of the jobs."""
    jobs = []
    async with AsyncOpenAI(api_key=stage.net.api_key, base_url=f"{stage.net.router_url}/v1", max_retries=0) as client:
        for _, client_seed in stage.draw(TRAPS):
            answer = await client.completions.create(
                model=stage.net.model,
                prompt=SHORT,
                max_tokens=TOKENS,
                seed=client_seed,
                extra_body={"provider": {"order": [node.address], "allow_fallbacks": False}},
            )
            jobs.append(str((answer.model_extra or {})["retally"]["jobId"]))
    return jobs


async def find(stage: Stage, books: Books, node: RunningNode, liar: str, jobs: list[str]) -> Caught | None:
    """A planted receipt under a drawn point of which the liar said match."""
    commits = {c.commit.id: c for c in map(collected_of, books.named("Collected")) if c.commit.node == node.address}
    shown = [found for job in jobs for found in await inclusions_of(node, job)]
    for revealed in books.named("VerdictsRevealed"):
        collected = commits.get(revealed.args["commitId"])
        if collected is None or revealed.args["verifier"] != liar:
            continue
        for point in books.drawn()[collected.commit.id]:
            for inclusion in shown:
                receipt = inclusion.leaf.receipt
                here = receipt.channel.key == point.channel and inclusion.commit.id == collected.commit.id
                if here and receipt.cum_from <= point.point < receipt.cum_to:
                    return Caught(collected, revealed, point, inclusion)
    return None


async def spring(stage: Stage, caught: Caught, secret: bytes) -> Any:
    """The call that shows verdict and planted answer together."""
    tokens = ChatFormat.load(devnet_model_dir()).vocab_size
    receipt, audits = caught.inclusion.leaf.receipt, stage.chain.audits
    ids = planted_ids(secret, tokens)
    rest = _output_ids(stage, receipt.job_id)[CHUNK:]
    quantised = [quantise_logprob(SURE)] * (CHUNK + len(rest))
    leaves = [_leaf(0, ids, quantised[:CHUNK]), *([_leaf(CHUNK, rest, quantised[CHUNK:])] if rest else [])]
    params = canonical_json(_params(stage, receipt.job_id).to_json())
    verdicts, salt = await _reveal(stage, caught.revealed)
    shown = (receipt.to_abi(), caught.inclusion.leaf.signature, caught.inclusion.index, list(caught.inclusion.proof))
    sprung = (
        shown,
        caught.inclusion.leaf_count,
        caught.point.range_index,
        caught.point.k,
        0,
        (leaves[0], list(prove([leaf(data) for data in leaves], 0))),
        verdicts,
        salt,
        secret,
        tokens,
        params,
        params.index(NO_BIAS),
    )
    return audits.call("springTrap", caught.collected.commit.to_abi(), caught.collected.packed_ranges, sprung)


def _leaf(first: int, ids: tuple[int, ...], quantised: list[int]) -> bytes:
    """The data of an output tree's leaf (R-17)."""
    return u32(first) + b"".join(u32(token) for token in ids) + b"".join(q.to_bytes(2, "big") for q in quantised)


async def _reveal(stage: Stage, revealed: ChainEvent) -> tuple[bytes, bytes]:
    """Verdicts and salt, from the calldata of the reveal."""
    sent = await stage.chain.rpc.request("eth_getTransactionByHash", "0x" + revealed.tx_hash.hex())
    entry = stage.chain.audits.abi.functions["revealVerdicts"]
    values = decode([each.type for each in entry.inputs], bytes.fromhex(sent["input"][10:]))
    return values[-2], values[-1]


def _row(stage: Stage, query: str, job_id: bytes) -> Any:
    path = stage.net.home / "data" / "planter" / "ledger.sqlite"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as ledger:
        return ledger.execute(query, (job_id,)).fetchone()[0]


def _output_ids(stage: Stage, job_id: bytes) -> tuple[int, ...]:
    blob = _row(stage, "SELECT output_ids FROM receipts WHERE job_id = ?", job_id)
    return tuple(int.from_bytes(blob[place : place + 4], sys.byteorder) for place in range(0, len(blob), 4))


def _params(stage: Stage, job_id: bytes) -> JobParams:
    return JobParams.from_json(json.loads(_row(stage, "SELECT params FROM requests WHERE job_id = ?", job_id)))

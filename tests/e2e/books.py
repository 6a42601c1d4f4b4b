"""The books of a whole network, read from outside: ledgers on disk, Redis and the chain."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import redis.asyncio

from chain_logs import Logs
from check_supply import check as check_supply
from retally.chain.connection import Chain
from retally.chain.events import EventReader
from retally.devnet.network import Network, RunningNode
from retally.protocol.encoding import Address
from retally.protocol.receipt import JobReceipt
from retally.protocol.voucher import ChannelId


@dataclass(frozen=True)
class ChannelRow:
    """A channel as a node's ledger has it."""

    id: ChannelId
    best: int
    last_cum: int


@dataclass(frozen=True)
class NodeBooks:
    """One node's ledger."""

    channels: tuple[ChannelRow, ...]
    receipts: tuple[JobReceipt, ...]

    def line(self, channel: ChannelId) -> list[JobReceipt]:
        """The receipts that billed anything on a channel, in order."""
        billed = [receipt for receipt in self.receipts if receipt.channel == channel and receipt.fee]
        return sorted(billed, key=lambda receipt: receipt.cum_from)


def read_books(network: Network, node: RunningNode) -> NodeBooks:
    """A node's ledger from its file, whether the node runs or not."""
    path = network.home / "data" / node.spec.name / "ledger.sqlite"
    return read_ledger(path, Address(node.address)) if path.exists() else NodeBooks((), ())


def read_ledger(path: Path, node: Address) -> NodeBooks:
    """The channels and receipts of a ledger file."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as ledger:
        ledger.execute("BEGIN")
        channels = ledger.execute("SELECT payer, signer, lane, best, last_cum FROM channels").fetchall()
        bodies = ledger.execute("SELECT body FROM receipts").fetchall()
    return NodeBooks(
        tuple(
            ChannelRow(ChannelId(payer, signer, node, lane), int.from_bytes(best, "big"), int.from_bytes(cum, "big"))
            for payer, signer, lane, best, cum in channels
        ),
        tuple(JobReceipt.from_wire(json.loads(body)) for (body,) in bodies),
    )


async def shown_best(http: httpx.AsyncClient, node: RunningNode, channel: ChannelId) -> int:
    """The best voucher of a channel that a node says it has."""
    answer = await http.get(f"{node.url}/retally/v1/channels/{channel.payer}/{channel.signer}/{channel.lane}")
    answer.raise_for_status()
    return int(answer.json()["best"])


def check_tiling(books: NodeBooks) -> None:
    """Receipts tile each channel from zero to its end, so that nothing is billed twice and nothing is missing."""
    for channel in books.channels:
        line = books.line(channel.id)
        assert [receipt.cum_from for receipt in line[:1]] in ([], [0])
        assert all(before.cum_to == after.cum_from for before, after in pairwise(line))
        assert sum(receipt.fee for receipt in line) == channel.last_cum


def billed_tokens(all_books: Iterable[NodeBooks]) -> dict[bytes, int]:
    """Output tokens billed for each job, over all nodes; fails where two receipts bill the same token."""
    pieces: dict[tuple[bytes, int], list[JobReceipt]] = defaultdict(list)
    for books in all_books:
        for receipt in books.receipts:
            pieces[receipt.job_id, receipt.choice].append(receipt)
    tokens: dict[bytes, int] = defaultdict(int)
    for (job_id, _), receipts in pieces.items():
        receipts.sort(key=lambda receipt: (receipt.output_from, receipt.output_to))
        for before, after in pairwise(receipts):
            assert before.output_to <= after.output_from, f"{job_id.hex()} billed to {before.output_to}, then {after}"
        tokens[job_id] += sum(receipt.output_to - receipt.output_from for receipt in receipts)
    return tokens


async def check_collected(chain: Chain, payer: Address, before: NodeBooks, after: NodeBooks) -> None:
    """The chain paid what is both promised and receipted: all of it where the payer is at rest."""
    promised = {channel.id: min(channel.best, channel.last_cum) for channel in before.channels}
    for channel in after.channels:
        collected = await chain.escrow.channel(channel.id)
        assert promised.get(channel.id, 0) <= collected <= min(channel.best, channel.last_cum)
        if channel.id.payer == payer:
            assert collected == channel.last_cum == promised[channel.id]


def check_escrow(network: Network) -> None:
    """Escrow and Staking hold what they owe, by the logs alone."""
    found = check_supply(Logs(network.rpc_url, network.deployment_path))
    assert found["supply_conserved"], found


async def read_verdicts(chain: Chain) -> dict[int, list[bytes]]:
    """The verdicts revealed on each commit."""
    events = await EventReader(chain, ("Audits",)).read(chain.deployment.deployed_block, await chain.block_number())
    found: dict[int, list[bytes]] = defaultdict(list)
    for event in events:
        if event.name == "VerdictsRevealed":
            found[event.args["commitId"]].append(event.args["verdicts"])
    return found


@dataclass(frozen=True)
class RouterBooks:
    """What a router's Redis counts for one payer."""

    open_jobs: int
    holds: dict[str, int]
    promised: dict[ChannelId, int]
    closed: dict[ChannelId, int]
    promised_by_signer: dict[str, int]


async def read_router(redis_url: str, payer: Address) -> RouterBooks:
    """A payer's numbers in Redis."""
    store: Any = redis.asyncio.Redis.from_url(redis_url, decode_responses=True)
    try:
        credit = await store.hgetall(f"retally:{{{payer}}}:credit")
        promised, closed = {}, {}
        prefix = f"retally:{{{payer}}}:channel:"
        async for key in store.scan_iter(match=prefix.replace("{", "\\{") + "*", count=1000):
            signer, node, lane = key.removeprefix(prefix).split(":")
            channel = ChannelId(payer, Address(signer), Address(node), int(lane))
            totals = await store.hgetall(key)
            promised[channel], closed[channel] = int(totals.get("promised", 0)), int(totals.get("closed", 0))
        holds = {k[5:]: int(v.split("|")[0]) for k, v in credit.items() if k.startswith("hold:")}
        signers = {k[9:]: int(v) for k, v in credit.items() if k.startswith("promised:")}
        return RouterBooks(await store.hlen(f"retally:{{{payer}}}:open"), holds, promised, closed, signers)
    finally:
        await store.aclose()


async def count_open(store: Any, payer: Address) -> Counter[str]:
    """How many segments the router has on record as open at each node; the store decodes its responses."""
    return Counter(name.split(":")[1] for name in await store.hkeys(f"retally:{{{payer}}}:open"))

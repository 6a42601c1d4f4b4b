"""Holds what came through the router to PROTOCOL.md: signatures, roots, fees, money lines, vouchers."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from bench_router_market import DOMAIN, node_key, offer_of
from retally.protocol.eip712 import check_signed_by
from retally.protocol.encoding import parse_signature
from retally.protocol.merkle import OutputTree
from retally.protocol.pricing import fee_round_down
from retally.protocol.receipt import Chunk, JobReceipt

CHECKED = 150
NODES = {node_key(str(number)).address: str(number) for number in range(8)}

Channel = tuple[str, str, str, int]


class Wrong(Exception):
    """The router's output does not keep the protocol."""


def bodies_of(path: Path) -> Iterator[bytes]:
    """The answers that the load generator kept."""
    raw, at = path.read_bytes(), 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        yield raw[at + 4 : at + 4 + size]
        at += 4 + size


class Books:
    """The money that the answers of one run billed."""

    def __init__(self) -> None:
        self.ranges: dict[Channel, list[tuple[int, int]]] = defaultdict(list)
        self.answers = self.tokens = 0

    def add(self, body: bytes, *, stream: bool, tokens: int, full: bool) -> None:
        """Takes one answer in; checks all that it shows."""
        if stream:
            frames = [json.loads(event[6:]) for event in body.decode().split("\n\n")[:-1] if event != "data: [DONE]"]
            extras = [frame["retally"] for frame in frames if frame.get("retally")]
            ids = [token for extra in extras for token in extra.get("ids", [])]
            quantised = [q for extra in extras for q in extra.get("q", [])]
            signed = [(extra["receipt"], extra["receiptSignature"]) for extra in extras if "receipt" in extra]
            chunks = [(extra["chunk"], extra["chunkSignature"]) for extra in extras if "chunk" in extra]
            if not body.endswith(b"data: [DONE]\n\n"):
                raise Wrong("a stream has no [DONE]")
        else:
            extra = json.loads(body)["retally"]
            ids, quantised = extra["ids"]["0"], extra["q"]["0"]
            signed = [(item["receipt"], item["signature"]) for item in extra["receipts"]]
            chunks = []
        if len(ids) != tokens or len(signed) != 1:
            raise Wrong(f"{len(ids)} tokens and {len(signed)} receipts instead of {tokens} and 1")
        self.answers += 1
        self.tokens += len(ids)
        receipt = JobReceipt.from_wire(signed[0][0])
        key = (receipt.payer, receipt.signer, receipt.node, receipt.lane)
        self.ranges[key].append((receipt.cum_from, receipt.cum_to))
        if full:
            check_receipt(receipt, signed[0][1], ids, quantised)
            for chunk, signature in chunks:
                check_chunk(Chunk.from_wire(chunk), signature, ids, quantised)

    def check_lines(self) -> None:
        """No money is billed twice."""
        for channel, ranges in self.ranges.items():
            ranges.sort()
            for (_, before), (after, _) in pairwise(ranges):
                if after < before:
                    raise Wrong(f"two receipts of {channel} bill the same money")


def check_receipt(receipt: JobReceipt, signature: str, ids: list[int], quantised: list[int]) -> None:
    """Signature (R-7), output root (R-17) and fee (R-19)."""
    check_signed_by(receipt.digest(DOMAIN), parse_signature("signature", signature), receipt.node)
    tree = OutputTree()
    tree.append(ids, quantised)
    fee = fee_round_down(
        offer_of(receipt.node).prices,
        prompt_tokens=receipt.prompt_tokens,
        cached_tokens=0,
        output_tokens=len(ids),
        choice=0,
        output_from=0,
    )
    if receipt.node not in NODES or tree.root() != receipt.output_root or fee != receipt.fee:
        raise Wrong("a receipt contradicts its answer")


def check_chunk(chunk: Chunk, signature: str, ids: list[int], quantised: list[int]) -> None:
    """Signature and root of what was sent up to there."""
    check_signed_by(chunk.digest(DOMAIN), parse_signature("signature", signature), chunk.node)
    tree = OutputTree()
    tree.append(ids[: chunk.output_to], quantised[: chunk.output_to])
    if tree.root() != chunk.output_root:
        raise Wrong("a chunk contradicts its answer")


def check_dump(path: Path, *, stream: bool, tokens: int) -> Books:
    """All kept answers of a run: each one's counts and money, some in full."""
    books = Books()
    for number, body in enumerate(bodies_of(path)):
        books.add(body, stream=stream, tokens=tokens, full=number % 7 == 0 and number < 7 * CHECKED)
    books.check_lines()
    return books


def check_nodes(urls: list[str], answers: int) -> dict[str, int]:
    """The nodes' books after a run: all jobs are in, every receipt is covered by a voucher."""
    jobs = fees = 0
    for url in urls:
        shown: dict[str, Any] = httpx.get(f"{url}/retally/v1/info", trust_env=False).json()["bench"]
        for channel, line in shown.items():
            state = httpx.get(f"{url}/retally/v1/channels/{channel}", trust_env=False).json()
            if int(state["best"]) < line["fees"] or int(state["lastCumTo"]) != line["fees"] or state["open"]:
                raise Wrong(f"channel {channel}: {line['fees']} billed, {state['best']} promised, {state['open']} open")
            jobs += line["jobs"]
            fees += line["fees"]
    if jobs < answers:
        raise Wrong(f"{answers} answers, but the nodes closed {jobs} jobs")
    return {"jobs": jobs, "fees": fees}

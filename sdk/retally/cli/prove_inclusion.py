"""Receipts against the chain: the node shows the path, the Escrow says whether the commit was made."""

from __future__ import annotations

from typing import Any

from retally.cli.session import Session, run
from retally.errors import InvalidReceipt, NodeUnavailable
from retally.inclusion import Inclusion, check_inclusion
from retally.protocol.encoding import to_hex
from retally.protocol.receipt import JobReceipt


def prove_inclusion(session: Session, content: dict[str, Any]) -> list[dict[str, Any]]:
    """The commits that hold a job's receipts; raises where a path or a commit is false."""
    held = {JobReceipt.from_wire(item["receipt"]): item["signature"] for item in content["receipts"]}
    endpoints = {node["node"]: node["endpoint"] for node in session.router("GET", "/retally/v1/nodes")["nodes"]}
    found: list[Inclusion] = []
    for node in dict.fromkeys(receipt.node for receipt in held):
        if node not in endpoints:
            raise NodeUnavailable(f"node {node} is not in the router's directory")
        body = session.ask(endpoints[node], "GET", f"/retally/v1/receipts/{content['jobId']}/inclusion")
        found += [Inclusion.from_wire(item) for item in body["inclusions"]]
    for inclusion in found:
        receipt = inclusion.leaf.receipt
        if held.get(receipt) != to_hex(inclusion.leaf.signature):
            raise InvalidReceipt("the committed receipt is the one held", receipt.cum_to, "another")
        check_inclusion(inclusion, session.domain)

    async def made() -> None:
        async with session.chain() as chain:
            for inclusion in found:
                if not await chain.escrow.is_commit(inclusion.commit):
                    raise InvalidReceipt("the commit was made on chain", inclusion.commit.id, "unknown")

    run(made)
    return [{"choice": item.leaf.receipt.choice, "commitId": item.commit.id, "included": True} for item in found]

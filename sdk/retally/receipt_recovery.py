"""Receipts of jobs that ended without us: cancelled streams, lost connections, an earlier life of the process."""

from __future__ import annotations

from retally.errors import RetallyError
from retally.http_steps import HttpCall, Steps, Unreachable, call
from retally.protocol.eip712 import check_signed_by
from retally.protocol.encoding import Address, parse_bytes32, parse_signature, to_hex
from retally.protocol.receipt import JobReceipt, ReceiptLeaf
from retally.wallet import StaleJob, Wallet


def recover_receipts(wallet: Wallet, node: Address, now: int) -> Steps[list[ReceiptLeaf]]:
    """Settles what stands open on the channel to a node; what its receipts don't prove stays unpaid."""
    recovered: list[ReceiptLeaf] = []
    stale = list(wallet.stale(node))
    for job_id in dict.fromkeys(job.job_id for job in stale):
        try:
            answer = yield from call(HttpCall("GET", f"/v1/receipts/{job_id}"))
        except Unreachable:
            return recovered
        body = answer.json()
        entries = body.get("receipts", []) if isinstance(body, dict) and not answer.failed else []
        leaves = [leaf for leaf in map(_leaf, entries) if leaf.receipt.node == node]
        for leaf in leaves:
            if to_hex(leaf.receipt.job_id) == job_id and _settled(wallet, leaf):
                recovered.append(leaf)
        if not leaves and answer.status in (200, 404):
            _forget_if_late(wallet, [job for job in stale if job.job_id == job_id], now)
    return recovered


def _leaf(entry: dict[str, object]) -> ReceiptLeaf:
    return ReceiptLeaf(JobReceipt.from_wire(entry.get("receipt")), parse_signature("signature", entry.get("signature")))


def _settled(wallet: Wallet, leaf: ReceiptLeaf) -> bool:
    try:
        check_signed_by(leaf.receipt.digest(wallet.domain), leaf.signature, leaf.receipt.node)
        wallet.settle(leaf.receipt)
    except RetallyError:
        return False
    return True


def _forget_if_late(wallet: Wallet, jobs: list[StaleJob], now: int) -> None:
    for job in jobs:
        if job.deadline < now:
            wallet.abandon(job.node, parse_bytes32("jobId", job.job_id), job.choice + 1)

"""Receipts of jobs that ended without us: cancelled streams, lost connections, an earlier life of the process."""

from __future__ import annotations

from typing import Any

from retally.errors import RetallyError
from retally.http_steps import HttpCall, Steps, Unreachable, call
from retally.protocol.eip712 import check_signed_by
from retally.protocol.encoding import Address, parse_bytes32, parse_signature, to_hex
from retally.protocol.receipt import JobReceipt, ReceiptLeaf
from retally.wallet import StaleJob, Wallet

# Asking must not hold up the job that waits behind it.
JOBS_AT_ONCE = 4


def recover_receipts(wallet: Wallet, node: Address, now: int) -> Steps[list[ReceiptLeaf]]:
    """Settles what stands open, on the channel to `node` first; what its receipts don't prove stays unpaid."""
    recovered: list[ReceiptLeaf] = []
    stale = sorted(wallet.stale(), key=lambda job: job.node != node)
    for where, job_id in list(dict.fromkeys((job.node, job.job_id) for job in stale))[:JOBS_AT_ONCE]:
        try:
            answer = yield from call(HttpCall("GET", f"/retally/v1/nodes/{where}/receipts/{job_id}"))
        except Unreachable:
            return recovered
        leaves = [] if answer.failed else [leaf for leaf in _leaves(answer.json()) if leaf.receipt.node == where]
        for leaf in leaves:
            if to_hex(leaf.receipt.job_id) == job_id and _settled(wallet, leaf):
                recovered.append(leaf)
        if not leaves and answer.status in (200, 404):
            _forget_if_late(wallet, [job for job in stale if job.job_id == job_id], now)
    return recovered


def _leaves(body: Any) -> list[ReceiptLeaf]:
    """What of an answer is receipts: a node's rubbish must not stop jobs at other nodes."""
    entries = body.get("receipts") if isinstance(body, dict) else None
    leaves = map(_leaf_or_none, entries if isinstance(entries, list) else [])
    return [leaf for leaf in leaves if leaf is not None]


def _leaf_or_none(entry: Any) -> ReceiptLeaf | None:
    try:
        signature = parse_signature("signature", entry.get("signature"))
        return ReceiptLeaf(JobReceipt.from_wire(entry.get("receipt")), signature)
    except (RetallyError, AttributeError, KeyError, TypeError, ValueError):
        return None


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

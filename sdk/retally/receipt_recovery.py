"""Receipts of jobs that ended without us: cancelled streams, lost connections, an earlier life of the process."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from retally.errors import RetallyError
from retally.http_steps import HttpCall, Steps, Unreachable, call
from retally.protocol.eip712 import check_signed_by
from retally.protocol.encoding import Address, Bytes32, parse_bytes32, parse_signature, to_hex
from retally.protocol.receipt import JobReceipt, ReceiptLeaf
from retally.protocol.wire import ChannelState
from retally.wallet import StaleJob, Wallet, segment_key

log = logging.getLogger(__name__)

# Asking must not hold up the job that waits behind it.
JOBS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Recovered:
    """A receipt that came late, and why it is not paid where it isn't."""

    leaf: ReceiptLeaf
    error: RetallyError | None = None


def recover_receipts(wallet: Wallet, node: Address, now: int) -> Steps[list[Recovered]]:
    """Settles what stands open, on the channel to `node` first; what its receipts don't prove stays unpaid."""
    recovered: list[Recovered] = []
    stale = sorted(wallet.stale(), key=lambda job: job.node != node)
    for where, job_id in list(dict.fromkeys((job.node, job.job_id) for job in stale))[:JOBS_AT_ONCE]:
        try:
            answer = yield from call(HttpCall("GET", f"/retally/v1/nodes/{where}/receipts/{job_id}"))
        except Unreachable:
            return recovered
        leaves = [] if answer.failed else [leaf for leaf in _leaves(answer.json()) if leaf.receipt.node == where]
        for leaf in leaves:
            late = _taken(wallet, leaf, now) if to_hex(leaf.receipt.job_id) == job_id else None
            if late is not None:
                recovered.append(late)
        if not leaves and answer.status in (200, 404):
            _forget_if_late(wallet, [job for job in stale if job.job_id == job_id], now)
    return recovered


def recover_promises(wallet: Wallet, node: Address, job_id: Bytes32) -> Steps[bool]:
    """Whether the node holds a voucher of ours that this record has lost, say in a folder restored from a copy."""
    path = f"/retally/v1/nodes/{node}/channels/{wallet.payer}/{wallet.signer}/{wallet.lane}"
    try:
        answer = yield from call(HttpCall("GET", path))
        found = not answer.failed and wallet.catch_up(node, job_id, ChannelState.from_wire(answer.json()))
    except (RetallyError, AttributeError, KeyError, TypeError, ValueError):
        return False
    if found:
        log.warning(
            "%s holds more vouchers of lane %d than its record: were its files restored from a copy? Two homes with "
            "copies of one lanes/ folder share a lane, and pay for each other's jobs: remove one of them",
            node,
            wallet.lane,
        )
    return found


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


def _taken(wallet: Wallet, leaf: ReceiptLeaf, now: int) -> Recovered | None:
    receipt = leaf.receipt
    try:
        check_signed_by(receipt.digest(wallet.domain), leaf.signature, receipt.node)
    except RetallyError:
        return None
    entry = wallet.line(receipt.node).open.get(segment_key(receipt.job_id, receipt.choice))
    if entry is None:
        return None
    try:
        wallet.settle(receipt)
    except RetallyError as error:
        if receipt.fee > entry.most or entry.deadline < now:
            # Tokens that nobody had when the caller left, or a receipt that fits into no line: looked for no more.
            wallet.refuse(receipt.node, receipt.job_id, receipt.choice)
        return Recovered(leaf, error)
    return Recovered(leaf)


def _forget_if_late(wallet: Wallet, jobs: list[StaleJob], now: int) -> None:
    for job in jobs:
        if job.deadline < now:
            # A node that bills it all the same leaves a gap, for which its later receipts are not to blame.
            wallet.refuse(job.node, parse_bytes32("jobId", job.job_id), job.choice)

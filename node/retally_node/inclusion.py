"""Show that a job's receipts lie under commits, to whoever holds the job's id."""

from __future__ import annotations

from retally.inclusion import Inclusion
from retally.protocol.merkle import leaf, prove
from retally.protocol.receipt import ReceiptLeaf
from retally_node.ledger import Ledger
from retally_node.records import ReceiptRecord


def inclusions_of(ledger: Ledger, job_id: bytes) -> list[Inclusion]:
    """Where each committed receipt of a job stands; one that straddles two commits stands under both."""
    return [found for record in ledger.jobs.receipts(job_id) for found in _inclusions(ledger, record)]


def _inclusions(ledger: Ledger, record: ReceiptRecord) -> list[Inclusion]:
    found = []
    for commit in ledger.commits.commits_with(record.digest):
        digests = ledger.commits.leaves(commit.record.receipts_root)
        others = [ledger.jobs.receipt(digest) for digest in digests]
        hashes = [leaf(other.digest + other.signature) for other in others if other is not None]
        index = digests.index(record.digest)
        own = ReceiptLeaf(record.receipt, record.signature)
        found.append(Inclusion(own, commit.record, index, len(hashes), tuple(prove(hashes, index))))
    return found

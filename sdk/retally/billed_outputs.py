"""Whether the receipts of an answer bill each of its tokens once, for one and the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from retally.errors import InvalidReceipt
from retally.job_evidence import Evidence, Unknown
from retally.protocol.encoding import to_hex
from retally.protocol.receipt import JobReceipt


def check_outputs(evidence: Evidence) -> None:
    """The receipts of a choice start at its first token and adjoin; all are for one prompt (R-19, R-52)."""
    receipts = [leaf.receipt for leaf in evidence.receipts]
    for one, other in pairwise(receipts):
        if (one.prompt_tokens, one.prompt_root) != (other.prompt_tokens, other.prompt_root):
            raise InvalidReceipt("one prompt in all receipts", _prompt(one), _prompt(other))
    # One without output bills nothing.
    billed = sorted((item for item in receipts if item.output_to > item.output_from), key=lambda item: item.output_from)
    for choice, node in {(item.choice, item.node) for item in billed}:
        _refuse_overlap([item for item in billed if (item.choice, item.node) == (choice, node)])
    by_choice = [[item for item in billed if item.choice == choice] for choice in {item.choice for item in billed}]
    for line in by_choice:
        if evidence.is_live:
            _refuse_overlap(line)
        _require_whole(line)


def _refuse_overlap(line: Sequence[JobReceipt]) -> None:
    for one, other in pairwise(line):
        if other.output_from < one.output_to:
            raise InvalidReceipt(f"R-52: each token of choice {one.choice} once", one.output_to, other.output_from)


def _require_whole(line: Sequence[JobReceipt]) -> None:
    end = 0
    for receipt in line:
        if receipt.output_from > end:
            # What a node that failed made before another went on is billed later, or never: no fault of these receipts.
            missing = f"tokens {end} to {receipt.output_from} of choice {receipt.choice}"
            raise Unknown(f"the receipt of {missing} not at hand")
        if receipt.output_from < end:
            # Receipts of different nodes never contradict: a router may have raced two, and kept what both billed.
            raise Unknown(f"which node made the tokens from {receipt.output_from} not at hand")
        end = receipt.output_to


def _prompt(receipt: JobReceipt) -> str:
    return f"{receipt.prompt_tokens} tokens of {to_hex(receipt.prompt_root)}"

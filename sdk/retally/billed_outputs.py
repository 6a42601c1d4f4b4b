"""Whether the receipts of an answer bill each of its tokens once, for one and the same prompt."""

from __future__ import annotations

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
    gaps = [gap for choice in sorted({item.choice for item in receipts}) for gap in _gaps(evidence, choice)]
    if gaps:
        # What a node that failed made before another went on is billed later, or never: no fault of these receipts.
        raise Unknown("the receipt of " + ", ".join(gaps) + " not at hand")


def _gaps(evidence: Evidence, choice: int) -> list[str]:
    made = [leaf.receipt for leaf in evidence.receipts if leaf.receipt.choice == choice]
    billed = sorted(
        (item for item in made if item.output_to > item.output_from),
        key=lambda item: (item.output_from, item.output_to),
    )
    gaps: list[str] = []
    end, last = 0, None
    for receipt in billed:
        if receipt.output_from < end and last is not None:
            _refuse_overlap(evidence, last, receipt)
        if receipt.output_from > end:
            gaps.append(f"tokens {end} to {receipt.output_from} of choice {choice}")
        if receipt.output_to > end:
            end, last = receipt.output_to, receipt
    return gaps


def _refuse_overlap(evidence: Evidence, one: JobReceipt, other: JobReceipt) -> None:
    # Receipts of different nodes never contradict: a router may have raced two, and kept what both billed. What is
    # shown with the answer itself bills each token once.
    if one.node != other.node and not evidence.is_live:
        raise Unknown(f"which node made the tokens from {other.output_from} of choice {other.choice} not at hand")
    raise InvalidReceipt(f"R-52: each token of choice {other.choice} once", one.output_to, other.output_from)


def _prompt(receipt: JobReceipt) -> str:
    return f"{receipt.prompt_tokens} tokens of {to_hex(receipt.prompt_root)}"

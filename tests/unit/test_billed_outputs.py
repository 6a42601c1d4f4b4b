"""Receipts of one answer: adjoining, overlapping, with gaps, by one node and by several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes_market import DOMAIN, MODEL, FakeMarket

from retally import Client, Evidence, InvalidReceipt, SigningKey, Wallet, result_of
from retally.billed_outputs import check_outputs
from retally.job_evidence import Unknown
from retally.protocol.encoding import keccak
from retally.protocol.receipt import ReceiptLeaf

OTHER_NODE = SigningKey(keccak(b"another node")).address


@pytest.fixture
def leaf(tmp_path: Path) -> ReceiptLeaf:
    client = Client(
        base_url="http://router",
        wallet=Wallet(SigningKey(bytes(31) + b"\x07"), DOMAIN, tmp_path),
        home=tmp_path,
        transport=FakeMarket().transport(),
    )
    question: Any = [{"role": "user", "content": "Why?"}]
    return result_of(client.chat.completions.create(model=MODEL, messages=question)).receipts[0]


def evidence(leaf: ReceiptLeaf, *segments: tuple[int, int], is_live: bool = True, **second: Any) -> Evidence:
    """Receipts of these tokens; from the second on with other fields too."""
    leaves = [
        replace(leaf, receipt=replace(leaf.receipt, output_from=start, output_to=end, **(second if position else {})))
        for position, (start, end) in enumerate(segments)
    ]
    return Evidence(receipts=leaves, is_live=is_live)


@pytest.mark.parametrize("second", [{}, {"node": OTHER_NODE}], ids=["one node", "another goes on"])
def test_segments_that_adjoin_are_right(leaf: ReceiptLeaf, second: dict[str, Any]) -> None:
    check_outputs(evidence(leaf, (0, 6), (6, 12), (12, 20), **second))
    # One that made nothing bills nothing, wherever it stands.
    check_outputs(evidence(leaf, (0, 0), (0, 12), **second))
    check_outputs(evidence(leaf, (0, 12), (6, 6), **second))


def test_each_choice_starts_anew(leaf: ReceiptLeaf) -> None:
    check_outputs(evidence(leaf, (0, 6), (0, 6), choice=1))


@pytest.mark.parametrize("segments", [((0, 6), (0, 6)), ((0, 6), (5, 9)), ((0, 9), (2, 4)), ((2, 4), (0, 9))])
def test_no_node_bills_a_token_twice(leaf: ReceiptLeaf, segments: tuple[tuple[int, int], ...]) -> None:
    for is_live in (True, False):
        with pytest.raises(InvalidReceipt, match="R-52"):
            check_outputs(evidence(leaf, *segments, is_live=is_live))


def test_two_nodes_may_both_bill_what_a_race_made_but_not_in_one_answer(leaf: ReceiptLeaf) -> None:
    with pytest.raises(InvalidReceipt):
        check_outputs(evidence(leaf, (0, 6), (0, 6), node=OTHER_NODE))
    with pytest.raises(Unknown):
        check_outputs(evidence(leaf, (0, 6), (0, 6), is_live=False, node=OTHER_NODE))


@pytest.mark.parametrize("segments", [((6, 12),), ((0, 6), (8, 12))])
def test_a_receipt_that_is_not_here_is_unknown(leaf: ReceiptLeaf, segments: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(Unknown, match="tokens"):
        check_outputs(evidence(leaf, *segments, node=OTHER_NODE))


@pytest.mark.parametrize("second", [{"prompt_tokens": 3}, {"prompt_root": keccak(b"another prompt")}])
def test_all_receipts_are_for_one_prompt(leaf: ReceiptLeaf, second: dict[str, Any]) -> None:
    with pytest.raises(InvalidReceipt, match="one prompt"):
        check_outputs(evidence(leaf, (0, 6), (6, 12), **second))

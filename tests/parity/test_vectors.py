"""The contracts' libraries against the same golden vectors as the Python (R-8, R-13 to R-19, R-24)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from web3 import Web3
from web3.contract import Contract
from web3.types import TxParams

from retally.protocol.case import CommitRecord, Range, pack_ranges
from retally.protocol.encoding import Bytes32, keccak, to_hex
from retally.protocol.offer import Offer
from retally.protocol.receipt import JobReceipt

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "protocol.json").read_text(encoding="utf-8"))
ZERO = Bytes32(bytes(32))
PRECOMPILE = Web3.to_checksum_address("0x" + "00" * 19 + "01")
HALF_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 // 2


def raw(value: str) -> bytes:
    return bytes.fromhex(value[2:])


def arguments(vector: dict[str, Any]) -> tuple[Any, ...]:
    inner = vector["type"].split("(")[1].rstrip(")")
    values = []
    for part in inner.split(","):
        kind, name = part.split(" ")
        value = vector["wire"][name]
        values.append(int(value) if "int" in kind else raw(value) if kind == "bytes32" else value)
    return tuple(values)


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda v: v["type"].split("(")[0])
def test_messages(harness: Contract, vector: dict[str, Any]) -> None:
    name = vector["type"].split("(")[0]
    assert to_hex(harness.functions[f"hash{name}"](arguments(vector)).call()) == vector["structHash"]
    assert to_hex(harness.functions.digestOf(VECTORS["escrow"], raw(vector["structHash"])).call()) == vector["digest"]
    signer = harness.functions.recover(raw(vector["digest"]), raw(vector["signature"])).call()
    assert signer == VECTORS["signer"]


@pytest.mark.parametrize("vector", VECTORS["trees"], ids=lambda v: str(len(v["leaves"])))
def test_trees(harness: Contract, vector: dict[str, Any]) -> None:
    leaves = [raw(leaf) for leaf in vector["leaves"]]
    assert to_hex(harness.functions.rootOf(leaves).call()) == vector["root"]
    if not leaves:
        return
    index, count, proof = vector["index"], len(leaves), [raw(node) for node in vector["proof"]]
    verify = harness.functions.verify
    assert verify(raw(vector["root"]), leaves[index], index, count, count, proof).call()
    assert not verify(raw(vector["root"]), keccak(leaves[index]), index, count, count, proof).call()
    assert not verify(raw(vector["root"]), leaves[index], index, count, count, [*proof, bytes(32)]).call()
    assert not verify(raw(vector["root"]), leaves[index], index + count, count, count, proof).call()


@pytest.mark.parametrize("vector", VECTORS["ids"], ids=lambda v: str(len(v["ids"])))
def test_id_trees(harness: Contract, vector: dict[str, Any]) -> None:
    assert to_hex(harness.functions.idsRoot(vector["ids"]).call()) == vector["idsRoot"]
    output = harness.functions.outputRoot(vector["first"], vector["ids"], vector["q"]).call()
    assert to_hex(output) == vector["outputRoot"]


@pytest.mark.parametrize("vector", VECTORS["fees"])
def test_fees(harness: Contract, vector: dict[str, Any]) -> None:
    someone = VECTORS["signer"]
    prices = [int(price) for price in vector["prices"]]
    offer = Offer(someone, ZERO, ZERO, *prices, 0, 0)
    start, end = vector["outputFrom"], vector["outputFrom"] + vector["outputTokens"]
    counts = (vector["promptTokens"], vector["cachedTokens"])
    head = (ZERO, vector["choice"], someone, someone, someone, 0, 0, 0, ZERO, ZERO, ZERO, ZERO)
    receipt = JobReceipt(*head, *counts, ZERO, start, end, ZERO, ZERO, ZERO, 0, 0, 0)
    assert harness.functions.feeOf(receipt.to_abi(), offer.to_abi()).call() == int(vector["fee"])


@pytest.mark.parametrize("vector", VECTORS["points"])
def test_audit_points(harness: Contract, vector: dict[str, Any]) -> None:
    seed, node, step = raw(vector["seed"]), vector["node"], int(vector["step"])
    ranges = [
        Range(item["payer"], item["signer"], item["lane"], int(item["before"]), int(item["after"]))
        for item in vector["ranges"]
    ]
    for point in vector["points"]:
        at = harness.functions.pointAt(seed, raw(point["channel"]), point["k"], step).call()
        assert at == int(point["point"])
        item = ranges[point["rangeIndex"]]
        channel = harness.functions.channelOf(item.payer, item.signer, node, item.lane).call()
        assert to_hex(channel) == point["channel"]
    packed = pack_ranges(ranges)
    commit = CommitRecord(1, node, VECTORS["signer"], ZERO, keccak(packed), step, 30_000, 5, 6)
    assert harness.functions.countDrawn(seed, commit.to_abi(), packed).call() == len(vector["points"])
    assert harness.functions.hashCommit(commit.to_abi()).call() == commit.word()


def test_no_audit_point_lies_in_an_empty_range(harness: Contract) -> None:
    someone = VECTORS["signer"]
    packed = pack_ranges([Range(someone, someone, 0, 5_000, 5_000)])
    commit = CommitRecord(1, someone, someone, ZERO, keccak(packed), 1, 30_000, 5, 6)
    # Each unit is a point where the step is one.
    assert harness.functions.countDrawn(ZERO, commit.to_abi(), packed).call() == 0
    wider = pack_ranges([Range(someone, someone, 0, 5_000, 5_001)])
    assert harness.functions.countDrawn(ZERO, commit.to_abi(), wider).call() == 1


def test_a_signature_of_the_upper_half_is_nobodys(harness: Contract) -> None:
    vector = VECTORS["messages"][0]
    digest, r = raw(vector["digest"]), raw(vector["signature"])[:32]
    # The largest s that has room beside the parity, and the largest that the rule allows.
    upper, lower = (2**255 - 1).to_bytes(32, "big"), HALF_ORDER.to_bytes(32, "big")
    precompile: TxParams = {"to": PRECOMPILE, "data": digest + (27).to_bytes(32, "big") + r + upper}
    assert int.from_bytes(harness.w3.eth.call(precompile), "big") != 0
    assert int(harness.functions.recover(digest, r + upper).call(), 16) == 0
    assert int(harness.functions.recover(digest, r + lower).call(), 16) != 0

"""The Python implementation against the golden vectors, which third-party code made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retally.protocol import case, job, merkle, offer, receipt, voucher
from retally.protocol.audit_points import commit_seed, drawn_points
from retally.protocol.case import Range
from retally.protocol.eip712 import Domain, SigningKey, TypedMessage, recover
from retally.protocol.encoding import to_hex
from retally.protocol.job import client_seed_from_int, job_seed
from retally.protocol.pricing import Prices, fee_round_down

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "protocol.json").read_text(encoding="utf-8"))
DOMAIN = Domain(VECTORS["chainId"], VECTORS["escrow"])
KEY = SigningKey.from_hex("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")
MESSAGES: dict[str, type[TypedMessage]] = {
    cls.TYPE: cls
    for module in (case, job, offer, receipt, voucher)
    for cls in vars(module).values()
    if isinstance(cls, type) and issubclass(cls, TypedMessage) and cls is not TypedMessage
}


def raw(value: str) -> bytes:
    return bytes.fromhex(value[2:])


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda v: v["type"].split("(")[0])
class TestMessages:
    def test_digest_is_that_of_eip_712(self, vector: dict[str, Any]) -> None:
        message = MESSAGES[vector["type"]].from_wire(vector["wire"])
        assert to_hex(message.struct_hash()) == vector["structHash"]
        assert to_hex(message.digest(DOMAIN)) == vector["digest"]

    def test_wire_form_survives_the_round_trip(self, vector: dict[str, Any]) -> None:
        assert MESSAGES[vector["type"]].from_wire(vector["wire"]).to_wire() == vector["wire"]

    def test_signing_is_deterministic(self, vector: dict[str, Any]) -> None:
        assert to_hex(KEY.sign(raw(vector["digest"]))) == vector["signature"]
        assert recover(raw(vector["digest"]), raw(vector["signature"])) == VECTORS["signer"]


def test_every_type_of_the_protocol_has_vectors() -> None:
    assert {vector["type"] for vector in VECTORS["messages"]} == set(MESSAGES)


@pytest.mark.parametrize("vector", VECTORS["trees"], ids=lambda v: str(len(v["leaves"])))
def test_trees(vector: dict[str, Any]) -> None:
    leaves = [raw(leaf) for leaf in vector["leaves"]]
    assert to_hex(merkle.root(leaves)) == vector["root"]
    if leaves:
        index, proof = vector["index"], [raw(node) for node in vector["proof"]]
        assert merkle.prove(leaves, index) == proof
        assert merkle.verify(raw(vector["root"]), leaves[index], index, len(leaves), len(leaves), proof)


@pytest.mark.parametrize("vector", VECTORS["ids"], ids=lambda v: str(len(v["ids"])))
def test_id_trees(vector: dict[str, Any]) -> None:
    ids, qs, first = vector["ids"], vector["q"], vector["first"]
    assert to_hex(merkle.ids_root(ids)) == vector["idsRoot"]
    assert to_hex(merkle.output_root(first, ids, qs)) == vector["outputRoot"]
    plain, output = merkle.IdsTree(), merkle.OutputTree(first)
    for i in range(0, len(ids), 7):
        plain.append(ids[i : i + 7])
        output.append(ids[i : i + 7], qs[i : i + 7])
    assert to_hex(plain.root()) == vector["idsRoot"]
    assert to_hex(output.root()) == vector["outputRoot"]


@pytest.mark.parametrize("vector", VECTORS["fees"])
def test_fees(vector: dict[str, Any]) -> None:
    fee = fee_round_down(
        Prices(*[int(price) for price in vector["prices"]]),
        prompt_tokens=vector["promptTokens"],
        cached_tokens=vector["cachedTokens"],
        output_tokens=vector["outputTokens"],
        choice=vector["choice"],
        output_from=vector["outputFrom"],
    )
    assert str(fee) == vector["fee"]


@pytest.mark.parametrize("vector", VECTORS["points"])
def test_audit_points(vector: dict[str, Any]) -> None:
    seed = commit_seed(
        raw(vector["blockHash"]), VECTORS["escrow"], int(vector["commitId"]), raw(vector["receiptsRoot"])
    )
    assert to_hex(seed) == vector["seed"]
    ranges = [
        Range(item["payer"], item["signer"], item["lane"], int(item["before"]), int(item["after"]))
        for item in vector["ranges"]
    ]
    drawn = drawn_points(seed, ranges, vector["node"], int(vector["step"]))
    assert [(p.range_index, p.k, str(p.point), to_hex(p.channel)) for p in drawn] == [
        (p["rangeIndex"], p["k"], p["point"], p["channel"]) for p in vector["points"]
    ]


@pytest.mark.parametrize("vector", VECTORS["seeds"])
def test_seeds(vector: dict[str, Any]) -> None:
    client = client_seed_from_int(int(vector["number"]))
    assert to_hex(client) == vector["clientSeed"]
    assert to_hex(job_seed(client, vector["choice"])) == vector["seed"]

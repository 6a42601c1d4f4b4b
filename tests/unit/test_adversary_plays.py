"""What the plays of padded commits and of siblings count."""

from __future__ import annotations

from typing import Any

import pytest

from adversaries_court import ended
from adversaries_padding import drawn_of
from adversaries_siblings import Sibling, sibling_of
from adversaries_stage import Finding
from demo_books import Books
from retally.chain.events import ChainEvent
from retally.protocol.case import Range
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Bytes32, keccak

OWNER, NODE, PAYER, OWN = (SigningKey(keccak(name)).address for name in (b"owner", b"node", b"payer", b"own"))
STEP = 1_000
PAID, PADDING = 5_500, 40_250
JUDGED = {"audits": 9, "votes": ["match", "match", "mismatch"], "slashed": 2_500_000_000}


def _event(name: str, **args: Any) -> ChainEvent:
    return ChainEvent("Escrow", name, args, 1, 0, Bytes32(bytes(32)))


def _commit(number: int, *ranges: Range) -> list[ChainEvent]:
    collected = _event(
        "Collected", commitId=number, node=NODE, owner=OWNER, receiptsRoot=keccak(b"root"), step=STEP,
        sharePpm=300_000, seedBlock=1, time=1, ranges=b"".join(each.pack() for each in ranges), paid=0, auditShare=0,
        held=0,
    )  # fmt: skip
    return [collected, _event("SeedFixed", commitId=number, seed=keccak(bytes([number])))]


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"points": 9, "convicted": False}, "**not convicted** after 9 audits"),
        (JUDGED | {"verdict": "match", "convicted": False}, "court, 9 audits, jury 3: **match**"),
        (JUDGED | {"verdict": "mismatch", "convicted": True}, "court, 9 audits, jury 3: slashed 2,500.00"),
    ],
)
def test_who_was_acquitted_or_never_accused_stands_out(result: dict[str, Any], said: str) -> None:
    assert ended(result) == said


class TestPadding:
    paid, padding = Range(PAYER, PAYER, 0, 0, PAID), Range(OWN, OWN, 0, 0, PADDING)

    def test_takes_no_point_from_the_payers_and_costs_its_audit_share(self) -> None:
        beside, alone = Books(_commit(1, self.paid, self.padding)), Books(_commit(1, self.paid))
        found = drawn_of(beside, OWNER, [PAYER])
        assert found.points in (5, 6)
        assert (found.money, found.least) == (PAID, 5)
        assert found.points == drawn_of(alone, OWNER, [PAYER]).points
        own = drawn_of(beside, OWNER, [OWN])
        assert own.points in (40, 41)
        assert own.share == 12_075

    def test_counts_what_has_a_seed_and_is_the_owners(self) -> None:
        unseeded = Books(_commit(1, self.paid)[:1])
        assert drawn_of(unseeded, OWNER, [PAYER]).money == 0
        assert drawn_of(Books(_commit(1, self.paid)), NODE, [PAYER]).money == 0


class TestSiblings:
    @staticmethod
    def _found(log_e: float, **said: float) -> Finding:
        replays = [{"owner": owner, "logE": each} for owner, each in said.items()]
        return Finding(log_e, None, "replayed", 1, {"replays": [*replays, {"node": "x", "error": "Timeout"}]})

    def test_counts_what_the_sibling_covered_and_what_of_it_weighs_nothing(self) -> None:
        found = [
            self._found(-1.0, honest=-1.0, other=-1.0),
            self._found(-1.0, honest=-1.0, sibling=-1.0),
            self._found(18.0, honest=18.0, other=18.0),
            self._found(15.0, honest=18.0, sibling=-1.0, other=18.0, third=18.0),
            self._found(-1.0, honest=18.0, sibling=-1.0),
            Finding(0.0, None, "unanswered", 3, {}),
        ]
        assert sibling_of(found, "sibling") == Sibling(audits=5, drawn=3, lies=3, covered=2, hidden=1)

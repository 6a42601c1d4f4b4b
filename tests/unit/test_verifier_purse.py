"""Scores bought side by side of one node: each promise covers all that run, and is on record before it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.court.crash_nodes import FakeNodes, sent_to
from tests.contracts.court.transcripts import MODEL, PRICES, PROFILE
from tests.contracts.court.world import key
from tests.fakes_world import FakeClock

from retally.buy_scores import ScoreBuyer
from retally.errors import NodeUnavailable, PriceAboveMax
from retally.protocol.eip712 import Domain
from retally.protocol.pricing import max_fee
from retally.protocol.wire import JobSubmission
from retally_verifier.purse import StorePurse
from retally_verifier.records import NodeRecord
from retally_verifier.store import Store

NODE, VERIFIER, DOMAIN = key("node"), key("verifier"), Domain(31337, key("escrow").address)
RECORD = NodeRecord(NODE.address, VERIFIER.address, MODEL, PROFILE, "http://node", False)
FEE = max_fee(PRICES, prompt_tokens=3, max_output=1)


class HeldNodes(FakeNodes):
    """Nodes that hold each job back until so many are there."""

    def __init__(self, folder: Path, store: Store, together: int) -> None:
        super().__init__(folder, DOMAIN, [NODE], {}, FakeClock().now())
        self.store = store
        self.together = together
        self.running = 0
        self.most = 0
        self.vouchers: list[int] = []
        self.fails = False
        self._all = asyncio.Event()

    async def _call(self, method: str, node: NodeRecord, path: str, body: object = None) -> dict[str, Any]:
        if path != "/retally/v1/jobs":
            return await super()._call(method, node, path, body)
        promised, _ = self.store.lane(node.node)
        self.vouchers.append(JobSubmission.from_wire(body).voucher.cumulative)
        assert promised >= self.vouchers[-1]
        if self.fails:
            raise NodeUnavailable("gone")
        self.running += 1
        self.most = max(self.most, self.running)
        if self.running == self.together:
            self._all.set()
        await asyncio.wait_for(self._all.wait(), 10)
        self.running -= 1
        return await super()._call(method, node, path, body)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    books = Store(tmp_path / "verifier.sqlite")
    yield books
    books.close()


def buyer(store: Store, nodes: FakeNodes, at_once: int) -> ScoreBuyer:
    """Buys so many at a time."""
    clock = FakeClock()
    return ScoreBuyer(nodes, StorePurse(store, nodes, VERIFIER, DOMAIN, 0), DOMAIN, clock, at_once)


class TestAtOnce:
    async def test_each_promise_covers_all_that_run(self, store: Store, tmp_path: Path) -> None:
        nodes = HeldNodes(tmp_path, store, 4)
        buying = buyer(store, nodes, 4)
        await asyncio.gather(*(buying.score(RECORD, [1, 2, 3], 1) for _ in range(8)))
        assert nodes.most == 4
        assert nodes.vouchers[:4] == [FEE, 2 * FEE, 3 * FEE, 4 * FEE]
        assert all(row["prepaid"] for row in sent_to(tmp_path))
        promised, owed = store.lane(NODE.address)
        assert owed == sum(row["fee"] for row in sent_to(tmp_path)) <= promised

    async def test_no_more_than_it_may(self, store: Store, tmp_path: Path) -> None:
        nodes = HeldNodes(tmp_path, store, 2)
        buying = buyer(store, nodes, 2)
        await asyncio.gather(*(buying.score(RECORD, [1, 2, 3], 1) for _ in range(6)))
        assert nodes.most == 2

    async def test_what_failed_is_not_promised_twice(self, store: Store, tmp_path: Path) -> None:
        nodes = HeldNodes(tmp_path, store, 1)
        buying = buyer(store, nodes, 2)
        nodes.fails = True
        for _ in range(3):
            with pytest.raises(NodeUnavailable):
                await buying.score(RECORD, [1, 2, 3], 1)
        assert nodes.vouchers == [FEE] * 3
        nodes.fails = False
        await buying.score(RECORD, [1, 2, 3], 1)
        assert nodes.vouchers[-1] == FEE


class TestPrice:
    async def test_a_node_that_asks_for_more_than_is_allowed_gets_no_voucher(
        self, store: Store, tmp_path: Path
    ) -> None:
        nodes = HeldNodes(tmp_path, store, 1)
        purse, dearest = StorePurse(store, nodes, VERIFIER, DOMAIN, 0), max(PRICES.price_in, PRICES.price_out)
        with pytest.raises(PriceAboveMax):
            await ScoreBuyer(nodes, purse, DOMAIN, FakeClock(), max_price=dearest - 1).score(RECORD, [1, 2, 3], 1)
        assert (nodes.vouchers, store.lane(NODE.address)) == ([], (0, 0))
        await ScoreBuyer(nodes, purse, DOMAIN, FakeClock(), max_price=dearest).score(RECORD, [1, 2, 3], 1)
        assert nodes.vouchers == [FEE]

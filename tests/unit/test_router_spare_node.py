"""A spare node that the money is short for: no word for the client, and its turn comes with the others'."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.fakes_router import FakeNode

from retally.errors import EngineUnavailable, InsufficientFunds, NodeUnavailable, RetallyError
from retally_router.attempts import Attempts
from retally_router.directory import Listed
from retally_router.hedge import HedgeBudget


class Visit:
    """Of which nothing is learned."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Placer:
    """The first node is late and then refuses; for the spare one there is too little at the first look."""

    async def place(self, job: Any, node: Listed, *_: Any, is_spare: bool = False) -> Any:
        if is_spare:
            raise InsufficientFunds(2, 1)
        await asyncio.sleep(0.5)
        raise EngineUnavailable("no engine")


def listed(name: str) -> Listed:
    return cast(Listed, SimpleNamespace(node=FakeNode(name).address))


@pytest.mark.parametrize("is_short_last", [False, True])
async def test_a_hedge_that_is_short_is_no_answer(is_short_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    first, spare, placer = listed("a"), listed("b"), Placer()
    budget = HedgeBudget(1.0)
    if is_short_last:

        async def late(job: Any, node: Listed, *_: Any, is_spare: bool = False) -> Any:
            await asyncio.sleep(1.0 if is_spare else 0.5)
            raise InsufficientFunds(2, 1) if is_spare else EngineUnavailable("no engine")

        monkeypatch.setattr(placer, "place", late)
    labels = SimpleNamespace(labels=lambda **_: SimpleNamespace(inc=lambda: None))
    means = SimpleNamespace(
        placer=placer,
        watch=SimpleNamespace(visit=lambda *_, **__: Visit()),
        metrics=SimpleNamespace(node_failures=labels),
        hedges=budget,
    )
    expected = {first.node: SimpleNamespace(prediction=SimpleNamespace(ttft_seconds=0.01))}
    job = SimpleNamespace(job_id=b"job")
    attempts = Attempts(cast(Any, means), cast(Any, job), cast(Any, expected))
    with pytest.raises(RetallyError) as raised:
        await attempts.begin(time.monotonic() + 5, first, [cast(Any, None)], 1, is_last=False, spare=lambda: spare)
    assert isinstance(raised.value, NodeUnavailable | EngineUnavailable)
    assert (attempts.unplaced, attempts.hedges, spare.node.lower() in attempts.tried) == ([spare], 0, False)
    assert budget.saved == 1.0

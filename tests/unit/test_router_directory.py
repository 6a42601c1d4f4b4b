"""Which nodes a router takes for alive: its own delays, and a registry that it can't read, change nothing of that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tests.fakes_router import FakeNode
from tests.fakes_world import DOMAIN, FakeChainView, FakeClock, served

from retally.errors import UpstreamTimeout
from retally_router.directory import Directory
from retally_router.node_api import HttpNodeApi
from retally_router.ports import RegisteredNode


class HungView(FakeChainView):
    """A chain whose RPC takes requests and answers none, once it hangs."""

    hangs = False

    async def nodes(self) -> Sequence[RegisteredNode]:
        if self.hangs:
            await asyncio.Event().wait()
        return await super().nodes()


async def test_a_registry_that_can_not_be_read_keeps_no_dead_node_alive() -> None:
    node, chain = FakeNode("a"), HungView()
    async with served(node) as url:
        node.url = url
        chain.registered = [node.registered()]
        api = LateApi(connect_seconds=1, first_byte_seconds=1, idle_seconds=1)
        directory = Directory(
            chain,
            api,
            FakeClock(),
            DOMAIN,
            poll_seconds=0.02,
            stale_seconds=0.1,
            audited_owners=1,
            require_calibration=True,
        )
        await api.start()
        await directory.start()
        try:
            chain.hangs = True
            # Every read of the chain is under way for ever from here on.
            await asyncio.sleep(0.3)
            assert directory.nodes()[0].alive
            api.late = True
            for _ in range(100):
                await asyncio.sleep(0.02)
                if not directory.nodes()[0].alive:
                    break
            assert not directory.nodes()[0].alive
        finally:
            await directory.close()
            await api.close()


class LateApi(HttpNodeApi):
    """A router so busy that its polls fail."""

    late = False

    async def info(self, endpoint: str) -> Mapping[str, Any]:
        if self.late:
            time.sleep(0.2)  # noqa: ASYNC251  # this is what is tested
            raise UpstreamTimeout("late")
        return await super().info(endpoint)


async def test_takes_no_node_for_dead_because_its_own_poll_came_late() -> None:
    node, clock = FakeNode("a"), FakeClock()
    async with served(node) as url:
        node.url = url
        api = LateApi(connect_seconds=1, first_byte_seconds=1, idle_seconds=1)
        terms = {"poll_seconds": 60, "stale_seconds": 0.1, "audited_owners": 1, "require_calibration": True}
        directory = Directory(FakeChainView([node.registered()]), api, clock, DOMAIN, **terms)
        await api.start()
        try:
            alive = []
            for api.late in (False, True, True, False):
                await directory.refresh()
                alive.append(directory.nodes()[0].alive)
            assert alive == [True, True, False, True]
        finally:
            await api.close()

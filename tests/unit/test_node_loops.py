"""A node's loops: what ails one is told, an error and a step that hangs."""

from __future__ import annotations

import asyncio

from tests.until import until

from retally.errors import ChainUnreachable
from retally_node.loops import Loops


class Steps:
    """A step that fails, hangs or is well."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.begun = 0

    async def __call__(self) -> None:
        self.begun += 1
        await self.may_end.wait()
        if self.error is not None:
            raise self.error


async def told(loops: Loops, *, ails: bool) -> dict[str, str]:
    await until(lambda: bool(loops.ailing) == ails)
    return loops.ailing


async def test_a_step_that_hangs_is_told_until_it_ends() -> None:
    loops, defence = Loops(0.01, longest_step_seconds=0.05), Steps()
    loops.add("defence", defence)
    loops.start()
    try:
        await until(lambda: defence.begun >= 2)
        assert loops.ailing == {}
        defence.may_end.clear()
        assert await told(loops, ails=True) == {"defence": "under way for 0 s"}
        defence.may_end.set()
        await told(loops, ails=False)
    finally:
        await loops.stop()


async def test_an_error_is_told_until_a_round_goes_well() -> None:
    loops, defence = Loops(0.01), Steps()
    defence.error = ChainUnreachable("the RPC does not answer")
    loops.add("defence", defence)
    loops.start()
    try:
        assert await told(loops, ails=True) == {"defence": "chain_unreachable: the RPC does not answer"}
        defence.error = None
        await told(loops, ails=False)
        defence.error = KeyError("a bug")
        assert await told(loops, ails=True) == {"defence": "KeyError: 'a bug'"}
    finally:
        await loops.stop()

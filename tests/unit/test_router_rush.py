"""A rush of requests is spread over turns of the loop, in order, and nobody holds it up."""

from __future__ import annotations

import asyncio

from retally_router.turnstile import Turnstile


class TestTurnstile:
    async def test_so_many_pass_in_a_turn_and_the_others_follow_in_order(self) -> None:
        gate, turn, passed = Turnstile(4), 0, []

        async def enter(number: int) -> None:
            await gate.enter()
            passed.append((number, turn))

        tasks = [asyncio.create_task(enter(number)) for number in range(18)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            turn += 1
        assert [number for number, _ in passed] == list(range(18))
        turns = [when for _, when in passed]
        assert max(turns.count(when) for when in turns) <= 4
        assert 4 <= turns[-1] - turns[0] <= 6

    async def test_whoever_leaves_takes_nobodys_place(self) -> None:
        gate = Turnstile(1)
        tasks = [asyncio.create_task(gate.enter()) for _ in range(50)]
        await asyncio.sleep(0)
        for task in tasks[1:-1]:
            task.cancel()
        async with asyncio.timeout(5):
            await tasks[-1]
        assert not tasks[-1].cancelled()

    async def test_who_comes_alone_never_waits(self) -> None:
        gate = Turnstile(1)
        for _ in range(3):
            coroutine = gate.enter()
            try:
                coroutine.send(None)
            except StopIteration:
                await asyncio.sleep(0)
                continue
            raise AssertionError("it waited")

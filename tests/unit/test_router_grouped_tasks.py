"""Background tasks by group and name."""

from __future__ import annotations

import asyncio

import pytest

from retally_router.grouped_tasks import GroupedTasks


async def wait_for(gate: asyncio.Event) -> None:
    await gate.wait()


async def test_one_runs_under_each_name_and_is_forgotten_at_its_end() -> None:
    tasks, gate = GroupedTasks(), asyncio.Event()
    for name in ("a", "a", "b"):
        tasks.start("job", name, wait_for(gate))
    tasks.start("other", "a", wait_for(gate))
    assert (len(tasks.of("job")), len(tasks.of("other")), len(list(tasks))) == (2, 1, 3)
    assert tasks.has("job", "b")
    assert not tasks.has("other", "b")
    gate.set()
    await asyncio.gather(*tasks)
    await asyncio.sleep(0)
    assert (tasks.of("job"), list(tasks), tasks.has("job", "a")) == ([], [], False)


async def test_what_nobody_foresaw_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = GroupedTasks()

    async def broken() -> None:
        raise ZeroDivisionError

    tasks.start("job", "a", broken())
    await asyncio.wait(list(tasks))
    await asyncio.sleep(0)
    assert "background_work_failed" in capsys.readouterr().out
    assert not list(tasks)

"""One verifier in several processes over a real Redis: each point is judged once, whoever dies when."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from tests.verifier_worker import DOMAIN, IDLE_SECONDS, VERIFIER, WritingJudge

from retally.chain.connection import Chain
from retally.errors import BadRequest, Conflict, Unavailable
from retally.protocol.answer import AnswerContext
from retally.protocol.audit_points import drawn_points
from retally.protocol.case import CommitRecord, Range
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak
from retally_verifier.audit_commit import CommitAuditor
from retally_verifier.bootstrap import work
from retally_verifier.lease import Lease
from retally_verifier.point_stream import PointStream
from retally_verifier.point_work import PointTask
from retally_verifier.records import CommitState, FindingState
from retally_verifier.settings import VerifierSettings
from retally_verifier.shared_work import MOST_DELIVERIES, SharedWork, Worker
from retally_verifier.store import Store
from retally_verifier.task_wire import task_of_json, task_to_json

ROOT = Path(__file__).parents[2]
OWNER, NODE, PAYER = (SigningKey(keccak(name.encode())).address for name in ("owner", "node", "payer"))
STEP, POINTS = 1_000, 12
ITEM = Range(PAYER, PAYER, 0, 0, STEP * POINTS)
COMMIT = CommitRecord(7, NODE, OWNER, keccak(b"root"), keccak(ITEM.pack()), STEP, 300_000, 12, 5_000)
SEED = keccak(b"seed")
WAIT_SECONDS = 30.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    books = Store(tmp_path / "verifier.sqlite")
    books.add_commit(COMMIT, ITEM.pack())
    books.set_seed(COMMIT.id, SEED)
    yield books
    books.close()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        await client.flushdb()
        yield client


def auditor(store: Store, redis: Redis, patience: float = 0.0) -> CommitAuditor:
    """A leader."""
    chain = cast(Chain, SimpleNamespace(domain=DOMAIN, clock=SimpleNamespace(now=lambda: 6_000)))
    return CommitAuditor(chain, cast(Any, None), store, SharedWork(PointStream(redis, VERIFIER), 0.2), patience)


@contextmanager
def process(url: str, folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of its own."""
    command = [sys.executable, "-m", "tests.verifier_worker", url, str(folder), name]
    started = subprocess.Popen(command, cwd=ROOT)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


@asynccontextmanager
async def worker(redis: Redis, folder: Path, name: str) -> AsyncIterator[Worker]:
    """A worker in this process."""
    stream = PointStream(redis, VERIFIER)
    made = Worker(stream, WritingJudge(folder, name), DOMAIN, name, at_once=3, idle_seconds=IDLE_SECONDS)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def lines(folder: Path) -> list[tuple[str, str, int]]:
    """What judges wrote."""
    path = folder / "judged.jsonl"
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something to come true."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.05)


async def drained(redis: Redis) -> None:
    """Waits until every point was handed in."""
    for _ in range(round(WAIT_SECONDS / 0.05)):
        if not await PointStream(redis, VERIFIER).backlog():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("points are left")


async def led(leader: CommitAuditor, store: Store) -> None:
    """Rounds of a leader until its commit is audited."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not store.commits(CommitState.AUDITED):
        assert time.monotonic() < deadline, store.findings()
        await leader.step()


def tasks() -> list[PointTask]:
    """All points of the commit."""
    drawn = drawn_points(SEED, [ITEM], NODE, STEP)
    return [PointTask(AnswerContext(DOMAIN, COMMIT, ITEM, point), SEED) for point in drawn]


class TestWorkers:
    async def test_share_the_points_and_each_is_judged_once(self, redis: Redis, store: Store, tmp_path: Path) -> None:
        async with worker(redis, tmp_path, "one"), worker(redis, tmp_path, "two"):
            await led(auditor(store, redis), store)
        assert len(store.findings_of_commit(COMMIT.id)) == POINTS
        ended = [(name, k) for what, name, k in lines(tmp_path) if what == "ends"]
        assert sorted(k for _, k in ended) == list(range(POINTS))
        assert {name for name, _ in ended} == {"one", "two"}
        # Nothing is left behind.
        assert await PointStream(redis, VERIFIER).backlog() == 0
        assert [key async for key in redis.scan_iter("*asked")] == []
        assert [key async for key in redis.scan_iter("*results")] == []

    async def test_one_killed_in_the_middle_loses_no_point_and_doubles_none(
        self, redis: Redis, redis_url: str, store: Store, tmp_path: Path
    ) -> None:
        (tmp_path / "hang").touch()
        leader = auditor(store, redis)
        with process(redis_url, tmp_path, "doomed") as doomed:
            await leader.step()
            await until(lambda: len(lines(tmp_path)) == 2)
            doomed.send_signal(signal.SIGKILL)
            await asyncio.to_thread(doomed.wait)
        (tmp_path / "hang").unlink()
        assert store.findings_of_commit(COMMIT.id) == []
        async with worker(redis, tmp_path, "survivor"):
            await led(leader, store)
        found = store.findings_of_commit(COMMIT.id)
        assert [each.k for each in found] == list(range(POINTS))
        assert {each.detail["by"] for each in found} == {"survivor"}
        ends = Counter(k for what, _, k in lines(tmp_path) if what == "ends")
        assert ends == dict.fromkeys(range(POINTS), 1)

    async def test_a_slow_one_that_is_alive_keeps_its_points(self, redis: Redis, store: Store, tmp_path: Path) -> None:
        (tmp_path / "hang").touch()
        stream = PointStream(redis, VERIFIER)
        await auditor(store, redis).step()
        async with worker(redis, tmp_path, "slow"):
            await until(lambda: len(lines(tmp_path)) == 3)
            await asyncio.sleep(3 * IDLE_SECONDS)
            taken = await stream.take("other", POINTS, idle_seconds=IDLE_SECONDS, wait_seconds=0.01)
        assert len(taken) == POINTS - 3
        assert {entry.deliveries for entry in taken} == {1}

    async def test_a_point_that_stops_them_is_given_up_and_its_neighbours_are_not(
        self, redis: Redis, store: Store, tmp_path: Path
    ) -> None:
        (tmp_path / "poison").touch()
        leader = auditor(store, redis)
        await leader.step()
        for turn in range(1, MOST_DELIVERIES + 1):
            # Ends in the middle, as if killed, while it holds other points too.
            async with worker(redis, tmp_path, f"victim {turn}"):
                await until(lambda turn=turn: lines(tmp_path).count(("begins", f"victim {turn}", 0)) == 1)
        async with worker(redis, tmp_path, "survivor"):
            await led(leader, store)
        given_up, *others = store.findings_of_commit(COMMIT.id)
        assert (given_up.k, given_up.state) == (0, FindingState.UNREPLAYED)
        assert "did not survive" in given_up.detail["reason"]
        assert {each.state for each in others} == {FindingState.REPLAYED}

    async def test_asks_a_silent_node_again_until_patience_ends(
        self, redis: Redis, store: Store, tmp_path: Path
    ) -> None:
        (tmp_path / "silent").touch()
        leader = auditor(store, redis, patience=0.5)
        async with worker(redis, tmp_path, "one"):
            await led(leader, store)
        assert [each.state for each in store.findings_of_commit(COMMIT.id)][1] == FindingState.SILENT
        assert sum(k == 1 and what == "ends" for what, _, k in lines(tmp_path)) > 1


class TestLeader:
    async def test_a_new_one_goes_on_with_what_the_dead_one_asked(
        self, redis: Redis, store: Store, tmp_path: Path
    ) -> None:
        await auditor(store, redis).step()
        async with worker(redis, tmp_path, "one"):
            await until(lambda: sum(what == "ends" for what, _, _ in lines(tmp_path)) == POINTS)
            await drained(redis)
        await led(auditor(store, redis), store)
        assert len(lines(tmp_path)) == 2 * POINTS

    async def test_asks_anew_what_redis_has_forgotten(self, redis: Redis, store: Store, tmp_path: Path) -> None:
        await auditor(store, redis).step()
        await redis.flushdb()
        async with worker(redis, tmp_path, "one"):
            await led(auditor(store, redis), store)
        assert len(store.findings_of_commit(COMMIT.id)) == POINTS

    async def test_lets_go_of_results_that_were_recorded_already(self, redis: Redis, store: Store) -> None:
        stream = PointStream(redis, VERIFIER)
        await stream.ask({"1:0:0": "left behind"})
        (entry,) = [await stream.take("one", 1, idle_seconds=1, wait_seconds=0.01) for _ in range(2)][-1]
        assert await stream.give(entry, '{"kind": "unjudgeable", "reason": "old"}')
        await auditor(store, redis).step()
        assert await stream.results(["1:0:0"]) == {}

    async def test_takes_the_first_of_two_results(self, redis: Redis) -> None:
        stream = PointStream(redis, VERIFIER)
        await stream.ask({"1:0:0": "task"})
        (entry,) = [await stream.take("one", 1, idle_seconds=1, wait_seconds=0.01) for _ in range(2)][-1]
        assert await stream.give(entry, "first")
        assert not await stream.give(entry, "second")
        assert await stream.results(["1:0:0"]) == {"1:0:0": "first"}
        await stream.forget("1:0:0")
        assert not await stream.give(entry, "late")
        assert await stream.results(["1:0:0"]) == {}


class TestLease:
    async def test_is_held_by_one_and_outlives_its_holder_by_little(self, redis: Redis) -> None:
        first, second = Lease(redis, "leader", 0.6), Lease(redis, "leader", 0.6)
        await first.acquire()
        with pytest.raises(Conflict, match="held by another"):
            await second.acquire()
        assert not first.lost.is_set()
        await first.release()
        await second.acquire()
        await second.release()

    async def test_is_known_to_be_lost_by_who_lost_it(self, redis: Redis) -> None:
        lease = Lease(redis, "leader", 0.6)
        await lease.acquire()
        await redis.set("leader", "another process")
        await asyncio.wait_for(lease.lost.wait(), WAIT_SECONDS)
        await lease.release()
        assert await redis.get("leader") == b"another process"

    async def test_says_when_redis_does_not_answer(self) -> None:
        async with Redis.from_url("redis://127.0.0.1:9/0") as nowhere:
            with pytest.raises(Unavailable, match="Redis does not answer"):
                await Lease(nowhere, "leader", 0.6).acquire()


def test_a_task_survives_the_wire() -> None:
    for task in tasks():
        assert task_of_json(task_to_json(task, (OWNER,)), DOMAIN) == (task, (OWNER,))


async def test_a_worker_needs_the_redis_of_its_leader(tmp_path: Path) -> None:
    path = tmp_path / "verifier.toml"
    path.write_text(
        'rpc_url = "http://127.0.0.1:9"\ndeployment = "d.json"\npublic_url = "http://v"\ndata_dir = "data"\n'
        f'key = "0x{"11" * 32}"\nmodel_dirs = ["m"]\ncalibration_dir = "c"\n'
    )
    with pytest.raises(BadRequest, match="needs the Redis"):
        await work(VerifierSettings.load(path))

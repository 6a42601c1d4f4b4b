"""`kill -9` before and after every write and send of money: no promise is lost, no job paid twice, books balance."""

from __future__ import annotations

import ast
import asyncio
import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

import pytest
from redis.asyncio import Redis
from tests.crash_router import PATIENCE, SHORT, Life, ask, first_life, make_nodes, recover, second_life
from tests.fakes_router import FakeNode
from tests.fakes_world import served
from tests.router_books import Books, read_books
from tests.router_world import database_url, running_router

from retally.protocol.eip712 import SigningKey, keccak
from retally.protocol.receipt import JobReceipt

ONCE = ("lane", "key", "used", "revoke")
ANY_JOB = ("hold", "release", "promise", "job", "receipt", "forget", "send:submission", "send:voucher")
RECOVERY = ("lane", "release", "promise", "receipt", "forget", "send:voucher")
WHEN = ("before", "after")
# Without a phase: in the first job, whose only voucher but its first settles it. Streams are three on one channel,
# each with running vouchers; the job of `cut` breaks off on one node and goes on on another.
POINTS = [f"{when}:{name}" for name in ONCE + ANY_JOB for when in WHEN]
ALONE = tuple(point for point in POINTS if point.endswith((*ANY_JOB, "lane", "key")))
POINTS += [f"{when}:{name}@{phase}" for name in ANY_JOB for when in WHEN for phase in ("streams", "cut")]
POINTS += [f"recovery:{when}:{name}" for name in RECOVERY for when in WHEN]
POINTS += [f"random-{number}@streams" for number in range(8)]
# With credit in blocks: a block, what it gives back, and jobs that take of it.
LEASED = [f"leased:{when}:{point}" for when in WHEN for point in ("hold", "shrink")]
LEASED += [
    f"leased:{when}:{name}@{phase}"
    for name in ("job", "promise", "receipt", "send:submission")
    for when in WHEN
    for phase in ("streams", "cut")
]
POINTS += [*LEASED, *(f"leased:random-{number}@streams" for number in range(8)), "none"]
AT_ONCE, LIMIT_SECONDS = 8, 60
PAYER = SigningKey(keccak(b"payer")).address
FORKS = multiprocessing.get_context("forkserver")
# What the router prepays for a prompt of these tests, and leaves as room for each job that runs beside it.
PREPAID, SLACK, STREAMS = 6, 64 * 6 + 1, 3
ROUTER = Path(__file__).parents[2] / "router"


@dataclass(frozen=True)
class Outcome:
    """A point's router from its death on: books at its death, after recovery, after one more job."""

    endings: list[int | None]
    nodes: list[FakeNode]
    life: Life
    dead: Books
    recovered: Books
    later: Books


async def live(life: Life, run: Callable[[Life], None]) -> int | None:
    """One life in a process of its own; how it ended."""
    process = FORKS.Process(target=run, args=(life,))
    process.start()
    # Only the waiting is left to a thread: threads that ask for exit codes take them from each other.
    await asyncio.to_thread(connection.wait, [process.sentinel])
    process.join()
    return process.exitcode


async def die_and_recover(url: str, folder: Path, point: str) -> Outcome:
    """Kills a router at that point, then lets another one go on from what it left."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis.from_url(url))
        await redis.flushdb()
        nodes = make_nodes()
        for node in nodes:
            node.url = await stack.enter_async_context(served(node))
        life = Life(url, tuple(node.url for node in nodes), folder, point)
        if again := point.startswith("recovery:"):
            # What that leaves: a receipt on record whose voucher is not yet promised, on a job that is open.
            life = Life(url, life.node_urls, folder, "after:receipt")
        endings = [await live(life, first_life)]
        if again:
            endings.append(await live(Life(url, life.node_urls, folder, point.removeprefix("recovery:")), second_life))
        for node in nodes:
            await node.rest()
        dead = await read_books(redis, PAYER, nodes)
        # On another lane nobody writes to the dead router's channels but who settles its jobs.
        replica = int(point.endswith("@streams"))
        world = await stack.enter_async_context(running_router(url, nodes, replica=replica, **PATIENCE))
        known = life.seen("key")
        world.api_key = known[0] if known else (await world.create_key(world.payer))["apiKey"]
        await recover(world)
        recovered = await read_books(redis, PAYER, nodes)
        if point in ("after:revoke", "none"):
            world.api_key = (await world.create_key(world.payer))["apiKey"]
        world.chain.fund(world.payer.address)
        for node in nodes:
            await ask(world, life, node, 9, max_tokens=SHORT)
        await recover(world)
        return Outcome(endings, nodes, life, dead, recovered, await read_books(redis, PAYER, nodes))


@pytest.fixture(scope="module")
def outcomes(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome | BaseException]:
    """What became of every point, several at once, each in a database of its own."""
    folders = {point: tmp_path_factory.mktemp("crash") for point in POINTS}
    FORKS.set_forkserver_preload(["tests.crash_router"])

    async def run_all() -> dict[str, Outcome | BaseException]:
        free: asyncio.Queue[int] = asyncio.Queue()
        for number in range(AT_ONCE):
            free.put_nowait(8 + number)

        async def one(point: str) -> Outcome:
            number = await free.get()
            try:
                async with asyncio.timeout(LIMIT_SECONDS):
                    return await die_and_recover(database_url(redis_url, number), folders[point], point)
            finally:
                free.put_nowait(number)

        return dict(zip(POINTS, await asyncio.gather(*map(one, POINTS), return_exceptions=True), strict=True))

    return asyncio.run(run_all())


@pytest.fixture(params=POINTS)
def outcome(request: pytest.FixtureRequest, outcomes: dict[str, Outcome | BaseException]) -> Outcome:
    """One point's."""
    found = outcomes[request.param]
    if isinstance(found, BaseException):
        raise found
    return found


def receipts_of(node: FakeNode) -> list[JobReceipt]:
    return [receipt for receipts in node.receipts.values() for receipt, _ in receipts]


class TestKilled:
    def test_dies_at_its_point(self, outcome: Outcome, request: pytest.FixtureRequest) -> None:
        expected = 0 if outcome.life.end == "none" else -signal.SIGKILL
        assert set(outcome.endings) == {expected}

    def test_no_promise_is_forgotten(self, outcome: Outcome) -> None:
        for books in (outcome.dead, outcome.recovered, outcome.later):
            promised = {channel.key: line.promised for channel, line in books.lines.items()}
            assert all(best <= promised[key] for key, best in books.vouched.items())
        for channel, line in outcome.dead.lines.items():
            assert outcome.recovered.lines[channel].promised >= line.promised
        for node in outcome.nodes:
            died = outcome.dead.vouchers[node.name]
            for voucher in node.vouchers[died:]:
                before = [other.cumulative for other in node.vouchers[:died] if other.channel == voucher.channel]
                assert voucher.cumulative >= max(before, default=0)

    def test_no_job_is_paid_twice(self, outcome: Outcome) -> None:
        for node in outcome.nodes:
            assert max(Counter(job.request.nonce for job in node.jobs).values(), default=1) == 1
            closed = Counter((receipt.job_id, receipt.choice, receipt.output_from) for receipt in receipts_of(node))
            assert max(closed.values(), default=1) == 1
        for books in (outcome.recovered, outcome.later):
            for channel, line in books.lines.items():
                # A node collects the least of what it was promised and what its receipts bill: here, all of the latter.
                assert line.closed == line.cum_to <= line.best, channel
        for channel, line in outcome.later.lines.items():
            fees = [r.fee for node in outcome.nodes for r in receipts_of(node) if r.channel == channel]
            assert sum(fees) == line.closed

    def test_promises_exceed_bills_by_no_more_than_jobs_at_once_prepay(self, outcome: Outcome) -> None:
        for books in (outcome.recovered, outcome.later):
            for channel, line in books.lines.items():
                others = 0 if outcome.life.end in ALONE else STREAMS - 1
                assert line.promised - line.closed <= PREPAID + others * (PREPAID + SLACK), channel

    def test_books_balance(self, outcome: Outcome) -> None:
        for books in (outcome.recovered, outcome.later):
            assert books.is_closed
            assert all(line.beyond == {} for line in books.lines.values())
            by_signer: Counter[str] = Counter()
            for channel, line in books.lines.items():
                by_signer[channel.signer] += line.promised
            assert books.promised == by_signer

    def test_receipts_tile_and_are_on_record(self, outcome: Outcome) -> None:
        kept = {job: [item["receipt"] for item in items] for job, items in outcome.later.receipts.items()}
        for wire in outcome.life.seen("receipt"):
            assert wire in kept[wire["jobId"]]
        for channel in outcome.later.lines:
            rows = [JobReceipt.from_wire(wire) for wires in kept.values() for wire in wires]
            rows = sorted([row for row in rows if row.channel == channel], key=lambda row: (row.cum_from, row.cum_to))
            ends = [0, *(row.cum_to for row in rows)]
            assert [row.cum_from for row in rows] == ends[:-1]
            assert ends[-1] == outcome.later.lines[channel].closed


class TestPoints:
    def test_every_point_of_the_router_is_one_of_these(self) -> None:
        calls = [
            node
            for path in ROUTER.rglob("*.py")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "crash_point"
        ]
        names = {ast.literal_eval(call.args[0]) for call in calls}
        points = {point.removeprefix("leased:") for point in POINTS if "@" not in point}
        assert names == {point for point in points if point.startswith(WHEN)}

"""Proofs of inclusion and audit answers under large commits: put together once, and never in one go."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.fakes_node import Customer, World, open_world

from retally.errors import NotFound
from retally.inclusion import Inclusion, check_inclusion
from retally.protocol.merkle import leaf, prove, root
from retally_node import committed_leaves
from retally_node.answer_audit import answer_of
from retally_node.api import create_app
from retally_node.challenges import Challenges
from retally_node.committed_leaves import KEPT, SLICE, CommittedLeaves, LeafBook
from retally_node.ledger import Ledger, OpenChallenge
from retally_node.records import ReceiptRecord
from retally_node.run_job import run_job


async def present() -> bool:
    return False


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await open_world(tmp_path)
    yield world
    await world.close()


async def committed(world: World, customer: Customer) -> bytes:
    """A job under a commit."""
    sent = await customer.submission(world.node, params=customer.params(max_tokens=4))
    await run_job(world.node, sent, present)
    await world.node.settlement.settle_now()
    return sent.request.digest(customer.domain)


def enlarge(world: World, size: int) -> None:
    """Put copies of its receipt under the commit of the books."""
    connection = sqlite3.connect(world.node.settings.data_dir / "ledger.sqlite")
    columns = [row[1] for row in connection.execute("PRAGMA table_info(receipts)")]
    row = dict(zip(columns, connection.execute("SELECT * FROM receipts").fetchone(), strict=True))
    (commit,) = world.node.ledger.commits.commits()
    places = [(commit.record.receipts_root, n, os.urandom(32) if n else row["digest"]) for n in range(size)]
    for _, _, digest in places[1:]:
        copy = row | {"job_id": os.urandom(32), "digest": digest}
        assert copy.keys() == row.keys()
        connection.execute(f"INSERT INTO receipts VALUES ({','.join('?' * len(copy))})", tuple(copy.values()))
    connection.execute("DELETE FROM leaves")
    connection.executemany("INSERT INTO leaves VALUES (?,?,?)", places)
    connection.commit()
    connection.close()


class Reads:
    """Counts the receipts read one by one."""

    def __init__(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        read = ledger.jobs.receipt

        def counted(digest: bytes) -> ReceiptRecord | None:
            self.count += 1
            return read(digest)

        monkeypatch.setattr(ledger.jobs, "receipt", counted)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 16, 31, 40, 41])
async def test_paths_are_those_of_the_whole_tree(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committed_leaves, "BLOCK", 8)
    hashes = [leaf(bytes([n])) for n in range(size)]

    class Books:
        def __init__(self) -> None:
            self.commits = self.jobs = self

        def leaves(self, root: bytes) -> list[bytes]:
            return [bytes([n]) for n in range(size)]

    def take(leaves: CommittedLeaves, digest: bytes) -> None:
        leaves._hashes.append(leaf(digest))

    monkeypatch.setattr(committed_leaves, "SLICE", 4)
    monkeypatch.setattr(CommittedLeaves, "_take", take)
    found = await LeafBook().leaves(Books(), root(hashes))  # type: ignore[arg-type]
    assert [list(found.proof(index)) for index in range(size)] == [prove(hashes, index) for index in range(size)]


async def test_a_proof_shows_the_receipt_under_its_commit(world: World) -> None:
    customer = Customer()
    job_id = await committed(world, customer)
    transport = httpx.ASGITransport(create_app(world.node))
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
        shown = (await client.get(f"/retally/v1/receipts/0x{job_id.hex()}/inclusion")).json()["inclusions"]
    (inclusion,) = map(Inclusion.from_wire, shown)
    check_inclusion(inclusion, customer.domain)


@contextmanager
def steps_of(reads: Reads) -> Iterator[list[int]]:
    """How many receipts were read in each turn of the loop."""
    steps = [0]

    async def beat() -> None:
        while True:
            before = reads.count
            await asyncio.sleep(0)
            steps.append(reads.count - before)

    beating = asyncio.create_task(beat())
    try:
        yield steps
    finally:
        beating.cancel()


async def test_a_large_commit_is_read_once_between_other_work(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, size = await committed(world, Customer()), 1200
    enlarge(world, size)
    reads = Reads(world.node.ledger, monkeypatch)
    transport = httpx.ASGITransport(create_app(world.node))
    with steps_of(reads) as steps:
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            path = f"/retally/v1/receipts/0x{job_id.hex()}/inclusion"
            replies = await asyncio.gather(*(client.get(path) for _ in range(3)))
    assert [reply.json()["inclusions"][0]["leafCount"] for reply in replies] == [size] * 3
    assert reads.count == size
    assert max(steps) <= SLICE


async def test_a_challenge_of_a_large_commit_is_answered_between_other_work(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await committed(world, Customer())
    enlarge(world, 1200)
    (commit,) = world.node.ledger.commits.commits()
    challenge = OpenChallenge(bytes(32), commit.record.id, Customer().channel.key, 0)
    world.silence.found, world.silence.parts = [challenge], {challenge.id: [(0, 0)]}
    with steps_of(Reads(world.node.ledger, monkeypatch)) as steps:
        await Challenges(world.node.ledger, world.silence, world.node.domain, 1).step()
    assert len(world.silence.posted) == 1
    # The receipt that covers the point is read once more, to be shown.
    assert max(steps) <= SLICE + 1


async def test_an_answer_reads_one_receipt_once_its_root_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await committed(world, Customer())
    enlarge(world, 300)
    (commit,) = world.node.ledger.commits.commits()
    reads, channel = Reads(world.node.ledger, monkeypatch), Customer().channel.key
    for times in range(1, 4):
        answer = await answer_of(world.node.ledger, world.node.domain, commit, channel, 0)
        assert (answer.index, answer.leaf_count, reads.count) == (0, 300, 300 + times)
    with pytest.raises(NotFound, match="covers the point"):
        await answer_of(world.node.ledger, world.node.domain, commit, channel, 10**9)


async def test_few_roots_are_kept_and_none_that_is_not_whole(world: World) -> None:
    await committed(world, Customer())
    (commit,) = world.node.ledger.commits.commits()
    book = LeafBook()
    for n in range(KEPT + 3):
        await book.leaves(world.node.ledger, bytes([n]) * 32)
    assert len(book._kept) == KEPT
    await world.node.ledger.commits.prepare_root(b"\x77" * 32, [b"\x01" * 32], int(time.time()))
    with pytest.raises(NotFound, match="do not hold"):
        await book.leaves(world.node.ledger, b"\x77" * 32)
    assert b"\x77" * 32 not in book._kept
    assert commit.record.receipts_root not in book._kept

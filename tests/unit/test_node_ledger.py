"""The ledger: what was written is there after reopening, and one refused change undoes no other."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes_node import NODE_KEY, Customer, open_world

from retally_node.admission import AdmittedJob
from retally_node.channels import Channel
from retally_node.ledger import Ledger
from retally_node.ledger.database import Database, LedgerBroken, LedgerInUse
from retally_node.ledger.votes import OpenChallenge, Vote
from retally_node.records import pack_ids, unpack_ids


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.sqlite"


def insert_mark(n: int) -> Callable[[sqlite3.Connection], object]:
    return lambda connection: connection.execute("INSERT INTO marks VALUES (?, ?)", (f"m{n}", n))


class TestDatabase:
    async def test_commits_are_synchronous_and_shared(self, path: Path) -> None:
        database = Database(path)
        assert database.read("PRAGMA synchronous")[0][0] == 2
        assert database.read("PRAGMA journal_mode")[0][0] == "wal"
        marks = [database.write("mark", insert_mark(n)) for n in range(50)]
        await asyncio.gather(*marks)
        assert len(database.read("SELECT * FROM marks")) == 50
        database.close()

    async def test_refused_change_leaves_its_neighbours(self, path: Path) -> None:
        database = Database(path)

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO marks VALUES ('one', 1)")

        outcomes = await asyncio.gather(*(database.write("mark", insert) for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(None), sqlite3.IntegrityError, sqlite3.IntegrityError]
        database.close()

    def test_refuses_a_later_schema(self, path: Path) -> None:
        Database(path).close()
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version=99")
        connection.close()
        for _ in range(2):
            # The second time too: a refused ledger keeps nobody's lock.
            with pytest.raises(RuntimeError, match="schema 99"):
                Database(path)

    def test_belongs_to_one_process_at_a_time(self, path: Path) -> None:
        database = Database(path)
        with pytest.raises(LedgerInUse, match="another node runs on this data_dir"):
            Database(path)
        assert database.read("SELECT * FROM marks") == []
        database.close()
        Database(path).close()


class TestBooks:
    async def test_best_voucher_survives_and_never_shrinks(self, path: Path) -> None:
        customer = Customer()
        ledger = Ledger(path)
        low, high = Channel(customer.channel), Channel(customer.channel)
        voucher, signature = customer.voucher(2**90)
        await ledger.money.keep_voucher(high, voucher, signature)
        await ledger.money.keep_voucher(low, *customer.voucher(5))
        ledger.close()
        again = Ledger(path)
        (channel,) = again.money.channels(NODE_KEY.address)
        assert (channel.id, channel.best, channel.best_signature) == (customer.channel, 2**90, signature)
        again.close()

    async def test_nobody_counts_on_a_voucher_before_it_is_on_disk(self, path: Path) -> None:
        customer = Customer()
        ledger = Ledger(path)
        channel = Channel(customer.channel)
        writing = asyncio.create_task(ledger.money.keep_voucher(channel, *customer.voucher(70)))
        await asyncio.sleep(0)
        assert channel.best == 0
        await writing
        assert channel.best == 70
        ledger.close()

    async def test_votes_keep_their_first_salt(self, path: Path) -> None:
        ledger = Ledger(path)
        await ledger.votes.record_vote(Vote(1, 0, 2, -5, b"a" * 32))
        await ledger.votes.record_vote(Vote(1, 0, 1, 7, b"b" * 32))
        vote = ledger.votes.vote(1, 0)
        assert vote == Vote(1, 0, 2, -5, b"a" * 32)
        await ledger.votes.set_vote_state(vote, "revealed")
        assert ledger.votes.unfinished_votes() == []
        ledger.close()

    async def test_challenges_are_open_until_closed(self, path: Path) -> None:
        ledger = Ledger(path)
        challenge = OpenChallenge(b"c" * 32, 3, b"k" * 32, 10**20)
        await ledger.votes.record_challenge(challenge)
        await ledger.votes.record_challenge(challenge)
        assert ledger.votes.open_challenges() == [challenge]
        await ledger.votes.close_challenge(challenge.id, "answered")
        assert ledger.votes.open_challenges() == []
        ledger.close()

    async def test_marks_only_move_forward(self, path: Path) -> None:
        ledger = Ledger(path)
        await ledger.commits.set_mark("commits", 9)
        await ledger.commits.set_mark("commits", 4)
        assert (ledger.commits.mark("commits", 0), ledger.commits.mark("other", 3)) == (9, 3)
        ledger.close()


class TestChannel:
    def test_ids_survive_packing(self) -> None:
        assert unpack_ids(pack_ids((0, 1, 2**32 - 1))) == (0, 1, 2**32 - 1)

    async def test_waits_for_the_voucher_that_covers(self) -> None:
        customer = Customer()
        channel = Channel(customer.channel)
        waiting = asyncio.create_task(channel.wait_until_vouched(50, 5))
        await asyncio.sleep(0)
        channel.accept(*customer.voucher(20))
        await asyncio.sleep(0)
        assert not waiting.done()
        channel.accept(*customer.voucher(50))
        assert await waiting
        assert not await channel.wait_until_vouched(51, 0.01)


class TestBroken:
    async def test_a_failed_disk_ends_all_writing_until_a_restart(self, path: Path) -> None:
        ledger = Ledger(path)

        def full(connection: sqlite3.Connection) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        with pytest.raises(LedgerBroken, match="disk is full"):
            await ledger._database.write("mark", full)
        with pytest.raises(LedgerBroken):
            await ledger.commits.set_mark("commits", 5)
        assert ledger.broken == "database or disk is full"
        ledger.close()

    async def test_what_was_queued_before_the_failure_was_known_is_not_committed_behind_it(self, path: Path) -> None:
        database = Database(path)
        is_queued = threading.Event()

        def full(connection: sqlite3.Connection) -> None:
            assert is_queued.wait(10)
            raise sqlite3.OperationalError("database or disk is full")

        first = asyncio.create_task(database.write("mark", full))
        await asyncio.sleep(0.05)  # the writer has begun: what comes now is in another group
        second = asyncio.create_task(database.write("mark", insert_mark(2)))
        await asyncio.sleep(0)
        is_queued.set()
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [LedgerBroken, LedgerBroken]
        assert database.read("SELECT * FROM marks") == []
        database.close()

    async def test_a_torn_file_is_no_refusal_of_one_change(self, path: Path) -> None:
        database = Database(path)

        def torn(connection: sqlite3.Connection) -> None:
            raise sqlite3.DatabaseError("database disk image is malformed")

        with pytest.raises(LedgerBroken, match="malformed"):
            await database.write("mark", torn)
        assert database.broken == "database disk image is malformed"
        database.close()

    async def test_a_vital_change_refused_takes_its_neighbours_with_it(self, path: Path) -> None:
        database = Database(path)
        await database.write("mark", insert_mark(1))
        changes = [database.write("mark", insert_mark(n), is_vital=n == 1) for n in (0, 1, 2)]
        outcomes = await asyncio.gather(*changes, return_exceptions=True)
        assert type(outcomes[1]) is LedgerBroken
        assert type(outcomes[2]) is LedgerBroken
        assert database.broken is not None
        assert "m2" not in [row["name"] for row in database.read("SELECT name FROM marks")]
        database.close()

    async def test_a_receipt_that_is_refused_breaks_the_ledger(self, tmp_path: Path) -> None:
        world = await open_world(tmp_path)
        customer = Customer()
        for _ in range(2):
            job = await world.node.admission.admit(await customer.submission(world.node, cumulative=10**6))
            assert isinstance(job, AdmittedJob)
            await world.node.server.start(job).closed()
        channel = world.node.book.get(customer.channel)
        record = world.node.ledger.jobs.billed_after(channel.id.key, 0)[0]
        with pytest.raises(LedgerBroken):
            await world.node.ledger.jobs.close(record, channel)
        assert world.node.ledger.broken is not None
        await world.close()

"""A chain whose last blocks are replaced, or whose logs come late: no commit and no challenge is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.fakes_node import Customer, FakeCollect, World, open_world
from tests.fakes_node_ports import Part
from tests.unit.test_node_settlement import serve

from retally.errors import NotFound
from retally.protocol.encoding import keccak
from retally.protocol.voucher import ChannelId
from retally_node.challenges import Challenges
from retally_node.ledger import OpenChallenge
from retally_node.ledger.commits import REREAD_BLOCKS
from retally_node.settlement import MinedCommit


class LaggingCollect(FakeCollect):
    """An Escrow whose logs are shown late: those of a block only once they are told to be seen."""

    hidden: bool = False
    starts: list[int]

    def __init__(self) -> None:
        super().__init__()
        self.starts = []

    async def commits(self, from_block: int) -> tuple[list[MinedCommit], int]:
        self.starts.append(from_block)
        found, next_block = await super().commits(from_block)
        return ([] if self.hidden else found), next_block


@dataclass
class Blocks:
    """Silence, whose challenges stand in blocks."""

    block: int = 200
    events: list[tuple[int, OpenChallenge]] = field(default_factory=list)
    unanswered: set[bytes] = field(default_factory=set)
    posted: list[bytes] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    async def challenges(self, from_block: int) -> tuple[list[OpenChallenge], int]:
        self.starts.append(from_block)
        return [challenge for block, challenge in self.events if block >= from_block], self.block + 1

    async def progress(self, challenge_id: bytes) -> Part | None:
        return Part(0, 0) if challenge_id in self.unanswered else None

    async def post(self, challenge_id: bytes, data: bytes) -> None:
        self.unanswered.remove(challenge_id)
        self.posted.append(challenge_id)

    def add(self, block: int, challenge: OpenChallenge) -> None:
        self.events.append((block, challenge))
        self.unanswered.add(challenge.id)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = await open_world(tmp_path, LaggingCollect())
    await serve(world, Customer())
    return world


def challenge_of(commit_id: int, salt: bytes = b"challenge") -> OpenChallenge:
    return OpenChallenge(keccak(salt), commit_id, Customer().channel.key, 0)


def moved(mined: MinedCommit, number: int, blocks: int = 0) -> MinedCommit:
    """The same commit under another number, in another block."""
    collected = replace(mined.collected, commit=replace(mined.collected.commit, id=number))
    return replace(mined, collected=collected, block=mined.block + blocks)


def lagging(world: World) -> LaggingCollect:
    assert isinstance(world.collect, LaggingCollect)
    return world.collect


class TestCommits:
    @pytest.mark.parametrize("blocks", [-1, 0, 3])
    async def test_one_of_a_replaced_block_gets_its_new_number(self, world: World, blocks: int) -> None:
        await world.node.settlement.settle_now()
        world.collect.mined[0] = moved(world.collect.mined[0], 7, blocks)
        world.collect.block += 10
        await world.node.settlement.step()
        assert [commit.record.id for commit in world.node.ledger.commits.commits()] == [7]
        await world.close()

    async def test_one_whose_logs_come_late_is_found(self, world: World) -> None:
        lagging(world).hidden = True
        await world.node.settlement.settle_now()
        world.collect.block += 50
        await world.node.settlement.step()
        assert world.node.ledger.commits.commits() == []
        lagging(world).hidden = False
        await world.node.settlement.step()
        assert len(world.node.ledger.commits.commits()) == 1
        await world.close()

    async def test_missing_logs_strike_nothing_out(self, world: World) -> None:
        await world.node.settlement.settle_now()
        lagging(world).hidden = True
        world.collect.block += 50
        await world.node.settlement.step()
        assert len(world.node.ledger.commits.commits()) == 1
        await world.close()

    async def test_one_that_was_dropped_is_struck_out_when_later_logs_prove_it(self, world: World) -> None:
        await world.node.settlement.settle_now()
        world.collect.mined[0] = moved(world.collect.mined[0], 7)
        await world.node.settlement.step()
        dropped = world.collect.mined.pop()
        world.collect.paid.clear()
        await serve(world, Customer())
        await world.node.settlement.settle_now()
        (commit,) = world.node.ledger.commits.commits()
        assert commit.record.receipts_root != dropped.collected.commit.receipts_root
        await world.close()

    async def test_reads_a_few_blocks_again(self, world: World) -> None:
        await world.node.settlement.settle_now()
        world.collect.block += 1000
        await world.node.settlement.step()
        lagging(world).starts.clear()
        await world.node.settlement.step()
        assert lagging(world).starts == [world.collect.block + 1 - REREAD_BLOCKS]
        await world.close()

    async def test_writes_what_it_knows_no_second_time(self, world: World) -> None:
        await world.node.settlement.settle_now()
        world.collect.block += 50
        await world.node.settlement.step()
        world.node.ledger.commits._database.broken = "nothing may be written"
        await world.node.settlement.step()
        world.node.ledger.commits._database.broken = None
        await world.close()

    async def test_never_reads_before_the_deployment(self, world: World) -> None:
        await world.node.settlement.settle_now()
        await world.node.settlement.step()
        assert set(lagging(world).starts) == {1}
        await world.close()


class TestChallenges:
    async def test_one_in_a_block_that_was_read_already_is_answered(self, world: World) -> None:
        await world.node.settlement.settle_now()
        chain = Blocks()
        challenges = Challenges(world.node.ledger, chain, world.node.domain, 1)
        await challenges.step()
        chain.add(200, challenge_of(1))
        chain.block = 230
        await challenges.step()
        assert chain.posted == [challenge_of(1).id]
        assert chain.starts == [1, 201 - REREAD_BLOCKS]
        await world.close()

    async def test_one_whose_answer_was_taken_back_is_answered_again(self, world: World) -> None:
        await world.node.settlement.settle_now()
        chain = Blocks()
        challenges = Challenges(world.node.ledger, chain, world.node.domain, 1)
        chain.add(200, challenge_of(1))
        await challenges.step()
        assert world.node.ledger.votes.open_challenges() == []
        chain.unanswered.add(challenge_of(1).id)
        await challenges.step()
        assert len(chain.posted) == 2
        await world.close()

    async def test_one_mined_anew_may_ask_for_another_point(self, world: World) -> None:
        await world.node.ledger.votes.record_challenge(challenge_of(1))
        await world.node.ledger.votes.close_challenge(challenge_of(1).id, "over")
        other = replace(challenge_of(1), point=9)
        await world.node.ledger.votes.record_challenge(other)
        assert world.node.ledger.votes.open_challenges() == [other]
        await world.close()

    async def test_of_an_unknown_commit_reads_the_chain_again_once(self, world: World) -> None:
        lagging(world).hidden = True
        await world.node.settlement.settle_now()
        world.collect.block += 1000
        await world.node.settlement.step()
        lagging(world).hidden = False
        await world.node.settlement.step()
        assert world.node.ledger.commits.commits() == []
        chain = Blocks()
        challenges = Challenges(world.node.ledger, chain, world.node.domain, 1, world.node.settlement.reread)
        chain.add(200, challenge_of(1))
        await challenges.step()
        assert chain.posted == [challenge_of(1).id]
        lagging(world).starts.clear()
        chain.add(200, challenge_of(99, b"unknown"))
        for _ in range(3):
            with pytest.raises(NotFound):
                await challenges.step()
        assert lagging(world).starts == [1]
        await world.close()


class TestTakenBack:
    """What the chain took back is collected again, and no root begins where it took nothing."""

    async def settled(self, world: World, customer: Customer) -> None:
        await world.node.settlement.step()
        await world.node.settlement.settle_now()
        assert world.collect.paid[customer.channel.key] > 0

    async def test_one_that_is_struck_out_is_collected_again(self, world: World) -> None:
        first, second = Customer(), Customer(lane=8)
        await self.settled(world, first)
        await serve(world, second)
        await self.settled(world, second)
        paid = world.collect.paid.pop(first.channel.key)
        del world.collect.mined[0]
        await world.node.settlement.step()
        # It is not within the blocks that are read again any more.
        world.collect.block += 2 * REREAD_BLOCKS
        await world.node.settlement.step()
        await world.node.settlement.settle_now()
        assert world.collect.paid[first.channel.key] == paid
        await world.close()

    async def test_one_that_no_log_tells_of_is_collected_again(self, world: World) -> None:
        customer = Customer()
        await self.settled(world, customer)
        paid = world.collect.paid.pop(customer.channel.key)
        world.collect.mined.clear()
        world.collect.block += 2 * REREAD_BLOCKS
        await world.node.settlement.step()
        world.collect.block += 2 * REREAD_BLOCKS
        await world.node.settlement.step()
        await world.node.settlement.settle_now()
        assert world.collect.paid[customer.channel.key] == paid
        await world.close()

    async def test_a_channel_that_the_chain_was_not_asked_about_waits(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A job may close while others' channels are asked for: where its line begins is not known then."""
        stale, other = Customer(), Customer(lane=8)
        await self.settled(world, stale)
        for _ in range(3):
            world.collect.block += 2 * REREAD_BLOCKS
            await world.node.settlement.reconcile()
        assert not world.node.settlement._doubtful
        world.collect.paid.pop(stale.channel.key)
        await serve(world, other)
        asked, closes = world.collect.collected, [stale]

        async def slow(channels: Sequence[ChannelId]) -> list[int]:
            if closes:
                await serve(world, closes.pop())
            return await asked(channels)

        monkeypatch.setattr(world.collect, "collected", slow)
        await world.node.settlement.settle_now()
        ledger = world.node.ledger
        for mined in world.collect.mined:
            leaves = [ledger.jobs.receipt(each) for each in ledger.commits.leaves(mined.collected.commit.receipts_root)]
            for item in mined.collected.ranges:
                own = sorted(each.receipt.cum_from for each in leaves if each and each.receipt.lane == item.lane)
                assert own[0] <= item.before
        await world.close()


class TestAnything:
    async def test_whatever_one_challenge_raises_the_others_are_answered(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await world.node.settlement.step()
        await world.node.settlement.settle_now()
        chain = Blocks()
        hostile, good = challenge_of(1, b"hostile"), challenge_of(1, b"good")
        for each in (hostile, good):
            chain.add(199, each)
        progress = chain.progress

        async def strange(challenge_id: bytes) -> Part | None:
            if challenge_id == hostile.id:
                raise ValueError("what nobody foresaw")
            return await progress(challenge_id)

        monkeypatch.setattr(chain, "progress", strange)
        with pytest.raises(ValueError, match="foresaw"):
            await Challenges(world.node.ledger, chain, world.node.domain, 1, world.node.settlement.reread).step()
        assert chain.posted == [good.id]
        await world.close()

"""Jury duty and answers on chain: what a node does when the court or a challenger calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes_case import SEED, URI, Colder, committed, honest, judge
from tests.fakes_node import OWNER, START, Customer, World, open_world
from tests.fakes_node_ports import FakeEvidence

from retally.chain.court import vote_hash
from retally.chain.silence import encode_answer_head
from retally.errors import ChainUnreachable, NotFound
from retally.protocol.audit_points import drawn_points
from retally.protocol.case import VerdictKind
from retally.protocol.encoding import Bytes32, keccak
from retally_node.answer_audit import answer_of
from retally_node.challenges import Challenges, next_part
from retally_node.jury import Duty, Jury
from retally_node.ledger import OpenChallenge, Vote
from retally_node.read_evidence import EvidenceSource
from retally_node.weigh_case import CaseFacts


def juror(world: World) -> Jury:
    source: EvidenceSource = world.evidence
    return Jury(world.node.ledger, world.court, source, judge(world, world.engine), OWNER, world.clock)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await open_world(tmp_path)


@pytest.fixture
async def cheating(tmp_path: Path) -> World:
    return await open_world(tmp_path, make_engine=Colder)


class TestWeigh:
    async def test_honest_answers_match(self, world: World) -> None:
        file, facts = await committed(world)
        opinion = await judge(world, world.engine).weigh(facts, file)
        assert opinion.verdict == VerdictKind.MATCH
        assert opinion.log_e < 0
        await world.close()

    async def test_another_sampler_is_a_mismatch(self, cheating: World) -> None:
        file, facts = await committed(cheating)
        opinion = await judge(cheating, honest(cheating)).weigh(facts, file)
        assert opinion.verdict == VerdictKind.MISMATCH
        await cheating.close()

    @pytest.mark.parametrize("case", ["no such commit", "no seed", "no calibration", "other entries", "other owner"])
    async def test_what_the_chain_does_not_bear_out_is_inconclusive(self, cheating: World, case: str) -> None:
        file, facts = await committed(cheating)
        if case == "no such commit":
            cheating.cases.known.clear()
        if case == "no seed":
            cheating.cases.seeds.clear()
        if case == "no calibration":
            cheating.cases.table = None
        if case == "other entries":
            facts = replace(facts, shown=facts.shown[1:])
        if case == "other owner":
            facts = replace(facts, owner=Customer().payer)
        opinion = await judge(cheating, honest(cheating)).weigh(facts, file)
        assert opinion.verdict == VerdictKind.INCONCLUSIVE
        await cheating.close()

    async def test_a_made_up_entry_spoils_the_case(self, cheating: World) -> None:
        # A mismatch pays every shown entry back, so one receipt that nobody signed would be paid with the others.
        file, facts = await committed(cheating)
        first = file.points[0]
        receipt = replace(first.answer.receipt, payer=OWNER, cum_to=10**12)
        made_up = replace(first, answer=replace(first.answer, receipt=receipt))
        file = replace(file, points=(*file.points[1:], made_up))
        facts = replace(facts, shown=file.shown(cheating.node.domain))
        opinion = await judge(cheating, honest(cheating)).weigh(facts, file)
        assert opinion.verdict == VerdictKind.INCONCLUSIVE
        await cheating.close()

    async def test_a_receipt_shown_twice_spoils_the_case(self, cheating: World) -> None:
        file, facts = await committed(cheating)
        file = replace(file, points=(*file.points, file.points[0]))
        facts = replace(facts, shown=file.shown(cheating.node.domain))
        opinion = await judge(cheating, honest(cheating)).weigh(facts, file)
        assert opinion.verdict == VerdictKind.INCONCLUSIVE
        await cheating.close()

    async def test_points_not_shown_count_against_the_case(self, cheating: World) -> None:
        file, facts = await committed(cheating, jobs=1)
        full = await judge(cheating, honest(cheating)).weigh(facts, file)
        # Far more points were drawn than are shown: the one strong receipt may be luck.
        cheating.cases.points += [
            (1, replace(point, k=10_000 + n, point=10**9 + n))
            for n in range(60_000)
            for _, point in cheating.cases.points[:1]
        ]
        fewer = await judge(cheating, honest(cheating)).weigh(facts, file)
        assert fewer.log_e < full.log_e
        await cheating.close()


class TestVote:
    def duty(self, committed: bytes | None = None, *, may_reveal: bool = False) -> Duty:
        kept = None if committed is None else Bytes32(committed)
        return Duty(1, 0, 0, START + 86_400, kept, False, may_reveal)

    async def test_commits_then_reveals_the_same_vote_across_a_restart(self, world: World, tmp_path: Path) -> None:
        await committed(world)
        world.court.open_duties = [self.duty()]
        await juror(world).step()
        ((case_id, hash_),) = world.court.commits
        court = world.court
        await world.close()
        again = await open_world(tmp_path, world.collect)
        again.court.open_duties = [self.duty(hash_, may_reveal=True)]
        await juror(again).step()
        (vote,) = again.court.reveals
        assert hash_ == vote_hash(case_id, 0, OWNER, vote.verdict, vote.log_e, vote.salt)
        assert court.reveals == []
        await again.close()

    async def test_waits_for_a_file_then_votes_inconclusive(self, world: World) -> None:
        await committed(world)
        world.evidence.files.clear()
        world.court.open_duties = [self.duty()]
        await juror(world).step()
        assert world.court.commits == []
        world.clock.time += 86_400 - 3600
        await juror(world).step()
        vote = world.node.ledger.votes.vote(1, 0)
        assert isinstance(vote, Vote)
        assert vote.verdict == VerdictKind.INCONCLUSIVE
        assert len(world.court.commits) == 1
        await world.close()

    async def test_a_case_that_breaks_the_weighing_keeps_no_juror_from_its_votes(self, world: World) -> None:
        await committed(world)
        world.court.open_duties = [replace(self.duty(), case_id=2), self.duty()]

        class Poisoned(FakeEvidence):
            async def fetch(self, uri: str, max_bytes: int) -> bytes:
                raise KeyError("what nobody foresaw")

        world.court.cases[2] = replace(world.court.cases[1], case_id=2)
        scale = judge(world, world.engine)
        poisoned = Jury(world.node.ledger, world.court, Poisoned(), scale, OWNER, world.clock)
        await poisoned.step()
        assert world.court.commits == []
        world.clock.time += 86_400 - 3600
        await poisoned.step()
        assert [case for case, _ in world.court.commits] == [2, 1]
        await world.close()

    async def test_a_case_that_cannot_be_read_keeps_no_juror_from_its_votes(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await committed(world)
        world.court.open_duties = [replace(self.duty(), case_id=2), self.duty()]
        facts = world.court.facts

        async def hostile(case_id: int) -> CaseFacts:
            if case_id == 2:
                raise ValueError("what nobody foresaw")
            return await facts(case_id)

        monkeypatch.setattr(world.court, "facts", hostile)
        await juror(world).step()
        assert [case for case, _ in world.court.commits] == [1]
        world.clock.time += 86_400 - 3600
        await juror(world).step()
        assert {case for case, _ in world.court.commits} == {1, 2}
        vote = world.node.ledger.votes.vote(2, 0)
        assert vote is not None
        assert vote.verdict == VerdictKind.INCONCLUSIVE
        await world.close()

    async def test_while_the_chain_is_away_no_vote_is_given_up(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await committed(world)
        world.court.open_duties = [self.duty()]
        world.clock.time += 86_400 - 3600

        async def away(case_id: int) -> CaseFacts:
            raise ChainUnreachable("away")

        with monkeypatch.context() as patch:
            patch.setattr(world.court, "facts", away)
            with pytest.raises(ChainUnreachable):
                await juror(world).step()
        assert world.node.ledger.votes.vote(1, 0) is None
        await juror(world).step()
        vote = world.node.ledger.votes.vote(1, 0)
        assert vote is not None
        assert vote.verdict == VerdictKind.MATCH
        await world.close()

    async def test_another_file_than_named_is_inconclusive(self, world: World) -> None:
        await committed(world)
        world.evidence.files[URI] += b" "
        world.court.open_duties = [self.duty()]
        await juror(world).step()
        vote = world.node.ledger.votes.vote(1, 0)
        assert vote is not None
        assert vote.verdict == VerdictKind.INCONCLUSIVE
        await world.close()

    async def test_leaves_a_vote_of_its_owners_other_node_alone(self, world: World) -> None:
        await committed(world)
        world.court.open_duties = [self.duty(keccak(b"other"), may_reveal=True)]
        await juror(world).step()
        assert (world.court.commits, world.court.reveals) == ([], [])
        await world.close()


class TestChallenge:
    async def test_one_that_cannot_be_answered_does_not_silence_the_others(self, world: World) -> None:
        await committed(world)
        (mined,) = world.node.ledger.commits.commits()
        point = drawn_points(SEED, mined.ranges, mined.record.node, 200)[0]
        lost = OpenChallenge(bytes(32), 99, point.channel, point.point)
        good = OpenChallenge(keccak(b"challenge"), mined.record.id, point.channel, point.point)
        world.silence.found = [lost, good]
        world.silence.parts = {lost.id: [(0, 0)], good.id: [(0, 0)]}
        with pytest.raises(NotFound):
            await Challenges(world.node.ledger, world.silence, world.node.domain, 1).step()
        assert len(world.silence.posted) == 1
        assert world.node.ledger.votes.open_challenges() == [lost]
        await world.close()

    async def test_answers_part_by_part(self, world: World) -> None:
        await committed(world)
        (mined,) = world.node.ledger.commits.commits()
        point = drawn_points(SEED, mined.ranges, mined.record.node, 200)[0]
        challenge = OpenChallenge(keccak(b"challenge"), mined.record.id, point.channel, point.point)
        world.silence.found = [challenge]
        world.silence.parts[challenge.id] = [(0, 0), (1, 0), (3, 0)]
        bundle = await answer_of(world.node.ledger, world.node.domain, mined, point.channel, point.point)
        await Challenges(world.node.ledger, world.silence, world.node.domain, 1).step()
        assert world.silence.posted == [encode_answer_head(bundle), next_part(bundle, 1, 0), next_part(bundle, 3, 0)]
        assert len(world.silence.posted[1]) == 4 * len(bundle.prompt_ids)
        assert len(world.silence.posted[2]) == 6 * len(bundle.output_ids)
        assert world.node.ledger.votes.open_challenges() == []
        await world.close()

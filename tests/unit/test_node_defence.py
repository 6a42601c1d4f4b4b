"""The accused's loop: when it appeals, when it does not, and what it says then."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fakes_case import URI
from tests.fakes_node import NODE_KEY, OWNER, START
from tests.fakes_node_ports import FakeClock, FakeDefenceCourt

from retally.errors import ChainUnreachable, EngineUnavailable, PaymentRequired, TransactionFailed
from retally.protocol.case import VerdictKind
from retally.protocol.encoding import Bytes32, keccak
from retally_node.defence import LAST_CALL_SECONDS, Accusation, Budget, Defence
from retally_node.weigh_case import CaseFacts, Opinion

RUSD = 10**6
END = START + 86_400
LOST = Accusation(1, 0, VerdictKind.MISMATCH, END, 0, own_job=False, opening=(START, keccak(b"shown")))
MATCH, MISMATCH, UNSURE = (
    Opinion(kind, 0) for kind in (VerdictKind.MATCH, VerdictKind.MISMATCH, VerdictKind.INCONCLUSIVE)
)
FACTS = CaseFacts(1, OWNER, START, keccak(b"file"), URI, (), (Bytes32(bytes(32)), Bytes32(bytes(32))))


class Says:
    """A scale that has its opinion; or none, while it is down."""

    def __init__(self, opinion: Opinion | None) -> None:
        self.opinion = opinion
        self.asked = 0

    async def weigh(self, facts: CaseFacts) -> Opinion:
        self.asked += 1
        if self.opinion is None:
            raise EngineUnavailable("the engine is down")
        return self.opinion


def court(*cases: Accusation) -> FakeDefenceCourt:
    return FakeDefenceCourt(
        {case.case_id: case for case in cases}, {case.case_id: replace(FACTS, case_id=case.case_id) for case in cases}
    )


def defence(
    faced: FakeDefenceCourt, opinion: Opinion | None = MATCH, clock: FakeClock | None = None, budget: int = 750 * RUSD
) -> Defence:
    return Defence(faced, Says(opinion), clock or FakeClock(), Budget(budget, 3_000 * RUSD))


def state(of: Defence) -> str:
    (case,) = of.open_cases
    return str(case["state"])


class TestAppeal:
    @pytest.mark.parametrize("opinion", [MATCH, UNSURE])
    async def test_appeals_a_mismatch_that_its_own_replay_does_not_see_once_a_round(self, opinion: Opinion) -> None:
        faced = court(LOST)
        accused = defence(faced, opinion)
        for _ in range(3):
            await accused.step()
        assert faced.appealed == [(1, 0)]
        assert faced.held == 399 * RUSD
        assert accused.lost_cases == 0
        # The larger jury says the same: 101 and 201 are within the budget, and nothing after them.
        faced.open_cases[1] = replace(LOST, round=1, appeals=1)
        for _ in range(2):
            await accused.step()
        assert faced.appealed == [(1, 0), (1, 1)]
        faced.open_cases[1] = replace(LOST, round=2, appeals=2, appeal_end=0)
        await accused.step()
        assert state(accused) == "lost: no further appeal is possible"

    async def test_one_that_starts_again_reads_what_was_done_from_the_chain(self) -> None:
        faced = court(LOST)
        await defence(faced).step()
        again = defence(faced)
        await again.step()
        assert (faced.appealed, again.appeals) == ([(1, 0)], 0)
        # It moves the case that was appealed on, whoever else would leave it.
        assert faced.moved[-1] == 1

    async def test_a_cheat_that_sees_itself_appeals_nothing(self) -> None:
        faced = court(LOST)
        accused = defence(faced, MISMATCH)
        await accused.step()
        assert faced.appealed == []
        assert state(accused) == "not appealed: its own replay is a mismatch too"
        assert accused.lost_cases == 1

    @pytest.mark.parametrize("verdict", [0, VerdictKind.MATCH, VerdictKind.INCONCLUSIVE])
    async def test_appeals_no_verdict_that_costs_it_nothing(self, verdict: int) -> None:
        faced = court(replace(LOST, verdict=verdict))
        await defence(faced).step()
        assert (faced.appealed, faced.moved) == ([], [])

    async def test_leaves_a_payers_own_job_alone(self) -> None:
        faced = court(replace(LOST, own_job=True))
        accused = defence(faced)
        await accused.step()
        assert faced.appealed == []
        assert "own job" in state(accused)

    @pytest.mark.parametrize(
        ("budget", "at_stake", "said"),
        [
            (100 * RUSD, 2_500 * RUSD, "it takes 101.00 rUSD in all, appeal_budget is 100.00 rUSD: raise it"),
            (0, 2_500 * RUSD, "appeal_budget is 0.00 rUSD"),
            (750 * RUSD, 50 * RUSD, "it takes 101.00 rUSD in all, and the case 50.00 rUSD at most"),
        ],
    )
    async def test_says_why_an_appeal_is_too_dear(self, budget: int, at_stake: int, said: str) -> None:
        faced = court(LOST)
        faced.at_stake = at_stake
        accused = defence(faced, budget=budget)
        await accused.step()
        assert faced.appealed == []
        assert said in state(accused)

    async def test_earlier_appeals_of_the_case_count_against_the_budget(self) -> None:
        faced = court(LOST)
        accused = defence(faced, budget=250 * RUSD)
        await accused.step()
        faced.open_cases[1] = replace(LOST, round=1, appeals=1)
        await accused.step()
        assert faced.appealed == [(1, 0)]
        assert "it takes 302.00 rUSD in all" in state(accused)

    async def test_appeals_of_other_cases_of_the_epoch_count_against_a_budget_of_their_own(self) -> None:
        faced = court(LOST)
        faced.spent_elsewhere = 2_900 * RUSD
        accused = defence(faced)
        await accused.step()
        assert faced.appealed == []
        assert "it takes 3,001.00 rUSD, appeal_budget_epoch is 3,000.00 rUSD: raise it" in state(accused)
        faced.spent_elsewhere = 2_899 * RUSD
        await accused.step()
        assert faced.appealed == [(1, 0)]

    async def test_says_how_much_money_is_missing_and_appeals_once_it_is_there(self) -> None:
        faced = court(LOST)
        faced.held = 40 * RUSD
        accused = defence(faced)
        with pytest.raises(PaymentRequired, match=rf"{NODE_KEY.address} holds too little.* 61.00 rUSD by 2023-11-15"):
            await accused.step()
        assert "61.00 rUSD" in state(accused)
        faced.held += 61 * RUSD
        await accused.step()
        assert (faced.appealed, faced.held) == ([(1, 0)], 0)

    async def test_does_not_appeal_after_the_window(self) -> None:
        faced, clock = court(LOST), FakeClock()
        clock.time = END + 1
        accused = defence(faced, clock=clock)
        await accused.step()
        assert faced.appealed == []
        assert "the time for it ended at 2023-11-15 22:13 UTC" in state(accused)

    @pytest.mark.parametrize("refusal", ["CourtWrongStatus", "CourtAppealEnded"])
    async def test_one_that_comes_too_late_is_no_error(self, refusal: str) -> None:
        faced = court(LOST)
        faced.refuses = refusal
        await defence(faced).step()

    async def test_another_refusal_is_an_error_and_tried_again(self) -> None:
        faced = court(LOST)
        faced.refuses = "TransferFromFailed"
        accused = defence(faced)
        with pytest.raises(TransactionFailed):
            await accused.step()
        faced.refuses = ""
        await accused.step()
        assert faced.appealed == [(1, 0)]

    async def test_a_dead_chain_is_an_error_and_tried_again(self) -> None:
        faced = court(LOST)
        faced.is_reachable = False
        accused = defence(faced)
        with pytest.raises(ChainUnreachable):
            await accused.step()
        faced.is_reachable = True
        await accused.step()
        assert faced.appealed == [(1, 0)]

    async def test_a_case_that_fails_keeps_no_other_from_its_defence(self) -> None:
        faced = court(LOST, replace(LOST, case_id=2))
        del faced.known[1]
        accused = defence(faced)
        with pytest.raises(KeyError):
            await accused.step()
        assert faced.appealed == [(2, 0)]

    async def test_takes_back_what_returns_once_a_case_is_over(self) -> None:
        faced = court(LOST)
        accused = defence(faced)
        await accused.step()
        del faced.open_cases[1]
        faced.owed = 40 * RUSD
        await accused.step()
        assert (accused.open_cases, faced.owed, faced.held) == ([], 0, 439 * RUSD)


class TestMeans:
    @pytest.mark.parametrize(
        ("held", "budget", "said"),
        [
            (40 * RUSD, 750 * RUSD, [f"{NODE_KEY.address} holds 40.00 rUSD, the first appeal takes 101.00 rUSD"]),
            (40 * RUSD, 0, ["appeal_budget is 0.00 rUSD, the first appeal takes 101.00 rUSD"]),
            (500 * RUSD, 750 * RUSD, []),
        ],
    )
    async def test_are_looked_at_before_there_is_a_case(
        self, caplog: pytest.LogCaptureFixture, held: int, budget: int, said: list[str]
    ) -> None:
        faced = court()
        faced.held = held
        accused = defence(faced, budget=budget)
        for _ in range(2):
            await accused.step()
        assert len(caplog.messages) == len(said)
        assert all(text in line for text, line in zip(said, caplog.messages, strict=True))


class TestOpinion:
    async def test_is_formed_once_and_before_the_jury_has_spoken(self) -> None:
        faced, scale = court(replace(LOST, verdict=0, appeal_end=0)), Says(MATCH)
        accused = Defence(faced, scale, FakeClock(), Budget(750 * RUSD, 3_000 * RUSD))
        for _ in range(2):
            await accused.step()
        faced.open_cases[1] = LOST
        await accused.step()
        assert (scale.asked, faced.appealed) == (1, [(1, 0)])

    async def test_of_a_case_says_nothing_of_another_that_gets_its_number(self) -> None:
        faced, scale = court(replace(LOST, verdict=0, appeal_end=0)), Says(MISMATCH)
        accused = Defence(faced, scale, FakeClock(), Budget(750 * RUSD, 3_000 * RUSD))
        await accused.step()
        # Blocks were taken back: the case is not the one that it was.
        faced.open_cases[1] = replace(LOST, opening=(START, keccak(b"something else")))
        scale.opinion = MATCH
        await accused.step()
        assert (scale.asked, faced.appealed) == (2, [(1, 0)])

    async def test_an_engine_that_stays_down_is_waited_for_and_not_for_ever(self) -> None:
        faced, clock = court(LOST), FakeClock()
        accused = defence(faced, None, clock)
        with pytest.raises(EngineUnavailable):
            await accused.step()
        assert (faced.appealed, state(accused)) == ([], "the engine is down")
        clock.time = END - LAST_CALL_SECONDS
        await accused.step()
        assert faced.appealed == [(1, 0)]

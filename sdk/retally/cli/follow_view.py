"""A case on its way, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retally.cli.amounts import show_amount
from retally.cli.market import VERDICTS
from retally.cli.money import moment


async def progress_text(chain: Any, case_id: int, case: Any) -> str:
    """Where a case stands and what it waits for."""
    from retally.chain.court import CaseStatus

    state = await chain.court.round_of(case_id, case.round)
    start = f"case {case_id}, round {case.round + 1}: "
    if case.status == CaseStatus.DRAWING:
        return start + f"a jury of {state.size} is drawn after block {state.seed_block}"
    if case.status == CaseStatus.VOTING:
        if state.committed < state.size or state.revealed == 0:
            return start + f"{state.committed} of {state.size} jurors have committed, until {moment(state.commit_end)}"
        return start + f"{state.revealed} of {state.size} votes are shown, until {moment(state.reveal_end)}"
    stands = f"may be appealed until {moment(case.appeal_end)}" if case.appeal_end else "nobody can appeal any more"
    return start + f"{VERDICTS[case.verdict]}; {stands}"


def end_text(data: Mapping[str, Any]) -> str:
    """How a case ended, and where the money is."""
    text = f"case {data['caseId']}: {data['verdict']}; refunded from the stake: {show_amount(int(data['refunded']))}"
    if int(data["credit"]):
        text += f"\n{show_amount(int(data['credit']))} wait as credit; pay them out with: retally withdraw"
    return text

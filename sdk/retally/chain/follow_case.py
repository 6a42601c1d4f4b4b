"""What a case waits for: the step that is due, which anybody may take for a tip."""

from __future__ import annotations

from collections.abc import Sequence

from retally.chain.connection import Chain
from retally.chain.contract import ContractCall
from retally.chain.court import Case, CaseStatus
from retally.chain.transactions import TxSender
from retally.errors import TransactionFailed
from retally.protocol.case import Shown

#: Another took the step first, or the chain's time is behind ours.
NOT_YET = frozenset({"CourtSeedNotReady", "CourtVotesPending", "CourtAppealOpen", "CourtWrongStatus"})


async def due_step(chain: Chain, case_id: int, case: Case, shown: Sequence[Shown]) -> ContractCall | None:
    """The call that moves a case on; nothing while it waits for blocks, votes or appeals, or is closed."""
    if case.status in (CaseStatus.DRAWING, CaseStatus.VOTING):
        return chain.court.advance(case_id) if await _is_due(chain, case_id, case) else None
    if case.status == CaseStatus.DECIDED and chain.clock.now() > case.appeal_end:
        return chain.court.execute(case_id, shown)
    return None


async def take_due_step(chain: Chain, sender: TxSender, case_id: int, case: Case, shown: Sequence[Shown]) -> bool:
    """Takes the step that is due, whoever else may take it too; returns whether one was tried."""
    call = await due_step(chain, case_id, case, shown)
    if call is None:
        return False
    try:
        await sender.send(call)
    except TransactionFailed as error:
        if error.error_name not in NOT_YET:
            raise
    return True


async def _is_due(chain: Chain, case_id: int, case: Case) -> bool:
    state = await chain.court.round_of(case_id, case.round)
    if case.status == CaseStatus.DRAWING:
        return await chain.block_number() > state.seed_block
    if chain.clock.now() <= state.commit_end:
        # The reveal phase can begin.
        return state.committed == state.size
    return chain.clock.now() > state.reveal_end or state.revealed == state.committed

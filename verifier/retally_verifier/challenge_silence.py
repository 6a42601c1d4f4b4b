"""Demand on chain what a node does not show over HTTPS."""

from __future__ import annotations

import logging
from collections.abc import Collection
from enum import Enum

from retally.chain.connection import Chain
from retally.chain.contract import ContractCall
from retally.chain.silence import ChallengeStatus, challenge_id
from retally.chain.transactions import TxSender
from retally.errors import TransactionFailed
from retally.protocol.encoding import Bytes32
from retally_verifier.in_turn import each, in_turn
from retally_verifier.records import ChallengeRecord, Finding
from retally_verifier.store import Store

log = logging.getLogger(__name__)

_FINAL = frozenset({"SilenceAlreadyChallenged", "SilenceNotEntitled", "SilenceWindowClosed"})
_LATER = "SilenceVerifierLimit"


class _Said(Enum):
    """What the contract made of a challenge; later: once others have ended."""

    DONE = "done"
    LATER = "later"
    NEVER = "never"


class SilenceChallenger:
    """Challenges silent points and calls the time-out of what stays unanswered."""

    def __init__(self, chain: Chain, sender: TxSender, store: Store) -> None:
        self._chain = chain
        self._sender = sender
        self._store = store

    async def step(self) -> None:
        """Opens challenges of silent findings, and ends those that ran out."""
        challenged = {challenge.id for challenge in self._store.challenges()}
        failed = await in_turn(self._store.silent_findings(), lambda found: self._demand(found, challenged))
        # Those under way are followed though one can't be opened: each holds a bond, and the money for the next.
        await each([challenge for challenge in self._store.challenges() if not challenge.closed], self._follow)
        if failed is not None:
            raise failed

    async def _demand(self, found: Finding, challenged: Collection[Bytes32]) -> None:
        id_ = challenge_id(found.commit_id, found.channel, found.k)
        commit = self._store.commit(found.commit_id)
        if commit is None or id_ in challenged:
            return
        call = self._chain.silence.challenge(commit.record, commit.packed_ranges, found.range_index, found.k)
        said = await self._challenge(call) if await self._is_free(id_) else _Said.NEVER
        if said is _Said.LATER:
            return
        # Asked of the chain: a challenge may have been sent by a process that died before it wrote it down.
        state = await self._chain.silence.challenge_of(id_)
        if state.status == ChallengeStatus.NONE and said is _Said.DONE:
            # The RPC is behind, or the chain took it back: who took it for another's would leave the bond there.
            return
        closed = state.status != ChallengeStatus.OPEN or state.challenger != self._sender.address
        self._store.put_challenge(ChallengeRecord(id_, found.commit_id, found.range_index, found.k, closed))

    async def _is_free(self, id_: Bytes32) -> bool:
        return (await self._chain.silence.challenge_of(id_)).status == ChallengeStatus.NONE

    async def _challenge(self, call: ContractCall) -> _Said:
        silence = self._chain.silence
        bond = await silence.challenge_bond()
        if await self._chain.asset.allowance(self._sender.address, silence.address) < bond:
            await self._sender.send(self._chain.asset.approve(silence.address, bond))
        try:
            await self._sender.send(call)
        except TransactionFailed as error:
            if error.error_name not in _FINAL | {_LATER}:
                raise
            log.info("not challenged: %s", error)
            return _Said.LATER if error.error_name == _LATER else _Said.NEVER
        return _Said.DONE

    async def _follow(self, challenge: ChallengeRecord) -> None:
        state = await self._chain.silence.challenge_of(challenge.id)
        if state.status == ChallengeStatus.OPEN:
            if self._chain.clock.now() > state.deadline:
                await self._sender.send(self._chain.silence.timeout(challenge.id))
            return
        if state.status == ChallengeStatus.NONE:
            return
        record = ChallengeRecord(challenge.id, challenge.commit_id, challenge.range_index, challenge.k, True)
        self._store.put_challenge(record)

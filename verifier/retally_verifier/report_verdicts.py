"""Commit and reveal the verdicts on all drawn points of a commit, which is what a verifier is paid for."""

from __future__ import annotations

import logging
import secrets

from retally.chain.audits import Duty, PointVerdict, pack_verdicts, verdicts_hash
from retally.chain.connection import Chain
from retally.chain.transactions import TxSender
from retally.errors import TransactionFailed
from retally.protocol.encoding import ZERO_ADDRESS
from retally.protocol.evidence import on_chain
from retally_verifier.in_turn import each
from retally_verifier.records import AuditedCommit, CommitState
from retally_verifier.store import Store

log = logging.getLogger(__name__)

_NOT_YET = frozenset({"AuditsRevealTooEarly", "AuditsNotYourDuty", "AuditsCommitmentStands"})
_OVER = frozenset({"AuditsAlreadyPaid", "AuditsNotBonded", "AuditsNothingCommitted"})


class VerdictReporter:
    """Moves commits from audited to done."""

    def __init__(self, chain: Chain, sender: TxSender, store: Store) -> None:
        self._chain = chain
        self._sender = sender
        self._store = store

    async def step(self) -> None:
        """Commits what is audited and reveals what is committed."""
        await each(self._store.commits(CommitState.AUDITED, CommitState.COMMITTED), self._move_on)

    async def _move_on(self, commit: AuditedCommit) -> None:
        try:
            await self._report(commit)
        except TransactionFailed as error:
            if error.error_name in _NOT_YET:
                return
            if error.error_name not in _OVER:
                raise
            log.info("commit %d: %s", commit.record.id, error)
            self._store.set_state(commit.record.id, CommitState.DONE)

    async def _report(self, commit: AuditedCommit) -> None:
        commit_id = commit.record.id
        if commit.state == CommitState.COMMITTED and commit.verdicts is not None and commit.salt is not None:
            call = self._chain.audits.reveal_verdicts(commit.record, commit.packed_ranges, commit.verdicts, commit.salt)
            await self._sender.send(call)
            self._store.set_state(commit_id, CommitState.DONE)
            return
        duty = await self._chain.audits.duty_of(commit_id)
        if duty.paid:
            self._store.set_state(commit_id, CommitState.DONE)
        elif self._may_commit(duty):
            verdicts, salt = self._verdicts(commit)
            hash_ = verdicts_hash(commit_id, self._sender.address, verdicts, salt)
            # It stands already where the process ended between its sending and this line.
            if (duty.committed, duty.hash) != (self._sender.address, hash_):
                await self._sender.send(self._chain.audits.commit_verdicts(commit_id, hash_))
            self._store.set_state(commit_id, CommitState.COMMITTED)

    def _may_commit(self, duty: Duty) -> bool:
        if duty.committed not in (ZERO_ADDRESS, self._sender.address):
            return False
        return duty.drawn == self._sender.address or self._chain.clock.now() > duty.duty_end

    def _verdicts(self, commit: AuditedCommit) -> tuple[bytes, bytes]:
        if commit.verdicts is not None and commit.salt is not None:
            return commit.verdicts, commit.salt
        found = self._store.findings_of_commit(commit.record.id)
        verdicts = pack_verdicts([PointVerdict(each.verdict, on_chain(each.log_e)) for each in found])
        salt = secrets.token_bytes(32)
        # Kept before it is committed: a lost salt would be a duty not done.
        self._store.set_verdicts(commit.record.id, verdicts, salt)
        return verdicts, salt

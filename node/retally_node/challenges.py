"""Answer challenges on chain: who is accused of silence ends it by speaking."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from retally.chain.silence import encode_answer_head, encode_ids, encode_output
from retally.crash_points import crash_point
from retally.errors import NotFound
from retally.protocol.eip712 import Domain
from retally.protocol.merkle import CHUNK
from retally.protocol.wire import AnswerBundle
from retally_node.answer_audit import answer_of, without_content
from retally_node.ledger import CommittedRoot, Ledger, OpenChallenge

log = logging.getLogger(__name__)

#: Tokens of one part: what a transaction's gas bears, and a multiple of the trees' chunk.
PART_TOKENS = 128 * CHUNK
MARK = "challenges"
HEAD, PROMPT, PREFIX, OUTPUT, WHOLE = range(5)


class Progress(Protocol):
    """How far an answer on chain has come."""

    @property
    def tree(self) -> int:
        """The part that comes next."""

    @property
    def done(self) -> int:
        """Tokens of it shown so far."""


class ChallengeChain(Protocol):
    """What answering on chain needs."""

    async def challenges(self, from_block: int) -> tuple[list[OpenChallenge], int]:
        """Challenges of this node from a block on, and the block to go on from."""

    async def progress(self, challenge_id: bytes) -> Progress | None:
        """How far the answer has come; None once the challenge is over."""

    async def post(self, challenge_id: bytes, data: bytes) -> None:
        """Post the next part."""


def next_part(bundle: AnswerBundle, tree: int, done: int) -> bytes:
    """The part that the contract waits for."""
    if tree == HEAD:
        return encode_answer_head(bundle)
    if tree == OUTPUT:
        end = done + PART_TOKENS
        return encode_output(bundle.output_ids[done:end], bundle.output_q[done:end])
    ids = bundle.prompt_ids if tree == PROMPT else bundle.prefix_ids
    return encode_ids(ids[done : done + PART_TOKENS])


class Challenges:
    """The loop over challenges of this node."""

    def __init__(
        self,
        ledger: Ledger,
        chain: ChallengeChain,
        domain: Domain,
        deployed_block: int,
        reread_commits: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._ledger = ledger
        self._chain = chain
        self._domain = domain
        self._deployed_block = deployed_block
        self._reread_commits = reread_commits
        self._looked_for: set[int] = set()

    async def step(self) -> None:
        """Note new challenges, then move every open one on."""
        recent = await self._note()
        failed: Exception | None = None
        open_now = self._ledger.votes.open_challenges()
        # Those just seen too, though we closed them: a reorganisation may have taken back what answered them.
        for challenge in {each.id: each for each in (*open_now, *recent)}.values():
            try:
                await self._answer(challenge)
            except Exception as error:  # noqa: BLE001  see below
                # One that can't be answered, for whatever reason, must not silence the answers to the others.
                log.error("challenge %s: %s", challenge.id.hex(), error)
                failed = error
        if failed is not None:
            raise failed

    async def _note(self) -> list[OpenChallenge]:
        """Write new challenges down; return all that stand in the blocks which were read."""
        start = self._ledger.commits.reread_from(MARK, self._deployed_block)
        found, next_block = await self._chain.challenges(start)
        for challenge in found:
            if not self._ledger.votes.knows_challenge(challenge):
                log.warning("challenged on chain for point %d of commit %d", challenge.point, challenge.commit_id)
                await self._ledger.votes.record_challenge(challenge)
        if next_block > self._ledger.commits.mark(MARK, start):
            await self._ledger.commits.set_mark(MARK, next_block)
        return found

    async def _answer(self, challenge: OpenChallenge) -> None:
        bundle: AnswerBundle | None = None
        while (progress := await self._chain.progress(challenge.id)) is not None:
            bundle = bundle or await self._bundle(challenge)
            crash_point("before:send:answer")
            await self._chain.post(challenge.id, next_part(bundle, progress.tree, progress.done))
            crash_point("after:send:answer")
        if self._ledger.votes.is_open(challenge.id):
            await self._ledger.votes.close_challenge(challenge.id, "over")

    async def _commit(self, commit_id: int) -> CommittedRoot:
        commit = self._ledger.commits.commit(commit_id)
        if commit is None and self._reread_commits is not None and commit_id not in self._looked_for:
            # Once for each: it costs a reading of the whole chain, and who challenges chooses the number.
            await self._reread_commits()
            self._looked_for.add(commit_id)
            commit = self._ledger.commits.commit(commit_id)
        if commit is None:
            raise NotFound(f"commit {commit_id} is not on the books yet")
        return commit

    async def _bundle(self, challenge: OpenChallenge) -> AnswerBundle:
        commit = await self._commit(challenge.commit_id)
        bundle = await answer_of(self._ledger, self._domain, commit, challenge.channel, challenge.point)
        return bundle if bundle.request.audit_consent else without_content(bundle)

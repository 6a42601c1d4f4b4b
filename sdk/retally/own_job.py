"""A payer has one job of its own re-executed by a jury (R-67): gather the evidence, open the case, see it through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retally.chain.connection import Chain
from retally.chain.court import Case, CaseStatus, Opening, decode_shown
from retally.chain.events import ChainEvent, EventReader, block_at, collected_of
from retally.chain.follow_case import take_due_step
from retally.chain.transactions import TxSender
from retally.errors import (
    BadRequest,
    ChainUnreachable,
    Conflict,
    InsufficientFunds,
    InvalidReceipt,
    NodeUnavailable,
    Unavailable,
)
from retally.inclusion import Inclusion, check_inclusion
from retally.job_answers import under_commit
from retally.node_client import NodeClient
from retally.protocol.answer import Renderer, check_own_job
from retally.protocol.case import Shown
from retally.protocol.encoding import Address, Bytes32, to_hex
from retally.protocol.evidence_file import EvidenceFile, EvidencePoint
from retally.protocol.receipt import JobReceipt, ReceiptLeaf
from retally.protocol.wire import AnswerBundle

BLOCKS_OF_A_TIME = 100


@dataclass(frozen=True, slots=True)
class OpenedCase:
    """A case as its opening announced it."""

    id: int
    evidence_hash: Bytes32
    evidence_uri: str
    shown: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class CaseEnd:
    """How a case ended."""

    verdict: int
    refunded: int


def check_may_ask(receipt: JobReceipt, answer: AnswerBundle, who: Address) -> None:
    """Raises where the court would refuse the payer, or no juror could judge the job."""
    if receipt.payer != who:
        hint = "only who paid for a job may have it re-executed: name the payer's key with --address"
        raise BadRequest(f"{receipt.payer} paid for this job, the key at hand is {who}", param="address", hint=hint)
    if receipt.fee == 0:
        hint = "nothing was paid, so nothing could be paid back"
        raise BadRequest("this receipt bills nothing and lies under no commit", param="receipt", hint=hint)
    if not answer.request.audit_consent:
        hint = "its verdict would be inconclusive at the cost of the fee; check it yourself: retally verify"
        raise BadRequest("the request of this job forbids audit (R-35)", param="receipt", hint=hint)


async def check_court(chain: Chain, payer: Address) -> int:
    """What the case costs; raises while the Court takes no cases, or where the payer's wallet does not hold as much."""
    until = await chain.court.paused_until()
    now = await chain.clock.refresh()
    if now < until:
        raise Unavailable(f"the Court takes no new cases until {until}, now is {now}", hint="try again after that")
    cost, held = await chain.court.own_job_cost(), await chain.asset.balance_of(payer)
    if held < cost:
        error = InsufficientFunds(cost, held)
        error.hint = "the wallet itself pays for a case, not the deposit; on a devnet: retally faucet 100"
        raise error
    return cost


async def pool_of(chain: Chain, receipt: JobReceipt) -> int:
    """The pool of those who can replay the job; raises where nobody can."""
    pool = await chain.juror_pools.pool_of(receipt.model_id, receipt.profile_id)
    if pool == 0:
        hint = "check it on an engine of your own: retally verify --engine-url"
        raise Unavailable("nobody has enlisted to judge this model and profile", hint=hint)
    owner = (await chain.registry.node(receipt.node)).owner
    # The contract counts what was enlisted, whoever is gone since.
    alive = (await chain.juror_pools.readiness(receipt.model_id, receipt.profile_id)).ready
    if not alive or not await chain.juror_pools.may_judge(pool, owner):
        hint = "the case would end unheard and its fee be the accused's; check it yourself: retally verify --engine-url"
        raise Unavailable("too few have enlisted to judge this model and profile", hint=hint)
    return pool


async def evidence_file(chain: Chain, client: NodeClient, answer: AnswerBundle, render: Renderer) -> EvidenceFile:
    """The file behind the case: the job and its place under a commit, checked as its jurors will."""
    leaf = ReceiptLeaf(answer.receipt, answer.signature)
    inclusion = await _inclusion(chain, client, leaf)
    commit = inclusion.commit
    point = await _point(chain, under_commit(answer, inclusion), inclusion)
    try:
        check_own_job(point.own_context(chain.domain), point.answer, render)
    except InvalidReceipt as error:
        hint = "what you hold is not what the node signed: see `retally verify-receipt`"
        raise BadRequest(
            f"no juror would take this for the job: {error.message}", param="receipt", hint=hint
        ) from error
    return EvidenceFile(chain.deployment.chain_id, commit.owner, (point,))


async def _inclusion(chain: Chain, client: NodeClient, leaf: ReceiptLeaf) -> Inclusion:
    receipt = leaf.receipt
    node = await chain.registry.node(receipt.node)
    if not node.endpoint:
        raise NodeUnavailable(f"node {receipt.node} has no endpoint in the Registry")
    for inclusion in await client.inclusions(node, to_hex(receipt.job_id)):
        if inclusion.leaf != leaf:
            continue
        check_inclusion(inclusion, chain.domain)
        if not await chain.escrow.is_commit(inclusion.commit):
            raise InvalidReceipt("the commit was made on chain", inclusion.commit.id, "unknown")
        return inclusion
    hint = "nodes collect once a day or so; a case can be opened from then on"
    raise Conflict("the node has not collected for this job yet", code="not_collected", hint=hint)


async def _point(chain: Chain, answer: AnswerBundle, inclusion: Inclusion) -> EvidencePoint:
    commit = inclusion.commit
    for event in await _events_at(chain, "Escrow", commit.time, "Collected", commitId=commit.id):
        collected, receipt = collected_of(event), answer.receipt
        for index, item in enumerate(collected.ranges):
            if (item.payer, item.signer, item.lane) == (receipt.payer, receipt.signer, receipt.lane):
                return EvidencePoint(commit, collected.packed_ranges, index, 0, answer)
    raise ChainUnreachable(f"commit {commit.id} is not in the logs", hint="name an RPC endpoint that keeps old logs")


async def find_case(chain: Chain, payer: Address, receipt: JobReceipt) -> OpenedCase | None:
    """The latest case that the payer opened over this receipt; asked of the Court, not of the receipt's own times."""
    digest = receipt.digest(chain.domain)
    cases = await chain.court.cases()
    for case_id, case in sorted(cases.items(), reverse=True):
        if case.challenger != payer or not case.own_job:
            continue
        for event in await _events_at(chain, "Court", case.opened_at, "CaseOpened", caseId=case_id):
            opened = _opened(event)
            if [entry.receipt_digest for entry in opened.shown] == [digest]:
                return opened
    return None


async def open_case(chain: Chain, sender: TxSender, file: EvidenceFile, pool: int, uri: str) -> OpenedCase:
    """Opens the case with the payer's key."""
    cost = await chain.court.own_job_cost()
    if await chain.asset.allowance(sender.address, chain.court.address) < cost:
        await sender.send(chain.asset.approve(chain.court.address, cost))
    opening = Opening(file.owner, pool, file.shown(chain.domain), file.hash, uri)
    mined = await sender.send(chain.court.open_own_job(opening))
    reader = EventReader(chain, ("Court",))
    for event in await reader.read_named("CaseOpened", mined.block, mined.block, challenger=sender.address):
        return _opened(event)
    raise ChainUnreachable(f"the opening in {mined.tx_hash} is not in the logs", hint="run the command again")


class CaseFollower:
    """Sees a case through: takes every step that is due, whoever else may take it too."""

    def __init__(self, chain: Chain, sender: TxSender, case: OpenedCase) -> None:
        self._chain = chain
        self._sender = sender
        self._case = case

    async def step(self) -> Case:
        """Looks at the case and takes the step that is due, if any."""
        state = await self._chain.court.case_of(self._case.id)
        if not await take_due_step(self._chain, self._sender, self._case.id, state, self._case.shown):
            return state
        return await self._chain.court.case_of(self._case.id)

    async def end(self) -> CaseEnd:
        """How the closed case ended."""
        state = await self._chain.court.case_of(self._case.id)
        start, head = await block_at(self._chain, state.opened_at), await self._chain.block_number()
        reader = EventReader(self._chain, ("Court",))
        for event in await reader.read_named("CaseExecuted", start, head, caseId=self._case.id):
            return CaseEnd(event.args["verdict"], event.args["refunded"])
        raise Conflict(f"case {self._case.id} has not ended")


def is_closed(case: Case) -> bool:
    """Whether nothing can happen to a case any more."""
    return case.status == CaseStatus.CLOSED


async def _events_at(
    chain: Chain, contract: str, time: int, name: str, **indexed: int | str | bytes
) -> Sequence[ChainEvent]:
    """The events in the block of a time, and in some after it, which may bear the same."""
    start = await block_at(chain, time)
    end = min(start + BLOCKS_OF_A_TIME, await chain.block_number())
    return await EventReader(chain, (contract,)).read_named(name, start, end, **indexed)


def _opened(event: ChainEvent) -> OpenedCase:
    args = event.args
    return OpenedCase(
        args["caseId"], Bytes32(args["evidenceHash"]), str(args["evidenceUri"]), decode_shown(args["shown"])
    )

"""Who replays a job for a command beside one's own engine: nodes of other owners that are paid for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from retally.buy_scores import ScoreBuyer
from retally.chain.calibrations import CalibrationFiles
from retally.chain.connection import Chain
from retally.chain.registry import NodeEntry
from retally.cli.amounts import show_amount
from retally.cli.session import Session
from retally.errors import BadRequest, SpendingLimitExceeded
from retally.node_client import NodeClient, NodeEndpoint
from retally.protocol.calibration import Calibration
from retally.protocol.eip712 import TypedMessage
from retally.protocol.encoding import Address, Bytes32, parse_address, to_hex
from retally.protocol.job import JobRequest
from retally.protocol.margins import ReplayScores
from retally.protocol.receipt import JobReceipt
from retally.wallet import SignedVoucher, Wallet

REQUEST_SECONDS = 120.0


class WalletPurse:
    """`Purse` over a wallet: the payer's own lanes and books."""

    def __init__(self, wallet: Wallet, limit: int) -> None:
        self._wallet = wallet
        self._limit = limit
        self._promised = 0
        self.spent = 0

    @property
    def payer(self) -> Address:
        """Whose deposit pays."""
        return self._wallet.payer

    @property
    def signer(self) -> Address:
        """Who signs."""
        return self._wallet.signer

    def sign(self, message: TypedMessage) -> bytes:
        """Signs a typed message."""
        return self._wallet.sign(message)

    async def prepay(self, node: NodeEndpoint, request: JobRequest) -> SignedVoucher:
        """A voucher that covers the most that the request may cost."""
        if self._promised + request.max_fee > self._limit:
            raise SpendingLimitExceeded(self._limit, self._promised, request.max_fee)
        # What a job that fails was promised stays promised.
        self._promised += request.max_fee
        most = (request.max_fee,)
        job_id = request.digest(self._wallet.domain)
        return self._wallet.begin(node.node, job_id, prepaid=most, most=most, deadline=request.deadline)

    async def settle(self, receipt: JobReceipt) -> None:
        """Books a checked receipt."""
        self._wallet.settle(receipt)
        self.spent += receipt.fee

    def ended(self, node: NodeEndpoint, request: JobRequest) -> None:
        """Nothing to do: the wallet's own books know which jobs are open."""


@dataclass(frozen=True, slots=True)
class NodeScorer:
    """A node of another owner, paid by the job."""

    buyer: ScoreBuyer
    entry: NodeEntry

    @property
    def name(self) -> str:
        """Who scores, for people."""
        return f"node {self.entry.node}"

    @property
    def profile_id(self) -> Bytes32:
        """What the node is registered with."""
        return self.entry.profile_id

    async def score(self, ids: Sequence[int], start: int) -> ReplayScores:
        """The raw logprobs of ids[start:]."""
        return await self.buyer.score(self.entry, ids, start)


async def paid_node(
    chain: Chain, client: NodeClient, buyer: ScoreBuyer, where: str, receipts: Sequence[JobReceipt]
) -> NodeScorer:
    """The node of an address or at a URL, if it may re-execute: of the same model, of another owner (R-35)."""
    if where.startswith("0x"):
        entry = await chain.registry.node(parse_address("node", where))
    else:
        entry = replace(await chain.registry.node(await client.address_at(where)), endpoint=where)
    if not entry.is_live:
        raise BadRequest(f"{where} is no registered node", param="node", hint="see: retally nodes")
    for receipt in receipts:
        if entry.model_id != receipt.model_id:
            hint = "name a node of the job's model: see `retally nodes`"
            raise BadRequest(f"{where} serves another model, {to_hex(entry.model_id)}", param="node", hint=hint)
        owner = await chain.registry.node_owner(receipt.node)
        if entry.owner == owner or await chain.registry.are_siblings(entry.owner, owner):
            hint = "name a node of another owner: see `retally nodes`"
            raise BadRequest(f"{where} belongs to whom it would judge, {owner}", param="node", hint=hint)
    return NodeScorer(buyer, entry)


@asynccontextmanager
async def paying(session: Session, chain: Chain, limit: int, say: Callable[[str], None]) -> AsyncIterator[PaidNodes]:
    """Nodes that score for the session's key, for no more than the limit altogether."""
    wallet, client = Wallet(session.key(), chain.domain, session.home), NodeClient(REQUEST_SECONDS)
    purse = WalletPurse(wallet, limit)
    try:
        yield PaidNodes(chain, client, ScoreBuyer(client, purse, chain.domain, chain.clock), wallet.payer)
    finally:
        say(f"paid {show_amount(purse.spent)} for scores")
        await client.close()
        wallet.close()


@dataclass(frozen=True, slots=True)
class PaidNodes:
    """Who may be asked for scores, and whose money pays."""

    chain: Chain
    client: NodeClient
    buyer: ScoreBuyer
    payer: Address

    async def node(self, where: str, receipts: Sequence[JobReceipt]) -> NodeScorer:
        """The node of an address or at a URL, if it may re-execute these jobs."""
        return await paid_node(self.chain, self.client, self.buyer, where, receipts)


class UncheckedCalibrations:
    """Calibrations of a folder where no chain is at hand to say whether they may judge yet."""

    def __init__(self, files: CalibrationFiles) -> None:
        self._files = files

    async def find(
        self, model_id: bytes, node_profile: bytes, verifier_profile: bytes, committed_at: int
    ) -> Calibration | None:
        """The calibration for a pair of profiles."""
        return self._files.of_pair(model_id, node_profile, verifier_profile)

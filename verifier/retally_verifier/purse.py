"""What a verifier pays replays from: its own deposit, one lane, every promise on record before it leaves."""

from __future__ import annotations

from retally.crash_points import crash_point
from retally.node_client import NodeClient, NodeEndpoint
from retally.protocol.eip712 import Domain, SigningKey, TypedMessage
from retally.protocol.encoding import Address, Bytes32
from retally.protocol.job import JobRequest
from retally.protocol.receipt import JobReceipt
from retally.protocol.voucher import ChannelId, Voucher
from retally.wallet import SignedVoucher
from retally_verifier.store import Store


class StorePurse:
    """`Purse` over the verifier's books."""

    def __init__(self, store: Store, client: NodeClient, key: SigningKey, domain: Domain, lane: int) -> None:
        self._store = store
        self._client = client
        self._key = key
        self._domain = domain
        self._lane = lane
        #: The most that each job may cost which was paid for and has not ended, by node.
        self._open: dict[Address, dict[Bytes32, int]] = {}

    @property
    def payer(self) -> Address:
        """The verifier itself."""
        return self._key.address

    @property
    def signer(self) -> Address:
        """The verifier itself."""
        return self._key.address

    def sign(self, message: TypedMessage) -> bytes:
        """Signs a typed message."""
        return self._key.sign(message.digest(self._domain))

    async def prepay(self, node: NodeEndpoint, request: JobRequest) -> SignedVoucher:
        """A voucher that covers the most that the request may cost."""
        channel = ChannelId(self._key.address, self._key.address, node.node, self._lane)
        promised, owed = self._store.lane(node.node)
        state = await self._client.channel(node, channel)
        # The node's count is believed up to what was promised already: a lie costs nothing new. It counts what is
        # due of a job that still runs for a process that died.
        owed = max(owed, min(state.due, promised))
        running = self._open.setdefault(node.node, {})
        # Those on their way are not in the node's count yet. What is promised twice is never paid twice.
        cumulative = max(promised, owed + sum(running.values()) + request.max_fee)
        running[request.digest(self._domain)] = request.max_fee
        self._store.set_lane(node.node, cumulative, owed)
        voucher = Voucher(channel.payer, channel.signer, channel.node, channel.lane, cumulative)
        crash_point("before:send:replay")
        return SignedVoucher(voucher, self.sign(voucher))

    async def settle(self, receipt: JobReceipt) -> None:
        """Books a checked receipt."""
        crash_point("after:send:replay")
        promised, owed = self._store.lane(receipt.node)
        self._store.set_lane(receipt.node, promised, max(owed, min(receipt.cum_to, promised)))

    def ended(self, node: NodeEndpoint, request: JobRequest) -> None:
        """What the job may cost is no longer open: its receipt is booked, or the node counts it as due."""
        self._open.get(node.node, {}).pop(request.digest(self._domain), None)

"""A payer's own key at work: signs requests and vouchers, and keeps count of every promise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from retally.errors import InvalidReceipt, RetallyError
from retally.keystore import Keystore
from retally.lane_ledger import LaneLedger
from retally.money_line import MoneyLine
from retally.protocol.eip712 import Domain, SigningKey, TypedMessage, check_signed_by
from retally.protocol.encoding import Address, Bytes32, to_hex
from retally.protocol.receipt import JobReceipt
from retally.protocol.voucher import Voucher
from retally.protocol.wire import ChannelState

MAX_AMOUNT = (1 << 96) - 1


@dataclass(frozen=True, slots=True)
class SignedVoucher:
    """A voucher and the signer's signature."""

    voucher: Voucher
    signature: bytes

    def to_wire(self) -> dict[str, object]:
        """The JSON object that services take."""
        return {"voucher": self.voucher.to_wire(), "signature": to_hex(self.signature)}


@dataclass(frozen=True, slots=True)
class StaleJob:
    """A job that ended for us without its receipts."""

    node: Address
    job_id: str
    choice: int
    deadline: int


class Wallet:
    """Signs for one payer in a lane of its own; what it promised is on disk before the promise leaves."""

    def __init__(self, key: SigningKey, domain: Domain, folder: Path, *, payer: Address | None = None) -> None:
        self._key = key
        self.domain = domain
        self.signer = key.address
        self.payer = payer or key.address
        place = f"{domain.chain_id}-{domain.escrow[2:10].lower()}-{self.payer[2:].lower()}-{self.signer[2:10].lower()}"
        self._ledger = LaneLedger.lease(folder / "lanes" / place)
        self._live: set[str] = set()

    @classmethod
    def open(cls, folder: Path, password: str, domain: Domain, *, address: str | None = None) -> Wallet:
        """Unlocks a key of the folder's keystore and leases a lane for it."""
        return cls(Keystore(folder / "keystore").unlock(password, address), domain, folder)

    @property
    def lane(self) -> int:
        """The lane that only this wallet writes."""
        return self._ledger.lane

    def sign(self, message: TypedMessage) -> bytes:
        """Signs a typed message under the wallet's domain."""
        return self._key.sign(message.digest(self.domain))

    def begin(
        self, node: Address, job_id: Bytes32, *, prepaid: Sequence[int], most: Sequence[int], deadline: int
    ) -> SignedVoucher:
        """Opens a job's choices and promises what is prepaid for each."""

        def change(line: MoneyLine) -> int:
            for choice, (owed, limit) in enumerate(zip(prepaid, most, strict=True)):
                line.begin(segment_key(job_id, choice), owed=owed, most=limit, deadline=deadline)
            return _promise(line)

        self._live.add(to_hex(job_id))
        return self._voucher(node, self._ledger.update(node, change))

    def owe(self, node: Address, job_id: Bytes32, choice: int, owed: int) -> SignedVoucher | None:
        """Counts what a choice owes by now; a voucher where that exceeds what is promised."""

        def change(line: MoneyLine) -> int | None:
            line.owe(segment_key(job_id, choice), owed)
            return _promise(line) if line.needed > line.promised else None

        promised = self._ledger.update(node, change)
        return None if promised is None else self._voucher(node, promised)

    def promise(self, node: Address, required: int) -> SignedVoucher | None:
        """A voucher of at least what the node asks for; nothing where no agreed limit explains that much."""

        def change(line: MoneyLine) -> int | None:
            if required > min(line.at_most, MAX_AMOUNT):
                return None
            line.promised = max(line.promised, required)
            return line.promised

        promised = self._ledger.update(node, change)
        return None if promised is None else self._voucher(node, promised)

    def settle(self, receipt: JobReceipt) -> SignedVoucher | None:
        """Closes a segment with its checked receipt; a voucher where that leaves something unpromised."""
        if (receipt.payer, receipt.signer, receipt.lane) != (self.payer, self.signer, self.lane):
            raise InvalidReceipt("the channel of this wallet", self.lane, receipt.lane)

        def change(line: MoneyLine) -> int | None:
            line.close(segment_key(receipt.job_id, receipt.choice), receipt)
            return _promise(line) if line.needed > line.promised else None

        promised = self._ledger.update(receipt.node, change)
        return None if promised is None else self._voucher(receipt.node, promised)

    def cap(self, node: Address, job_id: Bytes32, most: Sequence[int]) -> None:
        """Lowers what each choice may bill to be paid: its caller has gone."""

        def change(line: MoneyLine) -> None:
            for choice, limit in enumerate(most):
                line.cap(segment_key(job_id, choice), limit)

        self._ledger.update(node, change)

    def lose(self, node: Address, job_id: Bytes32, choices: int) -> None:
        """Takes a job's prepayment for the next one; its receipts, if there are any, are still looked for."""

        def change(line: MoneyLine) -> None:
            for choice in range(choices):
                line.lose(segment_key(job_id, choice))

        self._ledger.update(node, change)
        self.release(job_id)

    def refuse(self, node: Address, job_id: Bytes32, choice: int) -> None:
        """Closes a segment that is not paid, whatever its receipt says."""
        self._ledger.update(node, lambda line: line.refuse(segment_key(job_id, choice)))

    def catch_up(self, node: Address, job_id: Bytes32, state: ChannelState) -> bool:
        """Whether a node shows a voucher of ours beyond this record, which then goes on from there."""
        best = Voucher(self.payer, self.signer, node, self.lane, state.best)
        if state.best <= self.line(node).promised or state.best_signature is None:
            return False
        try:
            check_signed_by(best.digest(self.domain), state.best_signature, self.signer)
        except RetallyError:
            return False
        self._ledger.update(node, lambda line: line.catch_up(state.best, state.last_cum_to, to_hex(job_id)))
        return True

    def abandon(self, node: Address, job_id: Bytes32, choices: int) -> None:
        """Forgets a job that the node refused; its prepayment serves the next one."""

        def change(line: MoneyLine) -> None:
            for choice in range(choices):
                line.abandon(segment_key(job_id, choice))

        self._ledger.update(node, change)
        self.release(job_id)

    def release(self, job_id: Bytes32) -> None:
        """Marks that nobody waits for a job's receipts any more: they are fetched before the next job."""
        self._live.discard(to_hex(job_id))

    def stale(self, node: Address | None = None) -> Iterator[StaleJob]:
        """Segments that nobody in this process waits for: cancelled streams and jobs of an earlier life."""
        for line_node, line in self._ledger.lines():
            for key, entry in line.open.items():
                job_id, choice = key.split("/")
                if job_id not in self._live and node in (None, line_node):
                    yield StaleJob(line_node, job_id, int(choice), entry.deadline)

    def line(self, node: Address) -> MoneyLine:
        """The channel to a node as this wallet counts it."""
        return self._ledger.line(node)

    def close(self) -> None:
        """Gives the lane back."""
        self._ledger.close()

    def _voucher(self, node: Address, cumulative: int) -> SignedVoucher:
        voucher = Voucher(self.payer, self.signer, node, self.lane, cumulative)
        return SignedVoucher(voucher, self.sign(voucher))


def segment_key(job_id: Bytes32, choice: int) -> str:
    """How a job's choice is named in the ledger."""
    return f"{to_hex(job_id)}/{choice}"


def _promise(line: MoneyLine) -> int:
    line.promised = min(MAX_AMOUNT, max(line.promised, line.needed))
    return line.promised

"""What payers and signers sign for money, and who may sign for whom."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from retally.protocol.eip712 import TypedMessage
from retally.protocol.encoding import Address, Bytes32, address_bytes, keccak, u32

#: So many a node takes in one request.
MAX_VOUCHERS = 256


@lru_cache(maxsize=65536)
def channel_key(payer: Address, signer: Address, node: Address, lane: int) -> Bytes32:
    """The key of a channel (R-18)."""
    return keccak(address_bytes(payer) + address_bytes(signer) + address_bytes(node) + u32(lane))


@dataclass(frozen=True, slots=True)
class ChannelId:
    """One signer, one writer, one growing number."""

    payer: Address
    signer: Address
    node: Address
    lane: int

    @property
    def key(self) -> Bytes32:
        """The channel's key (R-18)."""
        return channel_key(self.payer, self.signer, self.node, self.lane)


@dataclass(frozen=True, slots=True)
class Voucher(TypedMessage):
    """A cumulative promise to one node: replay and loss of old ones are harmless."""

    TYPE: ClassVar[str] = "Voucher(address payer,address signer,address node,uint32 lane,uint96 cumulative)"

    payer: Address
    signer: Address
    node: Address
    lane: int
    cumulative: int

    @property
    def channel(self) -> ChannelId:
        """The channel that the voucher is for."""
        return ChannelId(self.payer, self.signer, self.node, self.lane)


@dataclass(frozen=True, slots=True)
class Reservation(TypedMessage):
    """A payer's funds set aside for one node."""

    TYPE: ClassVar[str] = "Reservation(address payer,address signer,address node,uint96 cumulative,uint32 epoch)"

    payer: Address
    signer: Address
    node: Address
    cumulative: int
    epoch: int


@dataclass(frozen=True, slots=True)
class SignerAuth(TypedMessage):
    """A session signer's consent to sign for a payer."""

    TYPE: ClassVar[str] = "SignerAuth(address payer,address signer,uint96 cap,uint40 expiry,uint40 deadline)"

    payer: Address
    signer: Address
    cap: int
    expiry: int
    deadline: int


@dataclass(frozen=True, slots=True)
class NodeAuth(TypedMessage):
    """A node key's consent to serve for an owner."""

    TYPE: ClassVar[str] = "NodeAuth(address owner,address node,uint40 deadline)"

    owner: Address
    node: Address
    deadline: int

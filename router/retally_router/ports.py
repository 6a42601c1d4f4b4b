"""What the router needs from outside, as small ports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from retally.protocol.eip712 import Address, Bytes32


class Clock(Protocol):
    """Chain time (R-5)."""

    def now(self) -> int:
        """Seconds of chain time."""
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """What the chain said about a payer and one of its signers."""

    balance: int
    used: int
    cap: int
    expiry: int
    thawing: bool = False
    #: The block that all of it is of.
    block: int = 0

    @property
    def authorised(self) -> bool:
        """Whether the payer ever authorised the signer and did not begin to revoke it."""
        return self.expiry > 0 and not self.thawing


@dataclass(frozen=True, slots=True)
class RegisteredNode:
    """A node as the Registry knows it, with its owner's stake and room for new work."""

    node: Address
    owner: Address
    model_id: Bytes32
    profile_id: Bytes32
    endpoint: str
    stake: int
    free_exposure: int
    calibrated: bool


class ChainView(Protocol):
    """What the router reads from the chain."""

    async def standing(self, payer: Address, signer: Address) -> Standing:
        """The payer's free balance and the signer's cap, use and expiry."""
        ...

    async def nodes(self) -> Sequence[RegisteredNode]:
        """All nodes that are registered and not revoked."""
        ...


#: Whether it took what a node sent; if not, nothing has happened.
Direct = Callable[[bytes], bool]


class NodeStream(Protocol):
    """A node's answer to a job, while it comes."""

    status: int

    async def next(self, direct: Direct | None = None) -> bytes:
        """The next bytes of the body as they arrive, but for those that the other took; empty at its end."""
        ...

    def close(self) -> None:
        """Breaks the connection, which cancels the job."""
        ...


class NodeApi(Protocol):
    """A node's HTTP interface."""

    async def info(self, endpoint: str) -> Mapping[str, Any]:
        """GET /retally/v1/info."""
        ...

    async def start_job(self, endpoint: str, submission: bytes, request_id: str) -> NodeStream:
        """POST /retally/v1/jobs; raises NodeUnavailable before any byte, if there is no answer."""
        ...

    async def send_vouchers(self, endpoint: str, vouchers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """POST /retally/v1/vouchers."""
        ...

    async def channel(self, endpoint: str, payer: str, signer: str, lane: int) -> Mapping[str, Any]:
        """GET /retally/v1/channels/…"""
        ...

    async def receipts(self, endpoint: str, job_id: str) -> Mapping[str, Any]:
        """GET /retally/v1/receipts/{jobId}."""
        ...

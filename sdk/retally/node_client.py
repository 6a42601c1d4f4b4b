"""HTTP to nodes: their offers, answers, channels and scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from retally.bounded_read import json_or_none, read_bounded, within
from retally.errors import BadRequest, NodeUnavailable, UpstreamTimeout, error_of_envelope
from retally.inclusion import Inclusion
from retally.protocol.eip712 import Domain, check_signed_by
from retally.protocol.encoding import ZERO_ADDRESS, Address, parse_address, parse_object, parse_signature
from retally.protocol.offer import Offer
from retally.protocol.voucher import ChannelId
from retally.protocol.wire import AnswerBundle, ChannelState, JobSubmission, SignedAnswerRequest

#: The scores of a long job, as an evidence file holds them.
MOST_BYTES = 64 << 20


class NodeEndpoint(Protocol):
    """A node and where it is reached."""

    @property
    def node(self) -> Address:
        """Its address."""
        ...

    @property
    def endpoint(self) -> str:
        """Its registered URL."""
        ...


@dataclass(frozen=True, slots=True)
class _Somebody:
    """A URL behind which a node is not known yet."""

    endpoint: str
    node: Address = ZERO_ADDRESS


class NodeClient:
    """Talks to nodes at their registered endpoints."""

    def __init__(self, timeout_seconds: float) -> None:
        # The answer may take the one time to begin and the other to arrive.
        self._longest_seconds = 2 * timeout_seconds
        headers = {"accept-encoding": "identity"}
        self._http = httpx.AsyncClient(timeout=timeout_seconds, follow_redirects=False, headers=headers)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def offer(self, node: NodeEndpoint, domain: Domain) -> tuple[Offer, bytes]:
        """A node's signed offer."""
        info = await self._call("GET", node, "/retally/v1/info")
        offer, signature = Offer.from_wire(info.get("offer")), parse_signature("offer", info.get("offerSignature"))
        if offer.node != node.node:
            raise BadRequest(f"{node.endpoint} offers for {offer.node}, not for {node.node}")
        check_signed_by(offer.digest(domain), signature, node.node)
        return offer, signature

    async def address_at(self, url: str) -> Address:
        """Which node says that it answers at a URL; only its signatures prove it."""
        return parse_address("node", (await self._call("GET", _Somebody(url), "/retally/v1/info")).get("node"))

    async def inclusions(self, node: NodeEndpoint, job_id: str) -> list[Inclusion]:
        """Under which commits a job's receipts stand, as the node shows it; `check_inclusion` is the caller's."""
        found = (await self._call("GET", node, f"/retally/v1/receipts/{job_id}/inclusion")).get("inclusions")
        return [Inclusion.from_wire(item) for item in found] if isinstance(found, list) else []

    async def answer(self, node: NodeEndpoint, request: SignedAnswerRequest) -> AnswerBundle:
        """What the node shows for a drawn point."""
        return AnswerBundle.from_wire(await self._call("POST", node, "/retally/v1/answers", request.to_wire()))

    async def channel(self, node: NodeEndpoint, channel: ChannelId) -> ChannelState:
        """How a channel stands at its node."""
        path = f"/retally/v1/channels/{channel.payer}/{channel.signer}/{channel.lane}"
        return ChannelState.from_wire(await self._call("GET", node, path))

    async def run_job(self, node: NodeEndpoint, submission: JobSubmission) -> dict[str, Any]:
        """The plain answer to a job."""
        return await self._call("POST", node, "/retally/v1/jobs", submission.to_wire())

    async def _call(self, method: str, node: NodeEndpoint, path: str, body: object = None) -> dict[str, Any]:
        url = node.endpoint.rstrip("/") + path
        try:
            async with within(self._longest_seconds, url), self._http.stream(method, url, json=body) as response:
                content = await read_bounded(response, MOST_BYTES)
        except httpx.TimeoutException as error:
            raise UpstreamTimeout(f"{url} did not answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NodeUnavailable(f"{url} can't be reached: {error}") from error
        parsed = json_or_none(content)
        if response.status_code != httpx.codes.OK:
            raise error_of_envelope(response.status_code, parsed)
        return dict(parse_object("response", parsed))

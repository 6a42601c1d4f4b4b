"""The market's own routes: API keys, quotes, vouchers, nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request

from retally.bounded_read import gather_bounded
from retally.errors import BadRequest, DeadlinePassed, NodeUnavailable, NotFound, RetallyError
from retally.protocol.eip712 import Address, Domain
from retally.protocol.encoding import (
    ZERO_BYTES32,
    check_integer,
    parse_address,
    parse_bytes32,
    parse_integer,
    parse_object,
    to_hex,
)
from retally.protocol.key_limits import KeyLimits
from retally.protocol.key_text import create_key_text, list_keys_text, revoke_key_text
from retally.protocol.params import EMBEDDINGS
from retally.protocol.pricing import Prices, max_fee
from retally_router.authorize import check_personal, parse_wallet_signature
from retally_router.directory import Directory, Listed
from retally_router.embeddings_ask import sizes_of
from retally_router.keys import Keys
from retally_router.make_request import parse_body, template_date
from retally_router.ports import Clock, NodeApi
from retally_router.quotes import Quotes
from retally_router.selection import Need, Selection
from retally_router.served_route import ServedRoute
from retally_router.wishes import Wishes, read_wishes

DEADLINE_DIGITS = 13
PREFIX = "/retally/v1"


@dataclass(frozen=True, slots=True)
class MarketApi:
    """Serves `/retally/v1/…`."""

    keys: Keys
    quotes: Quotes
    directory: Directory
    selection: Selection
    api: NodeApi
    clock: Clock
    domain: Domain
    default_max_tokens: int
    max_body_bytes: int

    def routes(self) -> list[ServedRoute]:
        """All routes."""
        return [
            ServedRoute("POST", f"{PREFIX}/keys", self.create_key, 201),
            ServedRoute("GET", f"{PREFIX}/keys", self.list_keys),
            ServedRoute("DELETE", f"{PREFIX}/keys/{{key_id}}", self.revoke_key),
            ServedRoute("POST", f"{PREFIX}/quotes", self.quote),
            ServedRoute("POST", f"{PREFIX}/vouchers", self.send_vouchers),
            ServedRoute("GET", f"{PREFIX}/nodes", self.list_nodes),
            ServedRoute("GET", f"{PREFIX}/nodes/{{node}}/channels/{{payer}}/{{signer}}/{{lane}}", self.channel),
            ServedRoute("GET", f"{PREFIX}/nodes/{{node}}/receipts/{{job_id}}", self.node_receipts),
        ]

    async def create_key(self, request: Request) -> dict[str, Any]:
        """A capped session signer for a payer that asks for it with its signature."""
        body = await self._body(request)
        payer = parse_address("payer", body.get("payer"))
        cap = parse_integer("cap", body.get("cap"), 96)
        expiry = check_integer("expiry", body.get("expiry"), 40)
        deadline = check_integer("deadline", body.get("deadline"), 40)
        now = self.clock.now()
        self._check_deadline(deadline, now)
        if expiry <= now:
            raise BadRequest(f"expiry {expiry} is not after now, {now}", param="expiry", hint="choose a later expiry")
        limits = KeyLimits.from_wire(body.get("limits"))
        text = create_key_text(self.domain, payer, cap, expiry, deadline, limits)
        check_personal(text, parse_wallet_signature(body.get("signature")), payer)
        return await self.keys.create(payer, cap, expiry, deadline, now, limits)

    async def list_keys(self, request: Request, payer: str) -> dict[str, Any]:
        """A payer's keys, without secrets."""
        owner = parse_address("payer", payer)
        deadline = self._deadline_of(request)
        self._check_text(request, list_keys_text(self.domain, owner, deadline), owner)
        return {"keys": await self.keys.list(owner)}

    async def revoke_key(self, request: Request, key_id: str) -> dict[str, Any]:
        """Forgets a key."""
        owner = await self.keys.payer_of(key_id)
        deadline = self._deadline_of(request)
        self._check_text(request, revoke_key_text(self.domain, owner, key_id, deadline), owner)
        await self.keys.revoke(key_id, owner)
        return {"keyId": key_id, "revoked": True}

    async def quote(self, request: Request) -> dict[str, Any]:
        """A node for a client that signs with its own key."""
        body = await self._body(request)
        payer, signer = parse_address("payer", body.get("payer")), parse_address("signer", body.get("signer"))
        lane = check_integer("lane", body.get("lane"), 32)
        need = self._need(body)
        node = self.selection.choose(self.directory.nodes(), need)[0]
        fee = max_fee(
            node.offer.prices,
            prompt_tokens=need.prompt_tokens,
            max_output=need.output_tokens,
            n=need.n,
        )
        return {
            "quoteId": self.quotes.give(node.node),
            "node": node.node,
            "modelId": node.model_hex,
            "model": node.model,
            "profileId": to_hex(ZERO_BYTES32),
            "offer": node.offer.to_wire(),
            "offerSignature": to_hex(node.offer_signature),
            "channel": await self._channel_or_none(node, payer, signer, lane),
            "maxFee": str(fee),
            "promptTokensEstimate": need.prompt_tokens,
            "templateDate": template_date(self.clock.now()),
            "defaultMaxTokens": self.default_max_tokens,
            "now": self.clock.now(),
            **({"dimensions": need.dimensions} if need.dimensions else {}),
        }

    async def send_vouchers(self, request: Request) -> Mapping[str, Any]:
        """Carries a client's vouchers to their node."""
        body = await self._body(request)
        vouchers = body.get("vouchers")
        if not isinstance(vouchers, list):
            raise BadRequest("vouchers must be a list", param="vouchers")
        node = self._node(body.get("node"))
        return await self.api.send_vouchers(node.endpoint, vouchers)

    async def list_nodes(self) -> dict[str, Any]:
        """The directory."""
        return {"nodes": [node.view() for node in self.directory.nodes()]}

    async def channel(self, node: str, payer: str, signer: str, lane: int) -> Mapping[str, Any]:
        """A node's view of a channel."""
        endpoint = self._node(node).endpoint
        who = parse_address("payer", payer), parse_address("signer", signer)
        return await self.api.channel(endpoint, *who, check_integer("lane", lane, 32))

    async def node_receipts(self, node: str, job_id: str) -> Mapping[str, Any]:
        """What a node has receipts for, say after a stream that broke off."""
        wanted = to_hex(parse_bytes32("jobId", job_id))
        return await self.api.receipts(self._node(node).endpoint, wanted)

    def _need(self, body: Mapping[str, Any]) -> Need:
        model = body.get("model") or body.get("modelId")
        if not isinstance(model, str):
            raise BadRequest("model must be a string", param="model", hint="list the models with GET /v1/models")
        exclude = body.get("exclude") or []
        if not isinstance(exclude, list) or not all(isinstance(item, str) for item in exclude):
            raise BadRequest("exclude must be a list of nodes", param="exclude")
        dimensions = 0
        if body.get("endpoint") == EMBEDDINGS:
            whole = sizes_of(self.directory.nodes(), model).whole
            dimensions = check_integer("dimensions", body.get("dimensions") or whole, 32)
        return Need(
            model=model,
            prompt_tokens=check_integer("promptTokens", _first(body, ("promptTokens", "promptTokensEstimate"), 0), 32),
            output_tokens=0
            if dimensions
            else check_integer("maxOutput", body.get("maxOutput") or self.default_max_tokens, 32),
            n=check_integer("n", _first(body, ("n",), 1), 16),
            wishes=_wishes(body),
            exclude=frozenset(item.lower() for item in exclude),
            dimensions=dimensions,
        )

    async def _channel_or_none(
        self, node: Listed, payer: Address, signer: Address, lane: int
    ) -> Mapping[str, Any] | None:
        try:
            return await self.api.channel(node.endpoint, payer, signer, lane)
        except RetallyError as error:
            if error.status == 404:
                return None
            raise

    def _node(self, value: object) -> Listed:
        address = parse_address("node", value)
        node = self.directory.find(address)
        if node is None:
            raise NotFound(f"node {address} is not registered", param="node", hint="see GET /retally/v1/nodes")
        if not node.alive:
            raise NodeUnavailable(f"node {address} does not answer", hint="retry in a few seconds")
        return node

    async def _body(self, request: Request) -> dict[str, Any]:
        return parse_body(await gather_bounded(request.stream(), self.max_body_bytes))

    def _deadline_of(self, request: Request) -> int:
        text = request.headers.get("x-retally-deadline", "")
        if not text.isdecimal() or len(text) > DEADLINE_DIGITS or int(text) >= 2**40:
            raise BadRequest("x-retally-deadline must be a time in seconds", param="x-retally-deadline")
        deadline = int(text)
        self._check_deadline(deadline, self.clock.now())
        return deadline

    def _check_deadline(self, deadline: int, now: int) -> None:
        if deadline <= now:
            raise DeadlinePassed(deadline, now)

    def _check_text(self, request: Request, text: str, payer: Address) -> None:
        check_personal(text, parse_wallet_signature(request.headers.get("x-retally-signature")), payer)


def _first(body: Mapping[str, Any], names: tuple[str, ...], default: int) -> object:
    return next((body[name] for name in names if body.get(name) is not None), default)


def _wishes(body: Mapping[str, Any]) -> Wishes:
    wishes = read_wishes(body.get("provider"))
    if body.get("maxPrices") is None:
        return wishes
    prices = parse_object("maxPrices", body["maxPrices"])
    top = str(2**64 - 1)
    limits = [parse_integer(name, prices.get(name, top), 64) for name in ("in", "cached", "out")]
    return replace(wishes, max_prices=Prices(*limits))

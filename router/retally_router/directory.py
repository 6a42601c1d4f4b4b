"""The nodes of the market: from the Registry, their own reports and their signed offers."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from retally.errors import BadRequest, InvalidSignature, OfferExpired, RetallyError
from retally.protocol.eip712 import Address, Bytes32, Domain, check_signed_by
from retally.protocol.embeddings import VectorSizes
from retally.protocol.encoding import check_integer, parse_object, parse_signature, to_hex
from retally.protocol.offer import Offer
from retally.protocol.params import EMBEDDINGS
from retally_router.end_tasks import end_tasks
from retally_router.observed import Watch
from retally_router.ports import ChainView, Clock, NodeApi, RegisteredNode
from retally_router.predict import UNKNOWN, Capacity

log = structlog.get_logger(__name__)

CHAIN_POLLS = 5
#: The list is put together anew no more often, however many jobs ask for it.
LIST_SECONDS = 0.05
#: The quickest of so many polls is the way there and back: slower ones waited for something.
RTT_POLLS = 8
#: Prompt tokens that a waiting job is taken to have where the node does not tell.
WAITING_TOKENS = 500
FASTEST = 10**9
#: Of one poll that failed, a busy router may be the cause itself.
SILENT_POLLS = 2


@dataclass(frozen=True, slots=True)
class Listed:
    """A node that answered, with its offer checked."""

    node: Address
    owner: Address
    endpoint: str
    model: str
    model_id: Bytes32
    profile_id: Bytes32
    offer: Offer
    offer_signature: bytes
    offer_hash: Bytes32
    stake: int
    free_exposure: int
    running: int = 0
    waiting: int = 0
    alive: bool = True
    audited: bool = False
    #: Not audited only because nobody calibrated its profile yet: it may get trials.
    on_probation: bool = False
    capacity: Capacity = UNKNOWN
    rtt_seconds: float = 0.0
    #: The vectors that it makes; None where it serves completions.
    vectors: VectorSizes | None = None

    @property
    def model_hex(self) -> str:
        """The model's id, by which it may be asked for too."""
        return to_hex(self.model_id)

    def view(self) -> dict[str, Any]:
        """What the directory tells."""
        return {
            "node": self.node,
            "owner": self.owner,
            "endpoint": self.endpoint,
            "model": self.model,
            "modelId": self.model_hex,
            "profileId": to_hex(self.profile_id),
            "offer": self.offer.to_wire(),
            "offerSignature": to_hex(self.offer_signature),
            "stake": str(self.stake),
            "freeExposure": str(self.free_exposure),
            "load": {"running": self.running, "waiting": self.waiting},
            "alive": self.alive,
            "audited": self.audited,
            "routable": self.alive and (self.audited or self.vectors is not None),
            "endpoints": ["chat", "text"] if self.vectors is None else [EMBEDDINGS],
            "onProbation": self.on_probation,
            "roundTripMs": round(1000 * self.rtt_seconds, 1),
        }


@dataclass(slots=True)
class Silence:
    """A node's polls that failed since it last answered; a poll that comes late in a busy router is no silence."""

    since: float
    polls: int = 0


class Directory:
    """Follows the Registry and polls every node; one slow node delays no other."""

    def __init__(
        self,
        chain: ChainView,
        api: NodeApi,
        clock: Clock,
        domain: Domain,
        *,
        poll_seconds: float,
        stale_seconds: float,
        audited_owners: int,
        require_calibration: bool,
        watch: Watch | None = None,
    ) -> None:
        self._chain = chain
        self._api = api
        self._clock = clock
        self._domain = domain
        self._poll_seconds = poll_seconds
        self._stale_seconds = stale_seconds
        self._audited_owners = audited_owners
        self._require_calibration = require_calibration
        self._watch = watch
        self._rtts: dict[Address, deque[float]] = defaultdict(lambda: deque(maxlen=RTT_POLLS))
        self._current: tuple[float, int, list[Listed]] | None = None
        self._registered: Sequence[RegisteredNode] = ()
        self._listed: dict[Address, Listed] = {}
        self._silences: dict[Address, Silence] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Reads once, then keeps reading in the background."""
        await self.refresh()
        self._tasks = [asyncio.create_task(self._follow_chain()), asyncio.create_task(self._follow_nodes())]

    async def close(self) -> None:
        """Stops reading."""
        await end_tasks(self._tasks)

    def nodes(self) -> list[Listed]:
        """Every node that ever answered and is still registered, alive or not, with a valid offer."""
        now, moment = self._clock.now(), asyncio.get_running_loop().time()
        if self._current is not None and self._current[1] == now and moment < self._current[0] + LIST_SECONDS:
            return self._current[2]
        current = self._label(
            [
                replace(listed, alive=self._is_heard(listed.node, moment) and listed.offer.valid_until > now)
                for listed in self._listed.values()
            ]
        )
        self._current = moment, now, current
        return current

    def _is_heard(self, node: Address, moment: float) -> bool:
        silence = self._silences.get(node)
        return silence is None or silence.polls < SILENT_POLLS or moment < silence.since + self._stale_seconds

    def find(self, node: str) -> Listed | None:
        """One node."""
        return next((listed for listed in self.nodes() if listed.node == node), None)

    async def refresh(self) -> None:
        """Reads chain and nodes once."""
        await self._read_chain()
        await self._read_nodes()

    async def _follow_chain(self) -> None:
        # Apart from the nodes: while an RPC keeps a read waiting, a dead node must not pass for alive.
        while True:
            await asyncio.sleep(self._poll_seconds * (CHAIN_POLLS if self._registered else 1))
            try:
                await self._read_chain()
            except Exception:
                # What an RPC says that nobody foresaw must not end the reading for good.
                log.exception("registry_round_failed")

    async def _follow_nodes(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self._read_nodes()
            except Exception:
                # A report that nobody foresaw must not end the polling for all other nodes.
                log.exception("directory_round_failed")

    async def _read_chain(self) -> None:
        try:
            self._registered = await self._chain.nodes()
        except RetallyError as error:
            log.warning("registry_unread", error=str(error))
            return
        known = {registered.node for registered in self._registered}
        for gone in (self._listed.keys() | self._silences.keys()) - known:
            self._listed.pop(gone, None)
            self._rtts.pop(gone, None)
            self._silences.pop(gone, None)
            self._current = None

    async def _read_nodes(self) -> None:
        async with asyncio.TaskGroup() as group:
            for registered in self._registered:
                group.create_task(self._read_node(registered))

    async def _read_node(self, registered: RegisteredNode) -> None:
        loop = asyncio.get_running_loop()
        asked = loop.time()
        try:
            info = await self._api.info(registered.endpoint)
            rtts = self._rtts[registered.node]
            rtts.append(loop.time() - asked)
            listed = replace(self._check(registered, info), rtt_seconds=min(rtts))
            if self._watch is not None:
                self._report(self._watch, listed, parse_object("load", info.get("load", {})))
        except RetallyError as error:
            log.debug("node_unread", node=registered.node, error=str(error))
            self._silences.setdefault(registered.node, Silence(asked)).polls += 1
            self._current = None
            return
        self._silences.pop(registered.node, None)
        self._listed[registered.node] = listed
        self._current = None

    def _report(self, watch: Watch, listed: Listed, load: Mapping[str, Any]) -> None:
        prefill = check_integer("prefillTokens", load.get("prefillTokens", WAITING_TOKENS * listed.waiting), 32)
        watch.reported(
            listed.node,
            streams=listed.running + listed.waiting,
            prefill_tokens=prefill,
            rtt_seconds=listed.rtt_seconds,
        )

    def _check(self, registered: RegisteredNode, info: Mapping[str, Any]) -> Listed:
        offer = Offer.from_wire(info.get("offer"))
        signature = parse_signature("offerSignature", info.get("offerSignature"))
        digest = offer.digest(self._domain)
        check_signed_by(digest, signature, registered.node)
        if offer.node != registered.node or offer.model_id != registered.model_id:
            raise InvalidSignature("the offer is for another node or model")
        if offer.valid_until <= self._clock.now():
            raise OfferExpired(offer.valid_until, self._clock.now())
        load = parse_object("load", info.get("load", {}))
        vectors = read_vectors(info, offer)
        model = info.get("model")
        if not isinstance(model, str):
            raise BadRequest("model must be a string", param="model")
        return Listed(
            node=registered.node,
            owner=registered.owner,
            endpoint=registered.endpoint,
            model=model,
            model_id=offer.model_id,
            profile_id=offer.profile_id,
            offer=offer,
            offer_signature=signature,
            offer_hash=digest,
            stake=registered.stake,
            free_exposure=registered.free_exposure,
            running=check_integer("running", load.get("running", 0), 32),
            waiting=check_integer("waiting", load.get("waiting", 0), 32),
            # No calibration is for vectors.
            audited=vectors is None and (registered.calibrated or not self._require_calibration),
            vectors=vectors,
            capacity=read_capacity(info.get("capacity")),
        )

    def _label(self, nodes: list[Listed]) -> list[Listed]:
        owners: dict[bytes, set[Address]] = defaultdict(set)
        for listed in nodes:
            # Who makes vectors replays no answer.
            if listed.vectors is None:
                owners[listed.model_id].add(listed.owner)
        return [
            item
            if item.vectors is not None
            else replace(item, audited=item.audited and ready, on_probation=ready and not item.audited)
            for item in nodes
            for ready in [len(owners[item.model_id]) >= self._audited_owners]
        ]


def read_vectors(info: Mapping[str, Any], offer: Offer) -> VectorSizes | None:
    """What vectors a node says that it makes; one that prices components could bill what nobody asked for (R-74)."""
    if EMBEDDINGS not in (info.get("endpoints") or ()):
        return None
    if offer.price_out:
        raise BadRequest("an offer for embeddings has priceOut 0", param="priceOut")
    return VectorSizes.from_wire(info.get("embeddings"))


def read_capacity(value: object) -> Capacity:
    """What a node declares of its speed, in whole tokens per second; a node that declares nothing is taken as usual."""
    if value is None:
        return UNKNOWN
    declared = parse_object("capacity", value)
    rates = [check_integer(name, declared.get(name), 32) for name in ("prefill", "decode", "batch")]
    if not all(0 < rate <= FASTEST for rate in rates):
        raise BadRequest(f"capacity must be tokens per second from 1 to {FASTEST}, not {rates}", param="capacity")
    return Capacity(*map(float, rates))

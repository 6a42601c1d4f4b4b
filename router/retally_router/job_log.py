"""What the router must not forget of a job: where it runs until its receipts are in, then the receipts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from retally.crash_points import crash_point
from retally.errors import NotFound, Unavailable
from retally.protocol.eip712 import Address, Bytes32, Domain
from retally.protocol.encoding import parse_bytes32, to_hex
from retally.protocol.job import JobRequest
from retally.protocol.offer import Offer
from retally.protocol.receipt import ReceiptLeaf
from retally.protocol.voucher import ChannelId
from retally_router.check_frames import Placed
from retally_router.credit_keys import channel_key_of, earmarks_key, forgotten_key, open_key
from retally_router.directory import Listed
from retally_router.earmark_scripts import FORGET
from retally_router.earmarks import Mark, mark_of
from retally_router.tiling import ADD_RECEIPTS, Tiling

log = structlog.get_logger(__name__)

KEEP_SECONDS = 30 * 86_400
# As many hex digits of a job's id stand in the id of its answer.
GENERATION_DIGITS = 24
KEPT_FAULTS = 1000
_FAULTS = "retally:faults"


class JobRecord(msgspec.Struct, frozen=True):
    """A job on one node, as long as a receipt of it may still come."""

    job_id: str
    request: dict[str, Any]
    node: str
    endpoint: str
    model: str
    offer: dict[str, Any]
    lane: int
    prompt_tokens_at_most: int
    segments: tuple[tuple[int, int, int], ...]

    @property
    def field(self) -> str:
        """Its place in the payer's hash of open jobs; a node that lost a race for a job may go on with it later."""
        return place_of(self.job_id, self.node, self.segments)

    @property
    def channel(self) -> ChannelId:
        """Whose total pays for it."""
        return ChannelId(self.request["payer"], self.request["signer"], Address(self.node), self.lane)

    def placed(self, domain: Domain) -> Placed:
        """What its receipts have to say."""
        request, offer = JobRequest.from_wire(self.request), Offer.from_wire(self.offer)
        node = Listed(
            node=offer.node,
            owner=offer.node,
            endpoint=self.endpoint,
            model=self.model,
            model_id=offer.model_id,
            profile_id=offer.profile_id,
            offer=offer,
            offer_signature=b"",
            offer_hash=offer.digest(domain),
            stake=0,
            free_exposure=0,
        )
        return Placed(domain, request.digest(domain), request, self.lane, node, self.prompt_tokens_at_most)


def place_of(job_id: str, node: str, segments: Iterable[tuple[int, int, int]]) -> str:
    """The place of a job at a node among its payer's open jobs."""
    return f"{job_id}:{node}:{max(number for _, number, _ in segments)}"


def record_of(placed: Placed, segments: Sequence[tuple[int, int, int]]) -> JobRecord:
    """The record of a job about to start; segments are (choice, segment, first token)."""
    node = placed.node
    return JobRecord(
        job_id=to_hex(placed.job_id),
        request=placed.request.to_wire(),
        node=node.node,
        endpoint=node.endpoint,
        model=node.model,
        offer=node.offer.to_wire(),
        lane=placed.lane,
        prompt_tokens_at_most=placed.prompt_tokens_at_most,
        segments=tuple(segments),
    )


class JobLog:
    """Open jobs per payer, and receipts by job."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        #: Until they are forgotten on record: what this process began or took up, and of which it opened segments.
        self._known: set[str] = set()
        self._opened: set[str] = set()
        #: What another process began.
        self._others: set[str] = set()

    async def check_answers(self) -> None:
        """Raises what is wrong with the store, if it does not answer."""
        await self._redis.ping()

    async def begin(self, record: JobRecord) -> None:
        """Before the node gets the job."""
        self._known.add(record.field)
        self._opened.add(record.field)
        crash_point("before:job")
        await self._redis.hset(open_key(record.request["payer"]), record.field, msgspec.json.encode(record))
        crash_point("after:job")

    async def forget(self, record: JobRecord) -> None:
        """The node refused the job, or all its receipts are in; what was promised for it beyond those is spare."""
        payer = record.request["payer"]
        keys = channel_key_of(record.channel), earmarks_key(payer), open_key(payer), forgotten_key(payer)
        crash_point("before:forget")
        await self._redis.eval(FORGET, 4, *keys, record.field, int(record.field in self._others))
        self._others.discard(record.field)
        self._known.discard(record.field)
        self._opened.discard(record.field)
        crash_point("after:forget")

    async def keep_receipts(self, leaves: Sequence[ReceiptLeaf]) -> None:
        """Before the clients see these receipts, of channels that their payers count."""
        async with self._redis.pipeline(transaction=False) as pipe:
            _keep(pipe, leaves)
            await _execute(pipe)

    async def add_receipts(self, leaves: Sequence[tuple[ReceiptLeaf, str]], channel: ChannelId, closed: int) -> Tiling:
        """The same, each with its job's place, of a channel known to be billed so far; answers all that is billed."""
        billed = [(leaf.receipt, place) for leaf, place in leaves if leaf.receipt.fee]
        bounds = [each for receipt, place in billed for each in (receipt.cum_from, receipt.cum_to, place)]
        async with self._redis.pipeline(transaction=False) as pipe:
            _keep(pipe, [leaf for leaf, _ in leaves])
            pipe.eval(ADD_RECEIPTS, 2, channel_key_of(channel), earmarks_key(channel.payer), closed, *bounds)
            *_, line = await _execute(pipe)
        return Tiling.of_reply(line)

    async def add_fault(self, placed: Placed, what: str, frame: Mapping[str, Any]) -> None:
        """Keeps what a node signed that does not hold, for whoever brings it before the contracts."""
        node = placed.node
        fault = {
            "node": node.node,
            "jobId": to_hex(placed.job_id),
            "what": what,
            "frame": frame,
            "request": placed.request.to_wire(),
            "offer": node.offer.to_wire(),
            "offerSignature": to_hex(node.offer_signature),
        }
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.lpush(_FAULTS, msgspec.json.encode(fault))
            pipe.ltrim(_FAULTS, 0, KEPT_FAULTS - 1)
            await pipe.execute()

    async def faults(self, count: int) -> list[dict[str, Any]]:
        """The latest of them."""
        return [msgspec.json.decode(raw) for raw in await self._redis.lrange(_FAULTS, 0, count - 1)]

    async def open_jobs(self, payer: Address, signer: Address) -> list[JobRecord]:
        """The signer's jobs whose receipts never came; raises Unavailable where one of the payer's can't be read.

        What it owes, and on which lane, would be unknown: nothing new may run beside it.
        """
        found = await self._redis.hgetall(open_key(payer))
        records = [_record_of(place, raw) for place, raw in found.items()]
        return [record for record in records if record.request.get("signer") == signer]

    async def past_jobs(self, payer: Address, signer: Address) -> list[JobRecord]:
        """The same, but for those that this process opened: they are open here, or over and only to be forgotten."""
        return [record for record in await self.open_jobs(payer, signer) if record.field not in self._opened]

    def note_opened(self, record: JobRecord) -> None:
        """A channel counts its segments from here on."""
        self._opened.add(record.field)

    def leave(self, record: JobRecord) -> None:
        """Nobody sees to it here any more, though it is on record."""
        self._known.discard(record.field)
        self._others.discard(record.field)

    def take_up(self, record: JobRecord) -> bool:
        """Whether nobody sees to it here yet; from now on somebody does."""
        is_new = record.field not in self._known
        self._known.add(record.field)
        if is_new:
            self._others.add(record.field)
        return is_new

    async def totals(self, channel: ChannelId) -> tuple[int, Tiling]:
        """What Redis knows of a channel: promised, and what receipts bill."""
        line = await self._redis.hgetall(channel_key_of(channel))
        return int(line.get(b"promised", 0)), Tiling.of(line)

    async def promised_for(self, payer: Address, records: Sequence[JobRecord]) -> dict[str, Mark]:
        """By place, what of a channel's total is for these jobs."""
        places = [record.field for record in records]
        found = await self._redis.hmget(earmarks_key(payer), *places) if places else []
        return {place: mark_of(there) for place, there in zip(places, found, strict=True) if there is not None}

    async def job_of(self, generation: str) -> Bytes32:
        """The job behind the hex digits of an answer's id; raises NotFound."""
        found = await self._redis.get(_generation_key(generation))
        if found is None:
            hint = "its receipts come when it ends, and stay for 30 days"
            raise NotFound(f"no answer {generation} is here", param="id", hint=hint)
        return parse_bytes32("jobId", found.decode())

    async def find(self, job_id: Bytes32) -> dict[str, Any]:
        """A job's receipts; raises NotFound."""
        text = to_hex(job_id)
        found = await self._redis.hgetall(_job_key(text))
        if not found:
            raise NotFound(
                f"no receipt of job {text} is here", param="jobId", hint="receipts come when the answer ends"
            )
        order = sorted(found, key=lambda field: [int(part) for part in field.split(b":")[:2]])
        return {"jobId": text, "receipts": [msgspec.json.decode(found[field]) for field in order]}


def _record_of(place: bytes, raw: bytes) -> JobRecord:
    try:
        return msgspec.json.decode(raw, type=JobRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        name = place.decode(errors="replace")
        log.error("open_job_unreadable", place=name, error=str(error))
        hint = "the operator finds it in the router's log; was it written by another version?"
        raise Unavailable(f"the record of the payer's open job {name} can't be read", hint=hint) from error


def _keep(pipe: Any, leaves: Sequence[ReceiptLeaf]) -> None:
    for leaf in leaves:
        receipt = leaf.receipt
        job_id = to_hex(receipt.job_id)
        value = {"receipt": receipt.to_wire(), "signature": to_hex(leaf.signature)}
        place = f"{receipt.choice}:{receipt.output_from}:{receipt.node}"
        pipe.hset(_job_key(job_id), place, msgspec.json.encode(value))
        pipe.expire(_job_key(job_id), KEEP_SECONDS)
        pipe.set(_generation_key(job_id[2:]), job_id, ex=KEEP_SECONDS)


async def _execute(pipe: Any) -> list[Any]:
    crash_point("before:receipt")
    found: list[Any] = await pipe.execute()
    crash_point("after:receipt")
    return found


def _generation_key(name: str) -> str:
    return f"retally:generation:{name[:GENERATION_DIGITS]}"


def _job_key(job_id: str) -> str:
    return f"retally:job:{job_id}"

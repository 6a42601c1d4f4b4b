"""Replays on other owners' nodes: prepaid scoring jobs with a receipt like any."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retally.chain.calibrations import Calibrations
from retally.chain.clock import Clock
from retally.chain.registry import Registry
from retally.crash_points import crash_point
from retally.errors import BadRequest, InvalidReceipt, RetallyError
from retally.protocol.case import CommitRecord
from retally.protocol.eip712 import Domain, SigningKey, check_signed_by
from retally.protocol.encoding import ZERO_BYTES32, Address, Bytes32, parse_object, parse_signature
from retally.protocol.evidence import JobLogE, combine
from retally.protocol.job import Assignment, JobRequest, params_hash, prompt_hash
from retally.protocol.judgement import ids_to_score, judge_replay
from retally.protocol.margins import TOP
from retally.protocol.merkle import EMPTY_ROOT
from retally.protocol.offer import Offer
from retally.protocol.params import JobParams
from retally.protocol.pricing import max_fee
from retally.protocol.receipt import JobReceipt
from retally.protocol.voucher import ChannelId, Voucher
from retally.protocol.wire import AnswerBundle, JobSubmission, SubmittedAssignment
from retally_verifier.node_client import NodeClient, owner_differs
from retally_verifier.records import NodeRecord
from retally_verifier.store import Store

log = logging.getLogger(__name__)

DEADLINE_SECONDS = 600


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """A replay's raw logprobs for the judged tokens."""

    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]

    @classmethod
    def from_wire(cls, value: object, start: int, count: int) -> ScoredRows:
        """The rows of the answer's tokens out of a whole transcript's."""
        wire = parse_object("promptLogprobs", value)
        skip = start - int(wire["start"])
        ids = np.asarray(wire["topIds"], dtype=np.int32)
        logprobs = np.asarray(wire["topLogprobs"], dtype=np.float32)
        if np.isnan(logprobs).any():
            raise BadRequest("a score is no number", param="promptLogprobs")
        if skip < 0 or ids.shape != logprobs.shape or ids.ndim != 2 or len(ids) - skip != count:
            raise BadRequest("the scores do not fit the transcript", param="promptLogprobs")
        return cls(ids[skip:], logprobs[skip:])


@dataclass(frozen=True, slots=True)
class Replay:
    """What all re-executors together say: the least of them."""

    log_e: float
    calibrated: bool
    detail: dict[str, Any]


class Replayer:
    """Buys scores of answers from nodes of other owners."""

    def __init__(
        self,
        store: Store,
        client: NodeClient,
        registry: Registry,
        calibrations: Calibrations,
        key: SigningKey,
        domain: Domain,
        clock: Clock,
        *,
        lane: int,
        replayers: int,
    ) -> None:
        self._store = store
        self._client = client
        self._registry = registry
        self._calibrations = calibrations
        self._key = key
        self._domain = domain
        self._clock = clock
        self._lane = lane
        self._wanted = replayers
        self._locks: dict[Address, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._boot = secrets.randbits(48)
        self._counter = 0

    async def replay(self, bundle: AnswerBundle, commit: CommitRecord, eos_ids: Sequence[int], seed: bytes) -> Replay:
        """Replays an answer on enough nodes; with too few of them nothing is held against anybody."""
        receipt = bundle.receipt
        found: dict[Address, JobLogE] = {}
        said: list[dict[str, Any]] = []
        for node in await self._candidates(receipt.model_id, commit.owner, seed):
            if len(found) == self._wanted:
                break
            if node.owner in found:
                continue
            try:
                evidence = await self._one(bundle, commit, node, eos_ids)
            except Exception as error:  # whatever a re-executor answers: it must not end the audits of others
                log.warning("replay on %s failed: %s", node.node, error, exc_info=not isinstance(error, RetallyError))
                said.append({"node": node.node, "error": getattr(error, "code", type(error).__name__)})
                continue
            found[node.owner] = evidence
            said.append({"node": node.node, "owner": node.owner, "logE": evidence.log_e, **evidence.summary})
        enough = len(found) == self._wanted
        calibrated = enough and all(evidence.calibrated for evidence in found.values())
        log_e = combine([evidence.log_e for evidence in found.values()]) if calibrated else 0.0
        return Replay(log_e, calibrated, {"replays": said})

    async def _candidates(self, model_id: bytes, accused: Address, seed: bytes) -> list[NodeRecord]:
        excluded = frozenset({accused, self._key.address})
        nodes = [node for node in self._store.live_nodes(model_id) if owner_differs(node, excluded)]
        kept = [node for node in nodes if not await self._registry.are_siblings(accused, node.owner)]
        # By the commit's seed: the accused can't know beforehand who replays it.
        random.Random(seed).shuffle(kept)  # the seed is the randomness
        return kept

    async def _one(
        self, bundle: AnswerBundle, commit: CommitRecord, node: NodeRecord, eos_ids: Sequence[int]
    ) -> JobLogE:
        ids, start = ids_to_score(bundle)
        scores = await self.score(node, ids, start)
        receipt = bundle.receipt
        pair = (receipt.profile_id, node.profile_id)
        calibration = await self._calibrations.find(receipt.model_id, *pair, commit.time)
        return judge_replay(bundle, scores, calibration, eos_ids)

    async def score(self, node: NodeRecord, ids: Sequence[int], start: int) -> ScoredRows:
        """The raw logprobs of ids[start:] by one node, paid for."""
        async with self._locks[node.node]:
            offer, _ = await self._client.offer(node, self._domain)
            submission = await self._submission(node, offer, ids)
            crash_point("before:send:replay")
            answer = await self._client.run_job(node, submission)
            crash_point("after:send:replay")
            extension = parse_object("retally", answer.get("retally"))
            self._keep_receipt(node, submission.request, extension)
            return ScoredRows.from_wire(extension.get("promptLogprobs"), start, len(ids) - start)

    async def _submission(self, node: NodeRecord, offer: Offer, ids: Sequence[int]) -> JobSubmission:
        fee = max_fee(offer.prices, prompt_tokens=len(ids), max_output=1)
        params = JobParams(
            max_tokens=1,
            template_date=datetime.fromtimestamp(self._clock.now(), UTC).date().isoformat(),
            endpoint="text",
            temperature=0,
            prompt_logprobs=TOP,
        )
        prompt = {"promptIds": list(ids)}
        request = self._request(offer, params, prompt, fee)
        job_id = request.digest(self._domain)
        assignment = self._assignment(job_id, node, offer, fee)
        voucher = await self._voucher(node, fee)
        return JobSubmission(
            request=request,
            request_signature=self._key.sign(job_id),
            prompt=prompt,
            params=params,
            assignments=(SubmittedAssignment(assignment, self._key.sign(assignment.digest(self._domain))),),
            lane=self._lane,
            voucher=voucher,
            voucher_signature=self._key.sign(voucher.digest(self._domain)),
        )

    def _request(self, offer: Offer, params: JobParams, prompt: dict[str, Any], fee: int) -> JobRequest:
        nonce = Bytes32(secrets.token_bytes(32))
        return JobRequest(
            payer=self._key.address,
            signer=self._key.address,
            model_id=offer.model_id,
            profile_id=ZERO_BYTES32,
            n=1,
            max_price_in=offer.price_in,
            max_price_cached=offer.price_cached,
            max_price_out=offer.price_out,
            prompt_hash=prompt_hash(nonce, prompt),
            params_hash=params_hash(params),
            max_output=1,
            max_fee=fee,
            client_seed=ZERO_BYTES32,
            # Audits of audits would never end.
            audit_consent=False,
            nonce=nonce,
            deadline=self._clock.now() + DEADLINE_SECONDS,
        )

    def _assignment(self, job_id: Bytes32, node: NodeRecord, offer: Offer, fee: int) -> Assignment:
        self._counter += 1
        return Assignment(
            job_id=job_id,
            router=self._key.address,
            replica=0,
            boot=self._boot,
            counter=self._counter,
            node=node.node,
            offer_hash=offer.digest(self._domain),
            choice=0,
            segment=0,
            output_from=0,
            prefix_root=EMPTY_ROOT,
            remaining_fee=fee,
        )

    async def _voucher(self, node: NodeRecord, fee: int) -> Voucher:
        channel = ChannelId(self._key.address, self._key.address, node.node, self._lane)
        promised, owed = self._store.lane(node.node)
        state = await self._client.channel(node, channel)
        # The node's count is believed up to what was promised already: a lie costs nothing new. It counts what is
        # due of a job that still runs for a process that died.
        owed = max(owed, min(state.due, promised))
        cumulative = max(promised, owed + fee)
        self._store.set_lane(node.node, cumulative, owed)
        return Voucher(channel.payer, channel.signer, channel.node, channel.lane, cumulative)

    def _keep_receipt(self, node: NodeRecord, request: JobRequest, extension: Any) -> None:
        receipts = extension.get("receipts") or []
        for item in receipts:
            wire = parse_object("receipt", item)
            receipt = JobReceipt.from_wire(wire.get("receipt"))
            digest = receipt.digest(self._domain)
            check_signed_by(digest, parse_signature("signature", wire.get("signature")), node.node)
            promised, owed = self._store.lane(node.node)
            if receipt.job_id != request.digest(self._domain) or receipt.fee > request.max_fee:
                raise InvalidReceipt("the request", request.max_fee, receipt.fee)
            self._store.set_lane(node.node, promised, max(owed, min(receipt.cum_to, promised)))

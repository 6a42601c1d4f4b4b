"""A request paid through an API key: the router signs and pays, we count and check."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping
from typing import Any

from retally.ask import Ask, prompt_tokens_bound
from retally.asked import asked_of, wishes_audit
from retally.errors import RetallyError
from retally.frames import FrameReader
from retally.http_steps import HttpAnswer, HttpCall, Steps, call
from retally.job_evidence import Evidence, PromptRenderer
from retally.job_history import JobHistory
from retally.job_meter import TOKENS_AHEAD, Counted, JobMeter
from retally.job_result import JobResult
from retally.model_ids import ModelIds
from retally.protocol.eip712 import Domain
from retally.protocol.encoding import parse_signature
from retally.protocol.job import JobRequest
from retally.protocol.offer import Offer
from retally.protocol.pricing import max_fee
from retally.spending import SpendingGuard

PROOF_HEADER = "x-retally-proof"
COST_HEADER = "x-retally-cost"


class KeyedCall:
    """One completion under an API key."""

    def __init__(
        self,
        ask: Ask,
        *,
        headers: Mapping[str, str],
        domain: Domain | None,
        guard: SpendingGuard,
        models: ModelIds | None = None,
        renderer: PromptRenderer | None = None,
        history: JobHistory | None = None,
    ) -> None:
        self._ask = ask
        self._headers = {**headers, PROOF_HEADER: "1"}
        self._guard = guard
        self._history = history
        self._reader = FrameReader()
        self._frames, self._header_cost = 0, 0
        evidence = Evidence(domain=domain, prompt=ask.prompt, renderer=renderer, is_live=True)
        self._models = models or ModelIds()
        evidence.asked = asked_of(ask, self._models.of(ask.model), audit_consent=wishes_audit(ask))
        self._meter = JobMeter(evidence)
        self.result = JobResult(evidence, self._meter, ask.model)

    def open(self) -> Steps[HttpAnswer]:
        """Sends the request as it is."""
        # What it costs is only known afterwards: a limit that is reached stops the next one, the key's cap this one.
        self._guard.settle(self._guard.hold(1), 0)
        ask = self._ask
        request = HttpCall("POST", ask.path, content=ask.raw, headers=self._headers, stream=ask.stream)
        answer = yield from call(request)
        if not answer.failed:
            self._take_proof(answer.headers.get(PROOF_HEADER))
            self._take_cost(answer.headers.get(COST_HEADER))
        return answer

    def feed(self, piece: bytes) -> Steps[None]:
        """Counts streamed bytes as they pass."""
        for frame in self._reader.feed(piece):
            self._frames += 1
            self._count(self._meter.take_frame(frame))
        yield from ()

    def finish(self, body: bytes | None) -> Steps[None]:
        """Counts a plain answer, or ends a stream."""
        if body is not None:
            self._count(self._meter.take_body(body))
        self._book(left_early=False)
        yield from ()

    def cancel(self) -> None:
        """The caller stopped reading."""
        self._book(left_early=True)

    def _count(self, arriving: Iterator[Counted]) -> None:
        try:
            for _ in arriving:
                pass
        except RetallyError as error:
            self.result.payment_error = self.result.payment_error or error

    def _book(self, *, left_early: bool) -> None:
        if self.result.finished:
            return
        self.result.finish()
        self._guard.book(self._cost(left_early))
        if self._history is not None:
            self._history.record(self.result)

    def _cost(self, left_early: bool) -> int:
        """The most of what receipts, the router and our own count say: a limit that silence passes by is none."""
        evidence = self.result.evidence
        said = max(evidence.cost, evidence.stated_cost or 0, self._header_cost)
        return said if self.result.checks["receipts"] is True else max(said, self._estimate(left_early))

    def _estimate(self, left_early: bool) -> int:
        evidence = self.result.evidence
        if evidence.request is None or evidence.offer is None or evidence.params is None:
            # Nobody says what it cost: nothing more is spent under a limit.
            guard = self._guard
            return (guard.daily_limit or 0) if guard.limit is None else max(0, guard.limit - guard.used)
        most = evidence.request.max_fee
        if not left_early:
            return most
        # A frame of text is a token at least, even where its ids are left out.
        made = max([self._frames, *(len(ids) for ids in evidence.ids.values())]) + TOKENS_AHEAD
        return min(
            most,
            max_fee(
                evidence.offer.prices,
                prompt_tokens=prompt_tokens_bound(self._ask.prompt),
                max_output=min(made, evidence.params.max_tokens),
                n=self._ask.choices,
            ),
        )

    def _take_cost(self, header: str | None) -> None:
        self._header_cost = int(header) if header is not None and header.isdecimal() and len(header) < 30 else 0

    def _take_proof(self, header: str | None) -> None:
        if header is None:
            return
        evidence = self.result.evidence
        try:
            proof: Mapping[str, Any] = json.loads(urlsafe_b64decode(header + "=" * (-len(header) % 4)))
            request, offer = JobRequest.from_wire(proof["request"]), Offer.from_wire(proof["offer"])
            request_signature = parse_signature("requestSignature", proof["requestSignature"])
            offer_signature = parse_signature("offerSignature", proof["offerSignature"])
            if not self._models.of(self._ask.model):
                # Nothing says what the name stands for: at least it stays what it was.
                self._models.check(self._ask.model, request.model_id)
            stated = proof["params"]
            # Recomputed from our own body: the router may only choose what we left open.
            params = self._ask.params(
                int(stated["maxTokens"]), str(stated.get("templateDate", "")), int(stated.get("dimensions", 0))
            )
        except (ValueError, KeyError, TypeError, RetallyError) as error:
            self.result.payment_error = RetallyError(f"the router's proof can't be read: {error}", code="invalid_proof")
            return
        evidence.request, evidence.request_signature, evidence.params = request, request_signature, params
        evidence.offer, evidence.offer_signature = offer, offer_signature

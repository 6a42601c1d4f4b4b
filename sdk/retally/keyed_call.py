"""A request paid through an API key: the router signs and pays, we count and check."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Any

from retally.ask import Ask
from retally.asked import asked_of, wishes_audit
from retally.errors import RetallyError
from retally.frames import FrameReader
from retally.http_steps import HttpAnswer, HttpCall, Steps, call
from retally.job_evidence import Evidence, PromptRenderer
from retally.job_history import JobHistory
from retally.job_meter import JobMeter
from retally.job_result import JobResult
from retally.model_ids import ModelIds
from retally.protocol.eip712 import Domain
from retally.protocol.encoding import parse_signature
from retally.protocol.job import JobRequest
from retally.protocol.offer import Offer
from retally.spending import SpendingGuard

PROOF_HEADER = "x-retally-proof"


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
        evidence = Evidence(domain=domain, prompt=ask.prompt, renderer=renderer, is_live=True)
        known_models = (models or ModelIds()).of(ask.model)
        evidence.asked = asked_of(ask, known_models, audit_consent=wishes_audit(ask))
        self._meter = JobMeter(evidence)
        self.result = JobResult(evidence, self._meter, ask.model)

    def open(self) -> Steps[HttpAnswer]:
        """Sends the request as it is."""
        # The price is only known afterwards: a limit that is reached stops the next request, the key's cap this one.
        self._guard.settle(self._guard.hold(1), 0)
        ask = self._ask
        request = HttpCall("POST", ask.path, content=ask.raw, headers=self._headers, stream=ask.stream)
        answer = yield from call(request)
        if not answer.failed:
            self._take_proof(answer.headers.get(PROOF_HEADER))
        return answer

    def feed(self, piece: bytes) -> Steps[None]:
        """Counts streamed bytes as they pass."""
        for frame in self._reader.feed(piece):
            for _ in self._meter.take_frame(frame):
                pass
        yield from ()

    def finish(self, body: bytes | None) -> Steps[None]:
        """Counts a plain answer, or ends a stream."""
        if body is not None:
            self._meter.take_plain(json.loads(body))
        self._book()
        yield from ()

    def cancel(self) -> None:
        """The caller stopped reading."""
        self._book()

    def _book(self) -> None:
        if self.result.finished:
            return
        self.result.finish()
        self._guard.book(self.result.cost)
        if self._history is not None:
            self._history.record(self.result)

    def _take_proof(self, header: str | None) -> None:
        if header is None:
            return
        evidence = self.result.evidence
        try:
            proof: Mapping[str, Any] = json.loads(urlsafe_b64decode(header + "=" * (-len(header) % 4)))
            request, offer = JobRequest.from_wire(proof["request"]), Offer.from_wire(proof["offer"])
            request_signature = parse_signature("requestSignature", proof["requestSignature"])
            offer_signature = parse_signature("offerSignature", proof["offerSignature"])
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

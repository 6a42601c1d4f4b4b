"""What `response.retally` and `stream.retally` are: receipts, cost and checks of one answer."""

from __future__ import annotations

import re
from typing import Any

from retally.checks import run_checks
from retally.errors import RetallyError
from retally.job_evidence import Checks, Evidence
from retally.job_meter import JobMeter
from retally.protocol.encoding import to_hex
from retally.protocol.receipt import ReceiptLeaf

_JOB_ID = re.compile("0x[0-9a-fA-F]{64}")


class JobResult:
    """Receipts, cost and checks of one answer; of a stream, complete once it has ended."""

    def __init__(self, evidence: Evidence, meter: JobMeter, model: str) -> None:
        self.evidence = evidence
        self.model = model
        self.finished = False
        self.payment_error: RetallyError | None = None
        self.voucher_error: RetallyError | None = None
        #: Why the answer could not be written to the payer's own records; it is paid and whole all the same.
        self.history_error: Exception | None = None
        self._meter = meter
        self._checks: Checks | None = None

    @property
    def job_id(self) -> str | None:
        """The job's id: the digest of the signed request; without one, what node or router call it."""
        evidence = self.evidence
        if evidence.request is not None and evidence.domain is not None:
            return to_hex(evidence.request.digest(evidence.domain))
        if evidence.receipts:
            return to_hex(evidence.receipts[0].receipt.job_id)
        stated = self._meter.job_id
        return stated.lower() if stated is not None and _JOB_ID.fullmatch(stated) else None

    @property
    def node(self) -> str | None:
        """The node that served the answer, or its last part."""
        if self.evidence.receipts:
            return self.evidence.receipts[-1].receipt.node
        return None if self.evidence.offer is None else self.evidence.offer.node

    @property
    def receipts(self) -> tuple[ReceiptLeaf, ...]:
        """The node-signed receipts, one per choice and segment."""
        return tuple(self.evidence.receipts)

    @property
    def cost(self) -> int:
        """What the receipts bill, in the asset's smallest unit."""
        return self.evidence.cost

    @property
    def prompt_tokens(self) -> int | None:
        """How many prompt tokens the node counted."""
        if self.evidence.receipts:
            return self.evidence.receipts[0].receipt.prompt_tokens
        return self._meter.prompt_tokens

    @property
    def output_tokens(self) -> int:
        """How many tokens arrived; vectors have none."""
        if self.evidence.params is not None and self.evidence.params.is_embeddings:
            return 0
        return self._meter.total_output_tokens

    @property
    def checks(self) -> Checks:
        """The offline checks; of a running stream, of what there is so far."""
        if self._checks is not None:
            return self._checks
        checks = run_checks(self.evidence)
        if self.finished:
            self._checks = checks
        return checks

    def finish(self) -> None:
        """Marks that nothing more will come."""
        self.finished = True

    def to_json(self) -> dict[str, Any]:
        """One JSON object: enough to make the checks again later."""
        evidence = self.evidence
        return {
            "jobId": self.job_id,
            "model": self.model,
            "node": self.node,
            "finished": self.finished,
            "cost": str(self.cost),
            "promptTokens": self.prompt_tokens,
            "outputTokens": self.output_tokens,
            "checks": self.checks.as_dict(),
            "receipts": [
                {"receipt": leaf.receipt.to_wire(), "signature": to_hex(leaf.signature)} for leaf in evidence.receipts
            ],
            "request": None if evidence.request is None else evidence.request.to_wire(),
            "requestSignature": None if evidence.request_signature is None else to_hex(evidence.request_signature),
            "params": None if evidence.params is None else evidence.params.to_json(),
            "offer": None if evidence.offer is None else evidence.offer.to_wire(),
            "offerSignature": None if evidence.offer_signature is None else to_hex(evidence.offer_signature),
            "ids": {str(choice): ids for choice, ids in evidence.ids.items()},
            "q": {str(choice): values for choice, values in evidence.quantised.items()},
        }

    def __repr__(self) -> str:
        return f"JobResult(job_id={self.job_id}, cost={self.cost}, finished={self.finished})"

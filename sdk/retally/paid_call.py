"""A request paid with the payer's own key: quote, sign, prepay, count, pay as it streams, check, settle."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator

from retally.ask import Ask, prompt_tokens_bound
from retally.asked import asked_of
from retally.checks import demand_payable
from retally.errors import InvalidReceipt, RetallyError, SpendingLimitExceeded, error_of_envelope
from retally.frames import FrameReader
from retally.http_steps import HttpAnswer, HttpCall, Steps, Unreachable, call, pause
from retally.job_evidence import Evidence, PromptRenderer
from retally.job_history import JobHistory
from retally.job_meter import TOKENS_AHEAD, Counted, JobMeter, SignedChunk
from retally.job_result import JobResult
from retally.protocol.eip712 import check_signed_by
from retally.protocol.encoding import to_hex
from retally.protocol.receipt import ReceiptLeaf
from retally.quote import Quote, quote_call
from retally.receipt_recovery import Recovered, recover_promises, recover_receipts
from retally.sign_job import PaymentTerms, SignedJob, sign_job
from retally.spending import Hold, SpendingGuard
from retally.wallet import SignedVoucher, Wallet

AUTHORIZATION_HEADER = "x-retally-authorization"
REQUOTE_CODES = frozenset({"offer_expired", "node_unavailable", "unavailable", "engine_unavailable", "quote_expired"})
# Refusals that a node makes before it admits a job; after any other one it may have served it, and bills it.
NOT_ADMITTED = frozenset({400, 401, 402, 403, 404, 413, 422, 429})
log = logging.getLogger(__name__)
VOUCHERS_PATH = "/retally/v1/vouchers"


class PaidCall:
    """One completion that the wallet pays."""

    def __init__(
        self,
        ask: Ask,
        wallet: Wallet,
        *,
        terms: PaymentTerms,
        guard: SpendingGuard,
        renderer: PromptRenderer | None = None,
        history: JobHistory | None = None,
    ) -> None:
        self._ask, self._wallet, self._terms = ask, wallet, terms
        self._guard, self._history = guard, history
        self._reader = FrameReader()
        self._evidence = Evidence(domain=wallet.domain, prompt=ask.prompt, renderer=renderer, is_live=True)
        self._evidence.asked = asked_of(ask, terms.models.of(ask.model), audit_consent=terms.audit_consent)
        self._meter = JobMeter(self._evidence)
        self._hold: Hold | None = None
        self._job: SignedJob | None = None
        self._promised_before = 0
        self._prompt_bound = prompt_tokens_bound(ask.prompt)
        self._unpaid: SignedVoucher | None = None
        self.result = JobResult(self._evidence, self._meter, ask.model)

    def open(self) -> Steps[HttpAnswer]:
        """Quotes, signs, prepays and sends; goes elsewhere where a node can't take the job."""
        refused: list[str] = []
        attempt = 0
        answer: HttpAnswer | None = None
        while True:
            quote = yield from quote_call(self._ask, self._wallet, self._prompt_bound, refused)
            if isinstance(quote, HttpAnswer):
                return quote
            yield from self._recover(quote)
            try:
                job, voucher = self._begin(quote)
            except SpendingLimitExceeded:
                if answer is None:
                    raise
                # What the nodes that refused keep a voucher for leaves too little for another one.
                return answer
            answer = yield from self._send(job, voucher)
            if answer.error_code == "voucher_too_low":
                answer = yield from self._send_with_more(job, answer)
            if not answer.failed:
                return answer
            self._give_up(job, answer)
            if answer.status == 409:
                # It was admitted by an earlier try of the same request: what it bills is known by now, or soon.
                yield from self._recover(quote)
            if attempt == self._terms.retries or answer.error_code not in REQUOTE_CODES:
                return answer
            refused.append(quote.node)
            yield from pause(self._terms.backoff_seconds * 2**attempt)
            attempt += 1

    def feed(self, piece: bytes) -> Steps[None]:
        """Counts streamed bytes and vouches for what is due."""
        for frame in self._reader.feed(piece):
            for counted in self._readable(self._meter.take_frame(frame)):
                yield from self._pay(counted)

    def finish(self, body: bytes | None) -> Steps[None]:
        """Settles a plain answer, or ends a stream."""
        if body is not None:
            for counted in self._readable(self._meter.take_body(body)):
                yield from self._pay(counted)
        if self._unpaid is not None:
            yield from self._vouch(self._unpaid)
        self._book()

    def cancel(self) -> None:
        """The caller stopped reading: receipts are fetched before the next job on this channel."""
        self._book()

    def _begin(self, quote: Quote) -> tuple[SignedJob, SignedVoucher]:
        job = sign_job(self._ask, self._wallet, quote, self._terms, self._prompt_bound)
        self._hold = self._guard.hold(job.request.max_fee, job.quote.node)
        evidence = self._evidence
        evidence.request, evidence.request_signature = job.request, job.signature
        evidence.params, evidence.offer, evidence.offer_signature = job.params, quote.offer, quote.offer_signature
        self._job = job
        # Before the voucher leaves: what is paid for must be known here whatever happens to this process.
        self._keep(self._record)
        self._promised_before = self._wallet.line(quote.node).promised
        voucher = self._wallet.begin(
            quote.node, job.job_id, prepaid=job.prepaid, most=job.most, deadline=job.request.deadline
        )
        self._guard.trim(quote.node, self._wallet.line(quote.node).surplus)
        return job, voucher

    def _send(self, job: SignedJob, voucher: SignedVoucher) -> Steps[HttpAnswer]:
        headers = {"content-type": "application/json", AUTHORIZATION_HEADER: job.authorization(voucher)}
        request = HttpCall("POST", self._ask.path, content=self._ask.raw, headers=headers, stream=self._ask.stream)
        for attempt in range(self._terms.retries):
            try:
                return (yield from call(request))
            except Unreachable:
                # The same signed request again: a node that already has it answers with what it stored.
                yield from pause(self._terms.backoff_seconds * 2**attempt)
        return (yield from call(request))

    def _send_with_more(self, job: SignedJob, refusal: HttpAnswer) -> Steps[HttpAnswer]:
        # An earlier segment may have made more than reached us; the same job goes out again with what is due for it.
        required = refusal.error_details.get("required")
        if not isinstance(required, str) or not required.isdecimal():
            return refusal
        node = job.quote.node
        beyond = int(required) > self._wallet.line(node).at_most
        if beyond and (yield from recover_promises(self._wallet, node, job.job_id)):
            self._promised_before = self._wallet.line(node).promised
        try:
            self._guard.check(int(required) - self._wallet.line(node).promised)
        except SpendingLimitExceeded:
            return refusal
        voucher = self._wallet.promise(node, int(required))
        if voucher is None:
            return refusal
        return (yield from self._send(job, voucher))

    def _pay(self, counted: Counted) -> Steps[None]:
        if self.result.payment_error is not None:
            return
        try:
            voucher = self._due(counted)
        except RetallyError as error:
            # What doesn't add up is not paid: the caller keeps what arrives, the node stops when it is owed too much.
            self.result.payment_error = error
            return
        if voucher is not None:
            yield from self._vouch(voucher)

    def _readable(self, arriving: Iterator[Counted]) -> Iterator[Counted]:
        try:
            yield from arriving
        except RetallyError as error:
            # What can't be read is not paid either; the job is settled and booked all the same.
            self.result.payment_error = self.result.payment_error or error

    def _due(self, counted: Counted) -> SignedVoucher | None:
        if counted.chunk is not None:
            return self._due_for_chunk(counted.chunk)
        return None if counted.receipt is None else self._settle(counted.receipt)

    def _due_for_chunk(self, signed: SignedChunk) -> SignedVoucher | None:
        job, chunk = self._signed_job, signed.chunk
        check_signed_by(chunk.digest(self._wallet.domain), signed.signature, job.quote.node)
        if chunk.job_id != job.job_id:
            raise InvalidReceipt("a chunk is for its own job", to_hex(job.job_id), to_hex(chunk.job_id))
        self._meter.check_chunk(signed)
        owed = job.fee(self._counted_prompt(), chunk.output_to, chunk.choice)
        return self._wallet.owe(job.quote.node, job.job_id, chunk.choice, owed)

    def _settle(self, leaf: ReceiptLeaf) -> SignedVoucher | None:
        job, receipt = self._signed_job, leaf.receipt
        if receipt.job_id != job.job_id or receipt.node != job.quote.node:
            raise InvalidReceipt("a receipt is for its own job", to_hex(job.job_id), to_hex(receipt.job_id))
        demand_payable(self.result.checks)
        return self._wallet.settle(receipt)

    def _vouch(self, voucher: SignedVoucher) -> Steps[None]:
        self._unpaid = voucher
        body = {"node": voucher.voucher.node, "vouchers": [voucher.to_wire()]}
        try:
            answer = yield from call(HttpCall("POST", VOUCHERS_PATH, json_body=body))
        except Unreachable as error:
            self.result.voucher_error = error
            return
        if answer.failed:
            self.result.voucher_error = error_of_envelope(answer.status, answer.json())
            return
        self._unpaid, self.result.voucher_error = None, None

    def _recover(self, quote: Quote) -> Steps[None]:
        for late in (yield from recover_receipts(self._wallet, quote.node, quote.now)):
            self._take_late(late)

    def _take_late(self, late: Recovered) -> None:
        receipt, error = late.leaf.receipt, None if late.error is None else str(late.error)
        job_id, history = to_hex(receipt.job_id), self._history
        if error is None:
            self._keep(lambda: self._guard.add_cost(job_id, receipt.fee))
            self._keep(lambda: self._guard.trim(receipt.node, self._wallet.line(receipt.node).surplus))
        else:
            log.warning("job %s: a late receipt is not paid: %s", job_id, error)
        if history is not None:
            self._keep(lambda: history.add_receipts(job_id, [late.leaf], error))

    def _book(self) -> None:
        if self.result.finished:
            return
        self.result.finish()
        for write in (self._leave_job, self._record):
            self._keep(write)

    def _keep(self, write: Callable[[], None]) -> None:
        # A disk that is full must not cost the caller an answer that is paid.
        try:
            write()
        except (sqlite3.Error, OSError) as error:
            self.result.history_error = error
            log.warning("the payer's own records can't be written: %s", error)

    def _record(self) -> None:
        if self._history is not None:
            self._history.record(self.result)

    def _leave_job(self) -> None:
        job, hold, meter = self._job, self._hold, self._meter
        if job is None or hold is None:
            return
        self._hold = None
        self._wallet.release(job.job_id)
        if self.result.checks["receipts"] is True:
            self._guard.settle(hold, min(hold.amount, self.result.cost))
        elif meter.prompt_tokens is None and not meter.total_output_tokens and not self.result.receipts:
            self._lose(job, hold)
        else:
            made = self._most_made()
            self._guard.settle(hold, min(hold.amount, sum(made)), unproven=to_hex(job.job_id))
            if self._ask.stream:
                self._wallet.cap(job.quote.node, job.job_id, made)

    def _give_up(self, job: SignedJob, answer: HttpAnswer) -> None:
        hold, self._hold, self._job = self._hold, None, None
        if answer.status in NOT_ADMITTED:
            self._wallet.abandon(job.quote.node, job.job_id, self._ask.choices)
        if hold is not None:
            self._lose(job, hold)

    def _lose(self, job: SignedJob, hold: Hold) -> None:
        """Nothing came back; the node keeps the voucher, for this job or the next."""
        self._wallet.lose(job.quote.node, job.job_id, self._ask.choices)
        line = self._wallet.line(job.quote.node)
        self._guard.lose(
            hold,
            job=to_hex(job.job_id),
            growth=line.promised - self._promised_before,
            surplus=line.surplus,
            seconds=self._terms.deadline_seconds,
        )

    def _most_made(self) -> list[int]:
        """By choice, the fee of what arrived and of what the node may have made beyond it before it noticed."""
        job, meter = self._signed_job, self._meter
        made = [meter.output_tokens(choice) + TOKENS_AHEAD for choice in range(self._ask.choices)]
        return [job.fee(self._prompt_bound, tokens, choice) for choice, tokens in enumerate(made)]

    def _counted_prompt(self) -> int:
        bound, stated = self._prompt_bound, self._meter.prompt_tokens
        if stated is not None and stated > bound:
            raise InvalidReceipt("promptTokens", bound, stated)
        return bound if stated is None else stated

    @property
    def _signed_job(self) -> SignedJob:
        if self._job is None:
            raise RetallyError("a job is signed before it is paid")
        return self._job

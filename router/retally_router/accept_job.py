"""From an HTTP request to a job that is authorised, chosen for and covered by funds."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from retally.errors import BadRequest, NodeUnavailable, SignerExpired, Unauthorized, UnsupportedParameter
from retally.protocol.eip712 import Address, Bytes32, Domain
from retally.protocol.params import EMBEDDINGS
from retally.protocol.pricing import Prices
from retally_router.allowance import Allowances
from retally_router.attempts import Attempts
from retally_router.authorize import SignedJob, authorize
from retally_router.begun_job import BegunJob, Repeatable
from retally_router.check_frames import Placed
from retally_router.credit import Credit
from retally_router.directory import Directory, Listed
from retally_router.embeddings_ask import read_embeddings_ask
from retally_router.keys import Keys, Session
from retally_router.make_request import (
    Ask,
    Signed,
    check_signed_matches,
    largest_fee,
    parse_body,
    read_ask,
    sign_request,
)
from retally_router.payment_terms import PaymentTerms
from retally_router.placement import Job
from retally_router.ports import Clock, Standing
from retally_router.prefix_map import chain_of_bytes
from retally_router.quotes import Quotes
from retally_router.resume_job import ResumedJob, ResumeJob
from retally_router.selection import Need, Plan, Selection
from retally_router.serve_job import Means, ServeJob

# Vouchers of a signer must stay collectable: nodes refuse signers that expire sooner.
COLLECT_SECONDS = 3 * 86_400


@dataclass(frozen=True, slots=True)
class AcceptJob:
    """Authorises, understands, chooses, signs, holds: in this order."""

    keys: Keys
    quotes: Quotes
    directory: Directory
    selection: Selection
    credit: Credit
    standing: Callable[[Address, Address, bool], Awaitable[Standing]]
    clock: Clock
    domain: Domain
    means: Means
    default_max_tokens: int
    request_lifetime_seconds: int
    allowances: Allowances
    terms: PaymentTerms
    resume: ResumeJob

    async def accept(
        self,
        endpoint: str,
        headers: Mapping[bytes, bytes],
        raw: bytes,
        request_id: str,
        again: Repeatable | None = None,
    ) -> ServeJob:
        """The job, ready to be started; raises with what the caller has to change."""
        now = self.clock.now()
        caller = await authorize(headers, self.keys, self.domain, now)
        body = parse_body(raw)
        begun = again.begun if again is not None else None
        placed = await self.resume.find(begun) if begun is not None else None
        params = caller.params if isinstance(caller, SignedJob) else begun.params if begun and placed else None
        ask = self._ask(body, endpoint, now, params)
        if ask.params.prompt_logprobs:
            raise UnsupportedParameter("prompt_logprobs", "is served by nodes only, not through a router")
        if isinstance(caller, SignedJob):
            return self._signed(ask, caller, request_id)
        await self._check_authorised(caller, now)
        if begun is not None and placed is not None:
            return await self._shown(ask, caller, request_id, begun, placed)
        return await self._paid(ask, caller, now, request_id, session_of(headers, body, caller), again)

    def _ask(self, body: dict[str, Any], endpoint: str, now: int, signed: Mapping[str, Any] | None) -> Ask:
        if endpoint == EMBEDDINGS:
            return read_embeddings_ask(body, self.directory.nodes(), signed)
        return read_ask(body, endpoint, default_max_tokens=self.default_max_tokens, now=now, signed_params=signed)

    async def _check_authorised(self, session: Session, now: int) -> None:
        standing = await self.standing(session.payer, session.signer, False)
        if not standing.authorised:
            standing = await self.standing(session.payer, session.signer, True)
        if not standing.authorised:
            hint = "authorise the key's signer on chain; `retally keys create` does both"
            raise Unauthorized(
                f"{session.payer} has not authorised signer {session.signer}", code="signer_not_authorized", hint=hint
            )
        if standing.expiry < now + COLLECT_SECONDS:
            raise SignerExpired(session.signer, standing.expiry)

    async def _paid(
        self, ask: Ask, session: Session, now: int, request_id: str, talk: Hashable, repeatable: Repeatable | None
    ) -> ServeJob:
        need = need_of(ask, talk)
        plan = self.selection.plan(self.directory.nodes(), need)
        candidates = [node for node in plan.candidates if node.model_id == plan.candidates[0].model_id]
        # As many as can be tried: the dearest's price is held, and who is out of reach shall raise no hold.
        candidates = candidates[: self.means.max_attempts + self.means.max_continuations]
        prices = highest(candidates)
        context = max(node.offer.max_context for node in candidates)
        tokens = ask.tokens_within(context)
        signed = sign_request(
            ask,
            payer=session.payer,
            key=session.signing_key,
            model_id=candidates[0].model_id,
            prices=prices,
            fee=largest_fee(
                ask, prices, tokens, context, self.means.max_continuations, is_hedged=self.means.hedges.share > 0
            ),
            deadline=now + self.request_lifetime_seconds,
            domain=self.domain,
        )
        fee, most = signed.request.max_fee, tokens + ask.n * min(ask.output_tokens, context)
        held = await self.allowances.hold(session.key_id, session.limits, tokens=most, amount=fee)
        try:
            lane = await self.means.settle.recover(session)
            await self.credit.hold(session.payer, session.signer, signed.job_id.hex(), fee, lane=lane)
        except BaseException:
            held.settle(0, 0)
            raise
        # What was signed binds whoever goes on with it: this model at these prices.
        bound = replace(need, model=candidates[0].model_hex, wishes=replace(need.wishes, max_prices=prices))

        def again(tried: frozenset[str]) -> Plan:
            return self.selection.again(self.directory.nodes(), replace(bound, exclude=tried))

        job = Job(ask, signed.request, signed.signature, signed.job_id, session, request_id, tokens, repeatable)
        return ServeJob(self.means, job, candidates, Attempts(self.means, job, plan.expected), again, held=held)

    async def _shown(self, ask: Ask, session: Session, request_id: str, begun: BegunJob, placed: Placed) -> ServeJob:
        request = placed.request
        check_signed_matches(ask, request)
        # What the dead router owes is taken up as for any other job.
        await self.means.settle.recover(session)
        tokens = placed.prompt_tokens_at_most
        job = Job(ask, request, begun.signature, Bytes32(placed.job_id), session, request_id, tokens)
        attempts = Attempts(self.means, job, {})
        return ResumedJob(self.means, job, [], attempts, lambda tried: Plan([], {}), shown=(placed, begun))

    def _signed(self, ask: Ask, caller: SignedJob, request_id: str) -> ServeJob:
        request = caller.request
        check_signed_matches(ask, request)
        node = self.directory.find(self.quotes.node_of(caller.quote_id))
        if node is None or not node.alive:
            raise NodeUnavailable("the quoted node is gone", hint="ask for a new quote with POST /retally/v1/quotes")
        if caller.voucher.node != node.node or request.model_id != node.model_id:
            hint = "sign for the node and model that the quote names"
            raise BadRequest("the voucher or request is not for the quoted node", code="quote_mismatch", hint=hint)
        signed = Signed(request, caller.request_signature, request.digest(self.domain))
        tokens = ask.tokens_within(node.offer.max_context)
        job = Job(ask, request, signed.signature, signed.job_id, caller, request_id, tokens)
        return ServeJob(self.means, job, [node], Attempts(self.means, job, {}), lambda tried: Plan([], {}))


def need_of(ask: Ask, talk: Hashable) -> Need:
    """What an ask needs of a node; `talk` names the conversation that it goes on with."""
    return Need(
        ask.model,
        ask.prompt_tokens_at_most,
        ask.output_tokens,
        ask.n,
        ask.wishes,
        is_exact="promptIds" in ask.prompt,
        links=() if ask.params.is_embeddings else chain_of_bytes(prompt_bytes(ask.prompt)),
        session=talk,
        dimensions=ask.params.dimensions,
        longest_input=ask.longest_input,
    )


def prompt_bytes(prompt: Mapping[str, Any]) -> bytes:
    """What a prompt's block hashes are over: two prompts that begin alike, begin alike here."""
    if "promptIds" in prompt:
        return array("Q", prompt["promptIds"]).tobytes()
    if "prompt" in prompt:
        return str(prompt["prompt"]).encode()
    return msgspec.json.encode(prompt["messages"])


def session_of(headers: Mapping[bytes, bytes], body: Mapping[str, Any], caller: Session) -> Hashable:
    """What names a conversation: the client's own id of it, else its user, else its key."""
    own = headers.get(b"x-session-id") or body.get("prompt_cache_key") or body.get("user")
    return caller.signer, own if isinstance(own, str | bytes) else None


def highest(nodes: Sequence[Listed]) -> Prices:
    """The highest price of each kind, so that any of the nodes may serve."""
    offers = [node.offer for node in nodes]
    return Prices(
        max(offer.price_in for offer in offers),
        max(offer.price_cached for offer in offers),
        max(offer.price_out for offer in offers),
    )

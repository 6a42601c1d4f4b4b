"""From an ask and a quote to a signed JobRequest with its limits."""

from __future__ import annotations

import json
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field

from retally.ask import Ask
from retally.asked_prices import asked_max_prices
from retally.errors import BadRequest
from retally.model_ids import ModelIds
from retally.protocol.encoding import Bytes32, to_hex
from retally.protocol.job import JobParams, JobRequest, client_seed_from_int, params_hash, prompt_hash
from retally.protocol.pricing import Prices, check_prices, fee_round_down, input_fee_round_down, max_fee
from retally.quote import Quote
from retally.wallet import SignedVoucher, Wallet


@dataclass(frozen=True, slots=True)
class PaymentTerms:
    """What the payer agrees to in every request."""

    max_prices: Prices | None = None
    audit_consent: bool = True
    deadline_seconds: int = 600
    default_max_tokens: int = 512
    retries: int = 2
    backoff_seconds: float = 0.5
    models: ModelIds = field(default_factory=ModelIds, compare=False)


@dataclass(frozen=True, slots=True)
class SignedJob:
    """A signed request, what it prepays and the most that each choice may bill."""

    quote: Quote
    request: JobRequest
    signature: bytes
    job_id: Bytes32
    params: JobParams
    prompt_bound: int
    most: tuple[int, ...]
    prepaid: tuple[int, ...]

    def fee(self, prompt_tokens: int, output_tokens: int, choice: int) -> int:
        """The fee of a choice at these counts, nothing taken as cached."""
        return fee_round_down(
            self.quote.offer.prices,
            prompt_tokens=prompt_tokens,
            cached_tokens=0,
            output_tokens=output_tokens,
            choice=choice,
            output_from=0,
        )

    def authorization(self, voucher: SignedVoucher) -> str:
        """The header that makes a completion request a paid one."""
        content = {
            "quoteId": self.quote.quote_id,
            "request": self.request.to_wire(),
            "requestSignature": to_hex(self.signature),
            "params": self.params.to_json(),
            "lane": voucher.voucher.lane,
            "voucher": voucher.voucher.to_wire(),
            "voucherSignature": to_hex(voucher.signature),
        }
        return urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode().rstrip("=")


def sign_job(ask: Ask, wallet: Wallet, quote: Quote, terms: PaymentTerms, prompt_bound: int) -> SignedJob:
    """Signs the request for a quoted offer, at exactly its prices, if it is within the terms."""
    # A router may fill in less than the terms allow, never more.
    default = min(quote.default_max_tokens or terms.default_max_tokens, terms.default_max_tokens)
    params = ask.params(default, quote.template_date, quote.dimensions)
    _check_terms(ask, quote, terms, params)
    prices = quote.offer.prices
    seed = ask.body.get("seed")
    nonce = Bytes32(secrets.token_bytes(32))
    request = JobRequest(
        payer=wallet.payer,
        signer=wallet.signer,
        model_id=quote.offer.model_id,
        profile_id=quote.offer.profile_id,
        n=ask.choices,
        max_price_in=prices.price_in,
        max_price_cached=prices.price_cached,
        max_price_out=prices.price_out,
        prompt_hash=prompt_hash(nonce, ask.prompt),
        params_hash=params_hash(params),
        max_output=params.max_tokens,
        max_fee=max_fee(prices, prompt_tokens=prompt_bound, max_output=params.max_tokens, n=ask.choices),
        client_seed=Bytes32(secrets.token_bytes(32)) if seed is None else client_seed_from_int(seed),
        # A node takes no other: nobody can judge vectors.
        audit_consent=terms.audit_consent and not params.is_embeddings,
        nonce=nonce,
        deadline=quote.now + terms.deadline_seconds,
    )
    return _with_limits(ask, wallet, quote, request, params, prompt_bound)


def _check_terms(ask: Ask, quote: Quote, terms: PaymentTerms, params: JobParams) -> None:
    prices = quote.offer.prices
    for most in (terms.max_prices, asked_max_prices(ask.body)):
        if most is not None:
            check_prices(prices, most)
    if params.is_embeddings and prices.price_out:
        # Nothing else bounds what vectors would cost: their size is the router's word.
        raise BadRequest(
            f"R-74: vectors have no price, {prices.price_out} is asked", param="priceOut", code="bad_offer"
        )
    terms.models.check(ask.model, quote.offer.model_id)


def _with_limits(
    ask: Ask, wallet: Wallet, quote: Quote, request: JobRequest, params: JobParams, prompt_bound: int
) -> SignedJob:
    prices = quote.offer.prices
    most = tuple(
        fee_round_down(
            prices,
            prompt_tokens=prompt_bound,
            cached_tokens=0,
            output_tokens=params.max_tokens,
            choice=choice,
            output_from=0,
        )
        for choice in range(ask.choices)
    )
    first = input_fee_round_down(prices, prompt_tokens=prompt_bound)
    # A plain answer brings no chunks to vouch for: all of it is promised at once. Only receipts collect it.
    prepaid = (first, *[0] * (ask.choices - 1)) if ask.stream else most
    return SignedJob(
        quote=quote,
        request=request,
        signature=wallet.sign(request),
        job_id=request.digest(wallet.domain),
        params=params,
        prompt_bound=prompt_bound,
        most=most,
        prepaid=prepaid,
    )

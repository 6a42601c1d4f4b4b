"""The official `openai` client over our transport: the same objects, streams and errors, plus receipts and checks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, cast

import httpx2
import openai
from openai._models import FinalRequestOptions
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from retally.ask import Ask
from retally.errors import BadRequest
from retally.home import Context
from retally.job_evidence import PromptRenderer
from retally.job_history import JobHistory
from retally.job_result import JobResult
from retally.keyed_call import KeyedCall
from retally.model_ids import ids_of_deployment
from retally.paid_call import PaidCall
from retally.protocol.eip712 import Domain
from retally.sign_job import PaymentTerms
from retally.spending import DailySpending, SpendingGuard
from retally.transport import EXTENSION, AsyncPaymentTransport, Call, PaymentTransport
from retally.wallet import Wallet

_ANSWERS = (ChatCompletion, Completion, CreateEmbeddingResponse)
_OWN_KEY = "signed-by-own-key"


class HasDomain(Protocol):
    """A deployment, as far as signatures are concerned."""

    @property
    def domain(self) -> Domain:
        """The EIP-712 domain."""
        ...


@dataclass(frozen=True, kw_only=True)
class Payment:
    """How a client pays, counts and checks; its copies share it."""

    wallet: Wallet | None
    domain: Domain | None
    guard: SpendingGuard
    terms: PaymentTerms
    renderer: PromptRenderer | None = None
    history: JobHistory | None = None

    def new_call(self, ask: Ask, headers: Mapping[str, str]) -> Call:
        """A completion paid by the wallet, else by the API key in the headers."""
        if self.wallet is None:
            return KeyedCall(
                ask,
                headers=headers,
                domain=self.domain,
                guard=self.guard,
                models=self.terms.models,
                renderer=self.renderer,
                history=self.history,
            )
        return PaidCall(
            ask, self.wallet, terms=self.terms, guard=self.guard, renderer=self.renderer, history=self.history
        )

    def check_route(self, url: str) -> None:
        """Raises BadRequest for what costs money that no limit of ours can count."""
        has_limit = self.guard.limit is not None or self.guard.daily_limit is not None
        if has_limit and url.partition("?")[0].rstrip("/").endswith("/responses"):
            hint = "ask by chat.completions, or set no limit here: the key's own cap holds at the router"
            raise BadRequest("a spending limit can't count what responses cost", code="limit_not_kept", hint=hint)


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What only our constructor knows of."""

    context: Context
    api_key: str | None
    wallet: Wallet | None
    deployment: HasDomain | str | Path | None
    renderer: PromptRenderer | None
    spending_limit: int | None
    daily_limit: int | None
    terms: PaymentTerms | None
    history: bool

    def payment(self) -> Payment:
        key_scope = "key:" + hashlib.sha256((self.api_key or "").encode()).hexdigest()[:16]
        daily = None if self.daily_limit is None else DailySpending(self.context.home / "spending.sqlite")
        wallet = self.wallet
        deployment = self._loaded()
        domain = None if deployment is None else deployment.domain
        terms = self.terms or PaymentTerms()
        if deployment is not None and (wallet is None or wallet.domain == domain):
            terms.models.learn(ids_of_deployment(getattr(deployment, "models", ())))
        return Payment(
            wallet=wallet,
            domain=domain if wallet is None else wallet.domain,
            guard=SpendingGuard(
                key_scope if wallet is None else wallet.payer,
                limit=self.spending_limit,
                daily_limit=self.daily_limit,
                daily=daily,
            ),
            terms=terms,
            renderer=self.renderer,
            history=JobHistory(self.context.home / "jobs.sqlite") if self.history else None,
        )

    def _loaded(self) -> HasDomain | None:
        given = self.deployment
        if given is None and (self.wallet is None or Path(self.context.deployment or "").is_file()):
            given = self.context.deployment
        if not isinstance(given, str | Path):
            return given
        from retally.chain.deployment import Deployment

        return Deployment.load(Path(given))

    def client_options(self, base_url: object, given: Mapping[str, Any], payment: Payment) -> dict[str, Any]:
        url = str(base_url or self.context.router_url or "").rstrip("/")
        if not url:
            hint = "pass base_url, set RETALLY_ROUTER_URL, or run: retally devnet up"
            raise BadRequest("no router is known", param="base_url", hint=hint)
        if self.api_key is None:
            hint = "pass api_key or wallet, set RETALLY_API_KEY, or create a key: retally keys create"
            raise BadRequest("neither an API key nor a wallet was given", param="api_key", hint=hint)
        options = {**given, "api_key": self.api_key, "base_url": url if url.endswith("/v1") else url + "/v1"}
        if payment.wallet is not None:
            # With a wallet the flow retries by itself, with the same signed request: a new one could be paid twice. A
            # copy has no wallet of its own, only its original's payment.
            options["max_retries"] = 0
        return options


class _Results:
    """Puts `retally` on what the `openai` client hands out."""

    def _process_response_data(self, *, data: object, cast_to: type[Any], response: httpx2.Response) -> Any:
        parent = cast(Any, super())
        parsed = parent._process_response_data(data=data, cast_to=cast_to, response=response)
        result = response.extensions.get(EXTENSION)
        if isinstance(result, JobResult) and isinstance(parsed, _ANSWERS):
            # Beside the model's fields, so that dumping the answer gives what the router sent.
            parsed.__dict__["retally"] = result
        return parsed


class Client(_Results, openai.OpenAI):
    """`openai.OpenAI` that pays per token: with an API key, or with a wallet that signs each request itself.

    Every answer carries `.retally` (receipts, cost, checks); a stream carries it too, complete once it has ended.
    """

    payment: Payment

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | httpx2.URL | None = None,
        *,
        wallet: Wallet | None = None,
        deployment: HasDomain | str | Path | None = None,
        spending_limit: int | None = None,
        daily_limit: int | None = None,
        terms: PaymentTerms | None = None,
        renderer: PromptRenderer | None = None,
        history: bool = False,
        home: Path | None = None,
        transport: httpx2.BaseTransport | None = None,
        _payment: Payment | None = None,
        **openai_options: Any,
    ) -> None:
        context = Context.load(home=home)
        options = _Options(
            context=context,
            api_key=_OWN_KEY if wallet is not None else api_key or context.api_key,
            wallet=wallet,
            deployment=deployment,
            renderer=renderer,
            spending_limit=spending_limit,
            daily_limit=daily_limit,
            terms=terms,
            history=history,
        )
        self.payment = _payment or options.payment()
        if openai_options.get("http_client") is None:
            inner = transport or httpx2.HTTPTransport(limits=openai.DEFAULT_CONNECTION_LIMITS)
            paying = PaymentTransport(inner, self.payment.new_call)
            openai_options["http_client"] = openai.DefaultHttpx2Client(transport=paying)
        super().__init__(**options.client_options(base_url, openai_options, self.payment))

    def copy(self, **changes: Any) -> Self:
        """A client with other options that pays from the same purse and counts into the same limits."""
        extra = {**changes.pop("_extra_kwargs", {}), "_payment": self.payment}
        return super().copy(_extra_kwargs=extra, **changes)

    with_options = copy

    def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
        self.payment.check_route(options.url)
        return super()._prepare_options(options)

    def _process_response(self, *, response: httpx2.Response, **kwargs: Any) -> Any:
        parsed = cast(Any, super())._process_response(response=response, **kwargs)
        return _with_result(parsed, response)


class AsyncClient(_Results, openai.AsyncOpenAI):
    """`openai.AsyncOpenAI` that pays per token; see `Client`."""

    payment: Payment

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | httpx2.URL | None = None,
        *,
        wallet: Wallet | None = None,
        deployment: HasDomain | str | Path | None = None,
        spending_limit: int | None = None,
        daily_limit: int | None = None,
        terms: PaymentTerms | None = None,
        renderer: PromptRenderer | None = None,
        history: bool = False,
        home: Path | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        _payment: Payment | None = None,
        **openai_options: Any,
    ) -> None:
        context = Context.load(home=home)
        options = _Options(
            context=context,
            api_key=_OWN_KEY if wallet is not None else api_key or context.api_key,
            wallet=wallet,
            deployment=deployment,
            renderer=renderer,
            spending_limit=spending_limit,
            daily_limit=daily_limit,
            terms=terms,
            history=history,
        )
        self.payment = _payment or options.payment()
        if openai_options.get("http_client") is None:
            inner = transport or httpx2.AsyncHTTPTransport(limits=openai.DEFAULT_CONNECTION_LIMITS)
            paying = AsyncPaymentTransport(inner, self.payment.new_call)
            openai_options["http_client"] = openai.DefaultAsyncHttpx2Client(transport=paying)
        super().__init__(**options.client_options(base_url, openai_options, self.payment))

    def copy(self, **changes: Any) -> Self:
        """A client with other options that pays from the same purse and counts into the same limits."""
        extra = {**changes.pop("_extra_kwargs", {}), "_payment": self.payment}
        return super().copy(_extra_kwargs=extra, **changes)

    with_options = copy

    async def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
        self.payment.check_route(options.url)
        return await super()._prepare_options(options)

    async def _process_response(self, *, response: httpx2.Response, **kwargs: Any) -> Any:
        parsed = await cast(Any, super())._process_response(response=response, **kwargs)
        return _with_result(parsed, response)


def _with_result(parsed: Any, response: httpx2.Response) -> Any:
    if isinstance(parsed, openai.Stream | openai.AsyncStream):
        cast(Any, parsed).retally = response.extensions.get(EXTENSION)
    return parsed


def result_of(answer: object) -> JobResult:
    """The receipts, cost and checks of an answer or a stream; typed, where `.retally` is not."""
    result = getattr(answer, "retally", None)
    if not isinstance(result, JobResult):
        raise BadRequest("this is no answer of a retally client", param="answer")
    return result

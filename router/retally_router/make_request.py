"""From an OpenAI body to a signed JobRequest."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from retally.errors import BadRequest, UnsupportedParameter
from retally.protocol.eip712 import Address, Bytes32, Domain, SigningKey
from retally.protocol.encoding import ZERO_BYTES32
from retally.protocol.job import JobParams, JobRequest, client_seed_from_int, params_hash, prompt_hash
from retally.protocol.openai_request import choices_of_body, prompt_of_body
from retally.protocol.pricing import PER, Prices, max_fee
from retally.protocol.structure import grammar_of, tools_tokens_at_most
from retally.protocol.wire import JobOptions
from retally_router.wishes import Wishes, read_bool, read_integer, read_wishes

MAX_LOGPROBS = {"chat": 20, "text": 5}
# What a chat template may add around each message and around the whole prompt, in tokens.
TEMPLATE_TOKENS = 192
MESSAGE_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Ask:
    """A completion request, understood."""

    endpoint: str
    model: str
    prompt: dict[str, Any]
    params: JobParams
    n: int
    seed: int | None
    stream: bool
    include_usage: bool
    logprobs: int | None
    prompt_tokens_at_most: int
    wishes: Wishes
    #: Of embeddings: tokens of the longest input, and how the vectors are shown.
    longest_input: int = 0
    encoding: str = ""

    @property
    def output_tokens(self) -> int:
        """Tokens of an answer that count and take room in a context: components of vectors do neither."""
        return 0 if self.params.is_embeddings else self.params.max_tokens

    def counted_tokens(self, choices: Iterable[Sized]) -> int:
        """Tokens of the given outputs, as limits, learning and metrics count them."""
        return 0 if self.params.is_embeddings else sum(map(len, choices))

    def tokens_within(self, max_context: int) -> int:
        """The prompt at its largest; each input of an embedding has a context of its own."""
        return self.prompt_tokens_at_most if self.params.is_embeddings else min(self.prompt_tokens_at_most, max_context)

    @property
    def options(self) -> JobOptions:
        """How the node has to shape its answer."""
        # A plain answer carries usage too: it is assembled from a stream.
        return JobOptions(self.include_usage or not self.stream, self.logprobs, self.model)


def template_date(now: int) -> str:
    """The date that a chat template may show: today in UTC, by chain time."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")


def parse_body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = "send one JSON object in UTF-8"
        raise BadRequest(f"the body is no valid JSON: {error}", code="invalid_json", hint=hint) from error
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object", code="invalid_json", hint="send one JSON object in UTF-8")
    return body


def read_ask(
    body: dict[str, Any],
    endpoint: str,
    *,
    default_max_tokens: int,
    now: int,
    signed_params: Mapping[str, Any] | None = None,
) -> Ask:
    """Checks an OpenAI body and takes it apart; anything undefined is refused."""
    wishes = read_wishes(body.get("provider"))
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("model must be a string", param="model", hint="list the models with GET /v1/models")
    prompt = prompt_of_body(body, endpoint)
    stream = read_bool(body, "stream")
    if signed_params is None:
        date = template_date(now)
        params = JobParams.from_openai(body, endpoint, default_max_tokens=default_max_tokens, template_date=date)
    else:
        params = JobParams.from_json(dict(signed_params))
    # What can't be asked of any node is refused before a node is looked for.
    grammar_of(params, prompt)
    return Ask(
        endpoint=endpoint,
        model=model,
        prompt=prompt,
        params=params,
        n=choices_of_body(body),
        seed=None if body.get("seed") is None else read_integer(body, "seed", 0, -(2**63), 2**63 - 1),
        stream=stream,
        include_usage=_include_usage(body, stream),
        logprobs=_logprobs(body, endpoint),
        prompt_tokens_at_most=tokens_at_most(prompt),
        wishes=wishes,
    )


def tokens_at_most(prompt: Mapping[str, Any]) -> int:
    """No byte-level tokenizer makes more tokens than this of the prompt."""
    if "promptIds" in prompt:
        return len(prompt["promptIds"])
    if "prompt" in prompt:
        return len(prompt["prompt"].encode()) + MESSAGE_TOKENS
    raw = len(msgspec.json.encode(prompt["messages"])) + tools_tokens_at_most(prompt)
    return raw + MESSAGE_TOKENS * len(prompt["messages"]) + TEMPLATE_TOKENS


def largest_fee(
    ask: Ask, prices: Prices, prompt_tokens: int, max_context: int, continuations: int, *, is_hedged: bool
) -> int:
    """The most that the job can cost over all choices and segments, one of which may be a hedge."""
    output = min(ask.params.max_tokens, max_context)
    fee = max_fee(prices, prompt_tokens=prompt_tokens, max_output=output, n=ask.n, continuations=continuations * ask.n)
    # A hedge is one of the continuations, but reads the prompt at its full price.
    dearer = max(0, prices.price_in - prices.price_cached) if is_hedged and continuations else 0
    return fee + -(-prompt_tokens * dearer // PER)


@dataclass(frozen=True, slots=True)
class Signed:
    """A JobRequest with its signature and id."""

    request: JobRequest
    signature: bytes
    job_id: Bytes32


def sign_request(
    ask: Ask,
    *,
    payer: Address,
    key: SigningKey,
    model_id: Bytes32,
    prices: Prices,
    fee: int,
    deadline: int,
    domain: Domain,
) -> Signed:
    """The ask as a JobRequest, signed by the session signer."""
    nonce = Bytes32(secrets.token_bytes(32))
    request = JobRequest(
        payer=payer,
        signer=key.address,
        model_id=model_id,
        profile_id=ZERO_BYTES32,
        n=ask.n,
        max_price_in=prices.price_in,
        max_price_cached=prices.price_cached,
        max_price_out=prices.price_out,
        prompt_hash=prompt_hash(nonce, ask.prompt),
        params_hash=params_hash(ask.params),
        max_output=ask.params.max_tokens,
        max_fee=fee,
        client_seed=Bytes32(secrets.token_bytes(32)) if ask.seed is None else client_seed_from_int(ask.seed),
        audit_consent=ask.wishes.audit_consent,
        nonce=nonce,
        deadline=deadline,
    )
    digest = request.digest(domain)
    return Signed(request, key.sign(digest), digest)


def check_signed_matches(ask: Ask, request: JobRequest) -> None:
    """The body is what the signed request says."""
    hint = "sign the prompt, params and n that the body carries"
    if prompt_hash(request.nonce, ask.prompt) != request.prompt_hash:
        raise BadRequest("the prompt is not the signed one", param="promptHash", code="request_mismatch", hint=hint)
    if params_hash(ask.params) != request.params_hash:
        raise BadRequest("the params are not the signed ones", param="paramsHash", code="request_mismatch", hint=hint)
    if request.n != ask.n:
        raise BadRequest(f"n is {ask.n}, signed was {request.n}", param="n", code="request_mismatch", hint=hint)


def _include_usage(body: Mapping[str, Any], stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise BadRequest("stream_options needs stream: true", param="stream_options")
    if not isinstance(options, dict) or options.keys() - {"include_usage", "include_obfuscation"}:
        raise UnsupportedParameter("stream_options", "knows include_usage only")
    return read_bool(options, "include_usage")


def _logprobs(body: Mapping[str, Any], endpoint: str) -> int | None:
    most = MAX_LOGPROBS[endpoint]
    if endpoint == "text":
        return None if body.get("logprobs") is None else read_integer(body, "logprobs", 0, 0, most)
    wanted = read_bool(body, "logprobs")
    if body.get("top_logprobs") is not None and not wanted:
        raise BadRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    return read_integer(body, "top_logprobs", 0, 0, most) if wanted else None

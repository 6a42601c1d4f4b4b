"""The bodies that this router takes, as JSON schemas with examples: the hot path reads them by hand."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_FLAG: Json = {"type": "boolean"}
_AMOUNT: Json = {"type": "string", "pattern": "^[0-9]+$", "description": "in the asset's smallest unit"}
_ADDRESS: Json = {"type": "string", "pattern": "^0x[0-9a-fA-F]{40}$"}


def _range(low: float, high: float) -> Json:
    return {"type": "number", "minimum": low, "maximum": high}


_PROVIDER: Json = {
    "type": "object",
    "description": "which nodes may serve, in OpenRouter's shape",
    "properties": {
        "order": {"type": "array", "items": _ADDRESS},
        "only": {"type": "array", "items": _ADDRESS},
        "ignore": {"type": "array", "items": _ADDRESS},
        "max_price": {"type": "object"},
        "sort": {"type": "string", "enum": ["price", "latency", "throughput"]},
        "allow_fallbacks": _FLAG,
        "allow_unaudited": _FLAG,
    },
}
_SAMPLING: Json = {
    "temperature": _range(0, 2),
    "top_p": _range(0, 1),
    "min_p": _range(0, 1),
    "top_k": {"type": "integer", "minimum": -1},
    "frequency_penalty": _range(-2, 2),
    "presence_penalty": _range(-2, 2),
    "repetition_penalty": _range(0, 10),
    "logit_bias": {"type": "object", "additionalProperties": _range(-100, 100)},
    "seed": {"type": "integer"},
    "stop": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": 16}]},
    "min_tokens": _COUNT,
    "stream": _FLAG,
    "user": _TEXT,
    "metadata": {"type": "object"},
    "provider": _PROVIDER,
}
_COMPLETION: Json = {
    **_SAMPLING,
    "model": _TEXT,
    "max_tokens": {"type": "integer", "minimum": 1},
    "n": {"type": "integer", "minimum": 1, "maximum": 128},
    "stream_options": {"type": "object", "properties": {"include_usage": _FLAG}},
}
_MESSAGE: Json = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"type": "string", "enum": ["system", "developer", "user", "assistant"]}, "content": _TEXT},
}
_MESSAGES: Json = {"type": "array", "minItems": 1, "items": _MESSAGE}


def _body(title: str, summary: str, required: list[str], properties: Json, example: Json, *, costs: bool) -> Json:
    schema = {"title": title, "type": "object", "required": required, "properties": properties}
    return {"summary": summary, "schema": schema, "example": example, "costs": costs}


_LIMITS = ("requestsPerMinute", "tokensPerMinute", "spendPerDay", "spendTotal")
_HELLO = [{"role": "user", "content": "count again"}]
_ZERO = "0x" + "00" * 20

BODIES: dict[str, Json] = {
    "/v1/chat/completions": _body(
        "ChatCompletion",
        "OpenAI's chat completions, streamed or plain",
        ["model", "messages"],
        {
            **_COMPLETION,
            "messages": _MESSAGES,
            "logprobs": _FLAG,
            "top_logprobs": {**_COUNT, "maximum": 20},
            "max_completion_tokens": {"type": "integer", "minimum": 1},
        },
        {"model": "MODEL", "messages": _HELLO, "max_tokens": 8, "temperature": 0.7, "stream": False},
        costs=True,
    ),
    "/v1/completions": _body(
        "Completion",
        "OpenAI's text completions, streamed or plain",
        ["model", "prompt"],
        {
            **_COMPLETION,
            "prompt": {"anyOf": [_TEXT, {"type": "array", "items": _COUNT}]},
            "logprobs": {**_COUNT, "maximum": 5},
        },
        {"model": "MODEL", "prompt": "count again", "max_tokens": 8, "stop": ["."], "n": 1},
        costs=True,
    ),
    "/v1/responses": _body(
        "ResponseRequest",
        "OpenAI's Responses: text in, text out, streamed or plain; nothing is stored",
        ["model", "input"],
        {
            **{name: value for name, value in _SAMPLING.items() if name != "metadata"},
            "model": _TEXT,
            "input": {"anyOf": [_TEXT, _MESSAGES]},
            "instructions": _TEXT,
            "max_output_tokens": {"type": "integer", "minimum": 1},
            "metadata": {"type": "object"},
            "store": {"type": "boolean", "enum": [False]},
        },
        {
            "model": "MODEL",
            "input": "count again",
            "instructions": "use digits",
            "max_output_tokens": 8,
            "store": False,
        },
        costs=True,
    ),
    "/v1/embeddings": _body(
        "Embedding",
        "OpenAI's embeddings: one vector for each input, signed by its node; 404 where no node serves them",
        ["model", "input"],
        {
            "model": _TEXT,
            "input": {
                "anyOf": [
                    _TEXT,
                    {"type": "array", "items": {"anyOf": [_TEXT, _COUNT, {"type": "array", "items": _COUNT}]}},
                ]
            },
            "encoding_format": {"type": "string", "enum": ["float", "base64"]},
            "dimensions": {"type": "integer", "minimum": 1},
            "user": _TEXT,
            "provider": _PROVIDER,
        },
        {"model": "MODEL", "input": ["count again", "and again"], "encoding_format": "float"},
        costs=True,
    ),
    "/retally/v1/keys": _body(
        "KeyRequest",
        "Creates an API key",
        ["payer", "cap", "expiry", "deadline", "signature"],
        {
            "payer": _ADDRESS,
            "cap": _AMOUNT,
            "expiry": _COUNT,
            "deadline": _COUNT,
            "signature": {"type": "string", "description": "EIP-191, by the payer"},
            "limits": {"type": "object", "properties": dict.fromkeys(_LIMITS, _AMOUNT)},
        },
        {
            "payer": _ZERO,
            "cap": "10000000",
            "expiry": 1900000000,
            "deadline": 1800000600,
            "signature": "0x" + "11" * 65,
        },
        costs=False,
    ),
    "/retally/v1/quotes": _body(
        "QuoteRequest",
        "A node for a client that signs with its own key",
        ["payer", "signer", "lane", "model"],
        {
            "payer": _ADDRESS,
            "signer": _ADDRESS,
            "lane": _COUNT,
            "model": _TEXT,
            "promptTokens": _COUNT,
            "maxOutput": _COUNT,
            "endpoint": {"type": "string", "enum": ["embeddings"]},
            "dimensions": _COUNT,
            "n": _COUNT,
            "exclude": {"type": "array", "items": _ADDRESS},
            "maxPrices": {"type": "object", "properties": {"in": _AMOUNT, "cached": _AMOUNT, "out": _AMOUNT}},
            "provider": _PROVIDER,
        },
        {"payer": _ZERO, "signer": _ZERO, "lane": 1, "model": "MODEL", "promptTokens": 9, "maxOutput": 8, "n": 1},
        costs=False,
    ),
    "/retally/v1/vouchers": _body(
        "VoucherDelivery",
        "Carries a client's vouchers to their node",
        ["node", "vouchers"],
        {"node": _ADDRESS, "vouchers": {"type": "array", "items": {"type": "object"}}},
        {"node": "NODE", "vouchers": [{"voucher": {"payer": _ZERO, "cumulative": "1"}, "signature": "0x00"}]},
        costs=False,
    ),
}

ENVELOPE: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
                "hint": {"type": "string", "description": "what to do next"},
                "details": {"type": "object"},
            },
        }
    },
}

HEADERS: Json = {
    "x-request-id": {"description": "the request's id, in the logs too", "schema": _TEXT},
    "retry-after": {"description": "seconds, with 409, 429 and 503", "schema": _TEXT},
    "payment-required": {"description": "with 402: what to pay, where and how (x402, version 2)", "schema": _TEXT},
    "x-ratelimit-remaining-requests": {"description": "for keys with limits; limit- and reset- too", "schema": _TEXT},
    "x-ratelimit-remaining-tokens": {"description": "for keys with limits; limit- and reset- too", "schema": _TEXT},
}

PARAMETERS: list[Json] = [
    {"name": "x-request-id", "in": "header", "schema": _TEXT, "description": "taken over when printable"},
    {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        "description": "the same answer for the same body, for a day; made and paid once",
    },
]

"""From an OpenAI request body to what the protocol signs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from retally.errors import BadRequest, UnsupportedParameter
from retally.protocol.encoding import parse_ids
from retally.protocol.nesting import check_levels
from retally.protocol.openai_messages import messages_of
from retally.protocol.openai_structure import response_format_of, tool_choice_of, tools_text_of
from retally.protocol.params import ONE, RANGES, JobParams, sorted_bias

MAX_CHOICES = 128
_LARGEST = 1_000_000
_FRACTIONS = {
    "temperature": "temperature",
    "top_p": "topP",
    "min_p": "minP",
    "repetition_penalty": "repetitionPenalty",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
}
_INTEGERS = {
    "max_tokens": "maxTokens",
    "max_completion_tokens": "maxTokens",
    "min_tokens": "minTokens",
    "prompt_logprobs": "promptLogprobs",
}

# Deliberately not part of params: transport, routing, or diagnostics that change no token.
_BESIDE = frozenset(
    {"model", "messages", "prompt", "stream", "stream_options", "n", "seed", "logprobs", "top_logprobs"}
    | {"user", "metadata", "provider", "safety_identifier", "prompt_cache_key", "tools"}
)
_SHAPING = frozenset(
    {"temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "top_k"}
    | {"min_tokens", "max_tokens", "max_completion_tokens", "logit_bias", "stop", "prompt_logprobs"}
    | {"response_format", "tool_choice", "parallel_tool_calls"}
)
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "functions": (None, []),
    "function_call": (None, "none"),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
}


def params_of_body(body: Mapping[str, Any], endpoint: str, default_max_tokens: int, template_date: str) -> JobParams:
    """The parameters of an OpenAI request body; what the protocol does not define is refused."""
    _refuse_undefined(body)
    maximum = _integer(body, "max_completion_tokens", _integer(body, "max_tokens", default_max_tokens))
    return JobParams(
        max_tokens=maximum,
        template_date=template_date,
        endpoint=endpoint,
        temperature=_fraction(body, "temperature", ONE),
        top_p=_fraction(body, "top_p", ONE),
        min_p=_fraction(body, "min_p", 0),
        repetition_penalty=_fraction(body, "repetition_penalty", ONE),
        frequency_penalty=_fraction(body, "frequency_penalty", 0),
        presence_penalty=_fraction(body, "presence_penalty", 0),
        top_k=_top_k(body),
        min_tokens=_integer(body, "min_tokens", 0),
        logit_bias=_bias(body.get("logit_bias")),
        stop=_stop(body.get("stop")),
        prompt_logprobs=_integer(body, "prompt_logprobs", 0),
        response_format=response_format_of(body.get("response_format")),
        tool_choice=tool_choice_of(body),
    )


def _refuse_undefined(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if name in _BESIDE or name in _SHAPING:
            continue
        if name not in _NEUTRAL or value not in _NEUTRAL[name]:
            raise UnsupportedParameter(name)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnsupportedParameter(name, "must be a number")
    # Compared before it becomes a float: an integer may be too large for one.
    if not -_LARGEST <= value <= _LARGEST or not math.isfinite(value):
        raise UnsupportedParameter(name, f"must lie between {-_LARGEST} and {_LARGEST}")
    return float(value)


def _fraction(body: Mapping[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    scaled, (low, high) = round(_number(name, value) * ONE), RANGES[_FRACTIONS[name]]
    if not low <= scaled <= high:
        raise UnsupportedParameter(name, f"must lie between {low / ONE:g} and {high / ONE:g}")
    return scaled


def _integer(body: Mapping[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise UnsupportedParameter(name, "must be an integer")
    low, high = RANGES[_INTEGERS[name]] if name in _INTEGERS else (value, value)
    if not low <= value <= high:
        raise UnsupportedParameter(name, f"must lie between {low} and {high}")
    return value


def _top_k(body: Mapping[str, Any]) -> int:
    # -1 is how vLLM's clients spell "off".
    value = _integer(body, "top_k", 0)
    return 0 if value == -1 else value


def _bias(value: object) -> tuple[tuple[int, int], ...]:
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise UnsupportedParameter("logit_bias", "must be an object")
    return sorted_bias({str(token): round(_number("logit_bias", bias) * ONE) for token, bias in value.items()})


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UnsupportedParameter("stop", "must be a string or a list of strings")
    return tuple(value)


def choices_of_body(body: Mapping[str, Any]) -> int:
    """How many choices the body asks for."""
    n = _integer(body, "n", 1)
    if not 1 <= n <= MAX_CHOICES:
        raise UnsupportedParameter("n", f"must lie between 1 and {MAX_CHOICES}")
    return n


def prompt_of_body(body: Mapping[str, Any], endpoint: str) -> dict[str, Any]:
    """The prompt object of R-11."""
    if endpoint == "chat":
        tools = tools_text_of(body)
        return {"messages": messages_of(body.get("messages")), **({"tools": tools} if tools else {})}
    prompt = body.get("prompt")
    # Batches of one are taken out of each other by recursion.
    check_levels("prompt", prompt)
    if isinstance(prompt, str):
        return {"prompt": prompt}
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        # A batch of one is what some clients always send.
        return prompt_of_body({"prompt": prompt[0]}, endpoint)
    if isinstance(prompt, list) and prompt:
        return {"promptIds": list(parse_ids("prompt", prompt))}
    raise BadRequest("prompt must be a string or one list of token ids", param="prompt")

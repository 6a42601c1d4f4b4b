"""The parameters of a job, as integers (R-30)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from retally.errors import BadRequest, UnsupportedParameter
from retally.protocol.encoding import check_fields, check_integer, parse_object
from retally.protocol.structure import ResponseFormat, ToolChoice

ONE = 1_000_000
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_LOGIT_BIAS = 1024
MAX_PROMPT_LOGPROBS = 64
MAX_TOP_K = 1 << 31

RANGES: dict[str, tuple[int, int]] = {
    "temperature": (0, 2 * ONE),
    "topP": (1, ONE),
    "minP": (0, ONE),
    "repetitionPenalty": (1, 10 * ONE),
    "frequencyPenalty": (-2 * ONE, 2 * ONE),
    "presencePenalty": (-2 * ONE, 2 * ONE),
    "topK": (0, MAX_TOP_K),
    "minTokens": (0, (1 << 32) - 1),
    "maxTokens": (1, (1 << 32) - 1),
    "promptLogprobs": (0, MAX_PROMPT_LOGPROBS),
}
EMBEDDINGS = "embeddings"
#: What a job for embeddings says of itself (R-73): nothing is sampled and no template is rendered.
_EMBEDDING_NAMES = frozenset({"endpoint", "dimensions", "maxTokens"})
_NO_DATE = "1970-01-01"
_NAMES = frozenset(RANGES) | {"logitBias", "stop", "endpoint", "templateDate", "responseFormat", "toolChoice"}
_BIAS_LIMIT = 100 * ONE
_ID_DIGITS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class JobParams:
    """All that shapes an answer beside prompt and seed; fractions in 1e-6."""

    max_tokens: int
    template_date: str
    endpoint: str = "chat"
    temperature: int = ONE
    top_p: int = ONE
    min_p: int = 0
    repetition_penalty: int = ONE
    frequency_penalty: int = 0
    presence_penalty: int = 0
    top_k: int = 0
    min_tokens: int = 0
    logit_bias: tuple[tuple[int, int], ...] = ()
    stop: tuple[str, ...] = ()
    prompt_logprobs: int = 0
    response_format: ResponseFormat = field(default_factory=ResponseFormat)
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    #: Components of a vector; 0 but for embeddings.
    dimensions: int = 0

    def __post_init__(self) -> None:
        for name, value in self._numbers().items():
            low, high = RANGES[name]
            check_integer(name, value, 64, signed=True)
            if not low <= value <= high:
                raise UnsupportedParameter(name, f"must lie between {low} and {high}")
        if self.min_tokens > self.max_tokens:
            raise UnsupportedParameter("minTokens", "exceeds maxTokens")
        if self.endpoint not in ("chat", "text", EMBEDDINGS):
            raise UnsupportedParameter("endpoint", "must be chat, text or embeddings")
        if check_integer("dimensions", self.dimensions, 32) and not self.is_embeddings:
            raise UnsupportedParameter("dimensions", "goes with embeddings only")
        if self.is_embeddings and (not self.dimensions or self.max_tokens % self.dimensions):
            raise UnsupportedParameter("maxTokens", "must be whole vectors of at least one component")
        _check_date(self.template_date)
        _check_stop(self.stop)
        _check_bias(self.logit_bias)
        self._check_structure()

    def _check_structure(self) -> None:
        has_format, choice = self.response_format.type != "text", self.tool_choice
        if has_format and choice.type != "none":
            raise UnsupportedParameter("responseFormat", "does not go with tools: a tool's parameters shape its call")
        if choice.type != "none" and self.endpoint != "chat":
            raise UnsupportedParameter("toolChoice", "goes with chat only")
        if (has_format or choice.is_forced) and self.min_tokens:
            # An answer of a given form may be complete, and must end then.
            raise UnsupportedParameter("minTokens", "does not go with an answer of a given form")

    def _numbers(self) -> dict[str, int]:
        return {
            "temperature": self.temperature,
            "topP": self.top_p,
            "minP": self.min_p,
            "repetitionPenalty": self.repetition_penalty,
            "frequencyPenalty": self.frequency_penalty,
            "presencePenalty": self.presence_penalty,
            "topK": self.top_k,
            "minTokens": self.min_tokens,
            "maxTokens": self.max_tokens,
            "promptLogprobs": self.prompt_logprobs,
        }

    @property
    def is_embeddings(self) -> bool:
        """Whether vectors are asked for, not an answer."""
        return self.endpoint == EMBEDDINGS

    @property
    def has_form(self) -> bool:
        """Whether a grammar may hold the answer to a form (R-70)."""
        return self.response_format.type != "text" or self.tool_choice.type != "none"

    @property
    def bias(self) -> dict[int, int]:
        """The logit bias by token id, in 1e-6."""
        return dict(self.logit_bias)

    def to_json(self) -> dict[str, Any]:
        """The object that paramsHash hashes: every key always present."""
        if self.is_embeddings:
            return {"endpoint": EMBEDDINGS, "dimensions": self.dimensions, "maxTokens": self.max_tokens}
        return {
            **self._numbers(),
            "logitBias": {str(token): bias for token, bias in self.logit_bias},
            "stop": list(self.stop),
            "endpoint": self.endpoint,
            "templateDate": self.template_date,
            "responseFormat": self.response_format.to_json(),
            "toolChoice": self.tool_choice.to_json(),
        }

    @classmethod
    def from_json(cls, value: object) -> JobParams:
        """The parameters of that object; strict."""
        wire = parse_object("params", value)
        if wire.get("endpoint") == EMBEDDINGS:
            check_fields("params", wire, _EMBEDDING_NAMES)
            return cls.of_embeddings(wire["dimensions"], wire["maxTokens"])
        check_fields("params", wire, _NAMES)
        bias = parse_object("logitBias", wire["logitBias"])
        stop = wire["stop"]
        if not isinstance(stop, list) or not all(isinstance(item, str) for item in stop):
            raise BadRequest("stop must be a list of strings", param="stop")
        return cls(
            max_tokens=wire["maxTokens"],
            template_date=wire["templateDate"],
            endpoint=wire["endpoint"],
            temperature=wire["temperature"],
            top_p=wire["topP"],
            min_p=wire["minP"],
            repetition_penalty=wire["repetitionPenalty"],
            frequency_penalty=wire["frequencyPenalty"],
            presence_penalty=wire["presencePenalty"],
            top_k=wire["topK"],
            min_tokens=wire["minTokens"],
            logit_bias=sorted_bias(bias),
            stop=tuple(stop),
            prompt_logprobs=wire["promptLogprobs"],
            response_format=ResponseFormat.from_json(wire["responseFormat"]),
            tool_choice=ToolChoice.from_json(wire["toolChoice"]),
        )

    @classmethod
    def of_embeddings(cls, dimensions: int, components: int) -> JobParams:
        """Vectors of so many components, and so many of all together (R-73)."""
        return cls(max_tokens=components, template_date=_NO_DATE, endpoint=EMBEDDINGS, dimensions=dimensions)

    @classmethod
    def from_openai(
        cls, body: Mapping[str, Any], endpoint: str, default_max_tokens: int, template_date: str
    ) -> JobParams:
        """The parameters of an OpenAI request body; what the protocol does not define is refused."""
        # Imported here: openai_request builds JobParams and can't be imported by this module at its top.
        from retally.protocol.openai_request import params_of_body

        return params_of_body(body, endpoint, default_max_tokens, template_date)


def sorted_bias(bias: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """A logit bias by ascending token id; ids are canonical decimals."""
    pairs = []
    for token, value in bias.items():
        if len(token) > _ID_DIGITS or not token.isascii() or not token.isdigit() or str(int(token)) != token:
            raise UnsupportedParameter("logitBias", f"has {token[:20]!r} for a token id")
        pairs.append((int(token), value))
    return tuple(sorted(pairs))


def _check_date(value: object) -> None:
    if not isinstance(value, str):
        raise BadRequest("templateDate must be YYYY-MM-DD", param="templateDate")
    try:
        parsed = date.fromisoformat(value)
    except ValueError as error:
        raise BadRequest("templateDate must be YYYY-MM-DD", param="templateDate") from error
    if parsed.isoformat() != value:
        raise BadRequest("templateDate must be YYYY-MM-DD", param="templateDate")


def _check_stop(stop: tuple[str, ...]) -> None:
    if len(stop) > MAX_STOPS:
        raise UnsupportedParameter("stop", f"may hold {MAX_STOPS} strings")
    for item in stop:
        if not 0 < len(item) <= MAX_STOP_CHARACTERS:
            raise UnsupportedParameter("stop", f"must hold strings of 1 to {MAX_STOP_CHARACTERS} characters")


def _check_bias(bias: tuple[tuple[int, int], ...]) -> None:
    if len(bias) > MAX_LOGIT_BIAS:
        raise UnsupportedParameter("logitBias", f"may hold {MAX_LOGIT_BIAS} tokens")
    for token, value in bias:
        check_integer("logitBias", token, 32)
        check_integer("logitBias", value, 64, signed=True)
        if not -_BIAS_LIMIT <= value <= _BIAS_LIMIT:
            raise UnsupportedParameter("logitBias", "must lie between -100 and 100")

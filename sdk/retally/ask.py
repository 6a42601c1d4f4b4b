"""What a request body asks for, in the words of the protocol (R-11)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from retally.errors import BadRequest
from retally.protocol.embeddings import inputs_of_body, params_of_embeddings, tokens_at_most
from retally.protocol.encoding import check_integer
from retally.protocol.job import JobParams
from retally.protocol.openai_request import choices_of_body, prompt_of_body
from retally.protocol.structure import grammar_of, tools_tokens_at_most

Endpoint = Literal["chat", "text", "embeddings"]
PATHS: Mapping[str, Endpoint] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text",
    "/v1/embeddings": "embeddings",
}

# What a chat template may add around a message and around the whole prompt, in tokens.
MESSAGE_TOKENS = 16
TEMPLATE_TOKENS = 192


@dataclass(frozen=True, slots=True)
class Ask:
    """One completion request, parsed once."""

    path: str
    endpoint: Endpoint
    raw: bytes
    body: Mapping[str, Any]
    prompt: Mapping[str, Any]
    choices: int

    @classmethod
    def parse(cls, path: str, raw: bytes) -> Self:
        """Reads a request body; raises BadRequest on what is no completion request."""
        try:
            body = json.loads(raw)
        except ValueError as error:
            raise BadRequest("the body is not JSON", code="invalid_json") from error
        if not isinstance(body, dict):
            raise BadRequest("the body must be a JSON object", code="invalid_json")
        endpoint = PATHS[path]
        if endpoint == "embeddings":
            return cls(path, endpoint, raw, body, inputs_of_body(body), 1)
        return cls(path, endpoint, raw, body, prompt_of_body(body, endpoint), choices_of_body(body))

    @property
    def model(self) -> str:
        """The model that is asked for."""
        model = self.body.get("model")
        if not isinstance(model, str) or not model:
            raise BadRequest("model must be named", param="model")
        return model

    @property
    def stream(self) -> bool:
        """Whether a stream is asked for."""
        return bool(self.body.get("stream"))

    def params(self, default_max_tokens: int, template_date: str, dimensions: int = 0) -> JobParams:
        """The parameters of R-30 or R-73; what the body leaves open is filled in."""
        if self.endpoint == "embeddings":
            wanted = self.body.get("dimensions") or dimensions
            return params_of_embeddings(check_integer("dimensions", wanted, 32), len(self.prompt["inputs"]))
        params = JobParams.from_openai(self.body, self.endpoint, default_max_tokens, template_date)
        # What can't be asked of any node is refused before anything is signed.
        grammar_of(params, self.prompt)
        return params


def prompt_tokens_bound(prompt: Mapping[str, Any]) -> int:
    """More tokens than a byte-level tokenizer and a plain template can make of a prompt."""
    if "promptIds" in prompt:
        return len(prompt["promptIds"])
    if "inputs" in prompt:
        return tokens_at_most(prompt)
    if "prompt" in prompt:
        return len(prompt["prompt"].encode()) + MESSAGE_TOKENS
    messages = prompt["messages"]
    written = len(json.dumps(messages, ensure_ascii=False).encode()) + tools_tokens_at_most(prompt)
    return written + MESSAGE_TOKENS * len(messages) + TEMPLATE_TOKENS

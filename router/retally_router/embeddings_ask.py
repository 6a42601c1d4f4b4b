"""POST /v1/embeddings: from OpenAI's body to an ask, and from a job's components to OpenAI's vectors."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from retally.errors import BadRequest, NotFound, UnknownModel, UnsupportedParameter
from retally.protocol.embeddings import (
    VectorSizes,
    check_params,
    floats_of,
    inputs_of_body,
    longest_at_most,
    params_of_embeddings,
    tokens_at_most,
    vectors_of_ids,
)
from retally.protocol.params import EMBEDDINGS, JobParams
from retally_router.directory import Listed
from retally_router.make_request import Ask
from retally_router.wishes import Wishes, read_integer, read_wishes

FORMATS = ("float", "base64")
_KNOWN = frozenset({"model", "input", "encoding_format", "dimensions", "user", "provider", "metadata"})


def read_embeddings_ask(
    body: Mapping[str, Any], nodes: Iterable[Listed], signed_params: Mapping[str, Any] | None = None
) -> Ask:
    """Checks the body and takes it apart; raises with what is wrong, or where no node serves embeddings."""
    for name in sorted(body.keys() - _KNOWN):
        raise UnsupportedParameter(name)
    model, prompt = body.get("model"), inputs_of_body(body)
    if not isinstance(model, str) or not model:
        raise BadRequest("model must be a string", param="model", hint="list the models with GET /v1/models")
    sizes = sizes_of(nodes, model)
    wanted = read_integer(body, "dimensions", sizes.whole, 1, 2**32 - 1)
    params = params_of_embeddings(wanted, len(prompt["inputs"]))
    if signed_params is not None:
        params = JobParams.from_json(dict(signed_params))
    check_params(params, prompt, sizes)
    return Ask(
        endpoint=EMBEDDINGS,
        model=model,
        prompt=prompt,
        params=params,
        n=1,
        seed=None,
        stream=False,
        include_usage=False,
        logprobs=None,
        prompt_tokens_at_most=tokens_at_most(prompt),
        wishes=_wishes(body),
        longest_input=longest_at_most(prompt),
        encoding=_encoding(body),
    )


def sizes_of(nodes: Iterable[Listed], model: str) -> VectorSizes:
    """The vectors of a model; raises NotFound where no node makes any."""
    named = [node for node in nodes if model in (node.model, node.model_hex)]
    if not named:
        raise UnknownModel(model)
    found = next((node.vectors for node in named if node.vectors is not None), None)
    if found is None:
        hint = "use /v1/chat/completions, /v1/completions or /v1/responses; GET /v1/models says which serve embeddings"
        raise NotFound(f"no node serves embeddings of {model}", param="model", code="embeddings_not_served", hint=hint)
    return found


def embeddings_body(ask: Ask, ids: Sequence[int], prompt_tokens: int, retally: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's object; no component is rounded on its way."""
    vectors = vectors_of_ids(ids, ask.params.dimensions)
    return {
        "id": "embd-" + str(retally["jobId"])[2:26],
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _shown(vector, ask.encoding)}
            for index, vector in enumerate(vectors)
        ],
        "model": ask.model,
        "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
        "retally": dict(retally),
    }


def _shown(vector: bytes, encoding: str) -> object:
    return b64encode(vector).decode() if encoding == "base64" else list(floats_of(vector))


def _encoding(body: Mapping[str, Any]) -> str:
    encoding = body.get("encoding_format") or FORMATS[0]
    if encoding not in FORMATS:
        raise UnsupportedParameter("encoding_format", f"must be one of {', '.join(FORMATS)}")
    return str(encoding)


def _wishes(body: Mapping[str, Any]) -> Wishes:
    """Nobody can judge vectors (R-75): who asks for it is told, who does not signs that nobody shall."""
    wishes, provider = read_wishes(body.get("provider")), body.get("provider") or {}
    if wishes.only_audited or provider.get("audit"):
        hint = "leave provider.audit and provider.require out: embeddings rest on the node's stake and signature alone"
        raise BadRequest("embeddings are not audited", param="provider", code="audit_not_possible", hint=hint)
    return replace(wishes, audit_consent=False)

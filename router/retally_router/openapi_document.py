"""The OpenAPI document, complete: also what the app in front serves, every body with an example, every error."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from retally.errors import Unavailable
from retally_router.hot_path import ENDPOINTS
from retally_router.openapi_bodies import BODIES, ENVELOPE, HEADERS, PARAMETERS
from retally_router.responses_path import RESPONSES

Json = dict[str, Any]


def complete_document(app: FastAPI) -> None:
    """Adds routes for what is served in front of this app, and its bodies and errors to the document."""
    for path in (*ENDPOINTS, RESPONSES):

        @app.post(path, name=path, summary=BODIES[path]["summary"])
        async def served_in_front() -> None:
            raise Unavailable("completions are served in front of this app")

    plain = app.openapi

    def document() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(plain())
        return app.openapi_schema

    # The way FastAPI documents for extending its document.
    app.openapi = document  # type: ignore[method-assign]


def _completed(document: Json) -> Json:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["ErrorEnvelope"] = ENVELOPE
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    refusal = {"description": "An error, in OpenAI's envelope", "headers": HEADERS, "content": _json("ErrorEnvelope")}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            responses.pop("422", None)
            responses["default"] = refusal
        known = BODIES.get(path)
        if known is not None:
            name = known["schema"]["title"]
            schemas[name] = known["schema"]
            content = _json(name)
            content["application/json"]["example"] = known["example"]
            operations["post"]["requestBody"] = {"required": True, "content": content}
            operations["post"].setdefault("parameters", []).extend(PARAMETERS if known["costs"] else [])
    document["components"]["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
    return document


def _json(name: str) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

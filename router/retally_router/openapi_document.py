"""Makes the OpenAPI document: every route, every body with an example, every error. Nothing of it runs in a router.

Usage: python -m retally_router.openapi_document > openapi.json   (in the package's folder)
"""

from __future__ import annotations

import json
import sys
from typing import Any

from fastapi import FastAPI

from retally_router.api import routes_of
from retally_router.hot_path import ENDPOINTS
from retally_router.market_api import MarketApi
from retally_router.openapi_bodies import BODIES, ENVELOPE, HEADERS, PARAMETERS
from retally_router.responses_path import RESPONSES

Json = dict[str, Any]


def made_document() -> Json:
    """The document, from the routes' own signatures; their parts are not needed to read them."""
    nothing: Any = None
    market = MarketApi(nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing)
    app = FastAPI(title="retally router")
    for route in routes_of(nothing, nothing, market, nothing, nothing):
        in_front = route.path in (*ENDPOINTS, RESPONSES)
        app.add_api_route(
            route.path,
            route.handler,
            methods=[route.method],
            status_code=route.status,
            name=route.path if in_front else None,
            summary=BODIES[route.path]["summary"] if in_front else None,
        )
    return _completed(app.openapi())


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


if __name__ == "__main__":
    json.dump(made_document(), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")

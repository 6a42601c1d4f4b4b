"""A route of the app: its parameters are read by the handler's own signature, and refused in the envelope."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, compile_path

from retally.errors import BadRequest

Handler = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class ServedRoute:
    """What is served where; the handler returns JSON or a response, and takes the request or parameters by name."""

    method: str
    path: str
    handler: Handler
    status: int = 200

    def for_starlette(self) -> Route:
        """The route as Starlette has it."""
        in_path = set(compile_path(self.path)[2])
        parameters = inspect.signature(self.handler, eval_str=True).parameters.values()
        readers = [_reader(parameter, in_path) for parameter in parameters]

        async def endpoint(request: Request) -> Response:
            found = await self.handler(**{name: read(request) for name, read in readers})
            return found if isinstance(found, Response) else JSONResponse(found, self.status)

        return Route(self.path, endpoint, methods=[self.method])


def _reader(parameter: inspect.Parameter, in_path: set[str]) -> tuple[str, Callable[[Request], Any]]:
    name, kind = parameter.name, parameter.annotation
    if kind is Request:
        return name, lambda request: request

    def read(request: Request) -> Any:
        text = request.path_params[name] if name in in_path else request.query_params.get(name)
        if text is None:
            raise BadRequest(f"{name}: Field required", param=name)
        return _integer(name, text) if kind is int else text

    return name, read


def _integer(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise BadRequest(f"{name}: Input should be a valid integer", param=name) from error

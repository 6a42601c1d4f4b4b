"""Where a node listens, taken apart once."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from retally.errors import NodeUnavailable


@dataclass(frozen=True, slots=True)
class Origin:
    """Host, port and the path before all paths of a node's endpoint."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    prefix: str
    authority: str

    def head(self, method: str, path: str, request_id: str | None, size: int, traceparent: str = "") -> bytes:
        """A request's head."""
        named = f"x-request-id: {request_id}\r\n" if request_id else ""
        if traceparent:
            named += f"traceparent: {traceparent}\r\n"
        sized = f"content-type: application/json\r\ncontent-length: {size}\r\n" if method == "POST" else ""
        return f"{method} {self.prefix}{path} HTTP/1.1\r\nhost: {self.authority}\r\n{named}{sized}\r\n".encode()


@lru_cache(maxsize=4096)
def origin_of(endpoint: str) -> Origin:
    """The origin of an endpoint as the Registry has it; raises NodeUnavailable when it is no HTTP address."""
    try:
        if not endpoint.isascii() or any(not 33 <= ord(letter) <= 126 for letter in endpoint):
            raise ValueError("it has letters that no address has")
        parts = urlsplit(endpoint)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("it is no http or https address")
    except ValueError as error:
        raise NodeUnavailable(f"the endpoint {endpoint[:120]!r} can't be used: {error}") from error
    authority = parts.netloc.rpartition("@")[2]
    return Origin(parts.hostname, port, tls_of(parts.scheme), parts.path.rstrip("/"), authority)


def tls_of(scheme: str) -> ssl.SSLContext | None:
    """How connections of a scheme are secured: by the system's certificates, or not at all."""
    return _context() if scheme == "https" else None


@lru_cache(maxsize=1)
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()

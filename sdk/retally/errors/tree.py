"""The general errors, their HTTP status and their OpenAI shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any


class RetallyError(Exception):
    """Root of the tree: a message, a stable code, an HTTP status and what to do next."""

    code: str = "internal_error"
    hint: str = ""
    #: HTTP headers that an answer with this error carries.
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        hint: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details = dict(details or {})
        if code is not None:
            self.code = code
        if hint is not None:
            self.hint = hint

    @property
    def status(self) -> int:
        """HTTP status of the nearest class in the table."""
        return next(STATUS[cls] for cls in type(self).__mro__ if cls in STATUS)


class BadRequest(RetallyError):
    """The request is malformed or asks for something undefined."""

    code = "bad_request"
    hint = "change the request as the message says"


class Unauthorized(RetallyError):
    """The caller did not prove who it is."""

    code = "unauthorized"
    hint = "check the key or signature that the request carries"


class PaymentRequired(RetallyError):
    """The money for this request is not there."""

    code = "payment_required"
    hint = "deposit more, or raise the signer's cap"


class NotFound(RetallyError):
    """There is no such thing."""

    code = "not_found"
    hint = "check the name or id"


class Conflict(RetallyError):
    """The request contradicts what is already recorded."""

    code = "conflict"
    hint = "fetch what is recorded, or send a new request"


class PayloadTooLarge(RetallyError):
    """The body is larger than this service takes."""

    code = "payload_too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes", hint="send a smaller request")
        self.limit_bytes = limit_bytes


class RateLimited(RetallyError):
    """Too much at once; `retry_after` says when to come back."""

    code = "rate_limited"

    def __init__(
        self, message: str = "too many requests", *, retry_after: float = 1.0, param: str | None = None
    ) -> None:
        super().__init__(message, param=param, hint=f"retry in {retry_after:g} s")
        self.retry_after = retry_after


class UpstreamTimeout(RetallyError):
    """A node or the chain did not answer in time."""

    code = "upstream_timeout"
    hint = "retry the request"


class Unavailable(RetallyError):
    """The service can't do this now."""

    code = "unavailable"
    hint = "retry later"


class TransactionFailed(RetallyError):
    """A contract refused; its decoded custom error and operands are kept."""

    code = "transaction_failed"

    def __init__(
        self, error_name: str, error_args: Mapping[str, Any] | Sequence[Any] = (), tx_hash: str | None = None
    ) -> None:
        shown = (
            ", ".join(f"{k}={v}" for k, v in error_args.items())
            if isinstance(error_args, Mapping)
            else ", ".join(map(str, error_args))
        )
        super().__init__(f"{error_name}({shown})")
        self.error_name = error_name
        self.error_args = error_args
        self.tx_hash = tx_hash


class RemoteError(RetallyError):
    """What another service answered, kept with its status and code."""

    def __init__(
        self,
        remote_status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        hint: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code, hint=hint, details=details)
        self.remote_status = remote_status

    @property
    def status(self) -> int:
        """The status that the other service answered with."""
        return self.remote_status


STATUS: dict[type, int] = {
    RetallyError: 500,
    BadRequest: 400,
    Unauthorized: 401,
    PaymentRequired: 402,
    NotFound: 404,
    Conflict: 409,
    PayloadTooLarge: 413,
    RateLimited: 429,
    UpstreamTimeout: 504,
    Unavailable: 503,
    TransactionFailed: 502,
}

_TYPES: dict[int, str] = {
    401: "authentication_error",
    402: "payment_required_error",
    408: "timeout_error",
    429: "rate_limit_error",
    504: "timeout_error",
}


def openai_envelope(error: RetallyError) -> dict[str, Any]:
    """The error in the shape every OpenAI client understands, plus our hint."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    body: dict[str, Any] = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    if error.hint:
        body["hint"] = error.hint
    if error.details:
        body["details"] = error.details
    return {"error": body}


def error_of_envelope(status: int, body: object) -> RemoteError:
    """The error that another service sent, whatever shape its body has."""
    inner = body.get("error") if isinstance(body, dict) else None
    if not isinstance(inner, dict):
        return RemoteError(status, "remote_error", f"the service answered {status}")
    param, details = inner.get("param"), inner.get("details")
    return RemoteError(
        status,
        str(inner.get("code") or "remote_error"),
        str(inner.get("message") or f"the service answered {status}"),
        param=param if isinstance(param, str) else None,
        hint=str(inner.get("hint") or ""),
        details=details if isinstance(details, dict) else None,
    )

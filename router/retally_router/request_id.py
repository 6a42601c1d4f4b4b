"""The name of a request, in its response and in the logs."""

from __future__ import annotations

import os
from collections.abc import Mapping

REQUEST_ID = b"x-request-id"
MAX_REQUEST_ID = 128


def request_id_of(headers: Mapping[bytes, bytes]) -> str:
    """The client's id if it is fit for a header and a log line, else a new one."""
    given = headers.get(REQUEST_ID, b"")
    if given and len(given) <= MAX_REQUEST_ID and all(33 <= byte <= 126 for byte in given):
        return given.decode()
    return "req_" + os.urandom(12).hex()

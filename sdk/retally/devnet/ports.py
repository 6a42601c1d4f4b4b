"""Loopback ports: the familiar one when it is free, else the next."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from retally.errors import Unavailable

HOST = "127.0.0.1"
_TRIES = 200


class NoFreePort(Unavailable):
    """No loopback port is free near the wanted one."""

    code = "no_free_port"

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        super().__init__(f"no free port between {wanted} and {wanted + _TRIES} on {HOST}")


def free_port(wanted: int = 0, taken: Sequence[int] = ()) -> int:
    """A port nobody listens on: `wanted` or the next free one after it; any when `wanted` is 0."""
    if wanted == 0:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            return int(probe.getsockname()[1])
    for port in range(wanted, wanted + _TRIES):
        if port not in taken and is_free(port):
            return port
    raise NoFreePort(wanted)


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True

"""A router's settings once they were checked, with the key itself: what a worker needs to know."""

from __future__ import annotations

from typing import Literal

import msgspec


class CheckedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """As RouterSettings has them; the library that reads and checks those stays out of the worker."""

    rpc_url: str
    deployment: str
    key: str
    host: str
    log_level: str
    poll_seconds: float

    redis_url: str

    port: int
    server: Literal["asgi", "native"]
    share_port: bool
    replica: int
    lanes: int
    lane_lease_seconds: float
    max_body_bytes: int

    default_max_tokens: int
    request_lifetime_seconds: int
    first_byte_seconds: float
    idle_seconds: float
    connect_seconds: float
    chain_seconds: float
    client_seconds: float
    max_attempts: int
    max_continuations: int

    node_stale_seconds: float
    standing_seconds: float
    audited_owners: int
    require_calibration: bool
    breaker_failures: int
    breaker_seconds: float
    value_of_second: int
    otlp_endpoint: str
    trace_share: float
    hedge_share: float
    credit_lease_jobs: int
    trial_share: float
    trial_loss_cap: int

    def __repr__(self) -> str:
        # Not the fields: one of them is the key.
        return f"CheckedSettings({self.server} on {self.host}:{self.port})"

"""Everything a router can be told, checked at start: a TOML file, overridden by RETALLY_ROUTER_* variables."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from retally.service_settings import Port, Seconds, ServiceSettings


class RouterSettings(ServiceSettings):
    """A router's settings."""

    model_config = SettingsConfigDict(env_prefix="RETALLY_ROUTER_")

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", pattern="^(rediss?|unix)://.")

    port: Port = 8080
    server: Literal["asgi", "native"] = Field(default="asgi", description="uvicorn, or the router's own server")
    share_port: bool = Field(default=False, description="native: several processes may listen on the port")
    replica: int = Field(default=0, ge=0, lt=2**32)
    lanes: int = Field(default=64, ge=1, le=2**16, description="lanes that the replicas share out among themselves")
    lane_lease_seconds: Seconds = 10.0
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)

    default_max_tokens: int = Field(default=512, ge=1)
    request_lifetime_seconds: int = Field(default=3600, ge=60, le=6 * 86_400)
    first_byte_seconds: Seconds = 120.0
    idle_seconds: Seconds = 60.0
    connect_seconds: Seconds = 3.0
    chain_seconds: Seconds = Field(default=10.0, description="for what the chain is asked while a client waits")
    client_seconds: Seconds = Field(default=60.0, description="for a client to send its request, or to take a part")
    max_attempts: int = Field(default=3, ge=1, le=16, description="nodes tried before the first byte")
    max_continuations: int = Field(default=2, ge=0, le=8, description="nodes that may continue a broken stream")

    node_stale_seconds: Seconds = 5.0
    standing_seconds: Seconds = Field(default=5.0, description="how long what the chain said about a payer is trusted")
    audited_owners: int = Field(default=3, ge=1, description="owners whose nodes make a model auditable")
    require_calibration: bool = Field(default=True, description="route by default only to calibrated profiles")
    breaker_failures: int = Field(default=3, ge=1)
    breaker_seconds: Seconds = 10.0
    value_of_second: int = Field(default=150, ge=0, description="amount that a second of waiting is worth to a payer")
    otlp_endpoint: str = Field(
        default="", pattern="^(https?://.+)?$", description="an OpenTelemetry collector; needs `retally[otel]`"
    )
    trace_share: float = Field(default=1.0, ge=0, le=1, description="of the requests, told to the collector")
    hedge_share: float = Field(
        default=0.01, ge=0, le=0.1, description="of the jobs, sent to a second node while the first is late"
    )
    credit_lease_jobs: int = Field(
        default=32, ge=0, le=1000, description="jobs' worth of a payer's credit leased at once; 0 asks for each job"
    )
    trial_share: float = Field(default=0.015, ge=0, le=0.1, description="of the jobs, sent to nodes on probation")
    trial_loss_cap: int = Field(default=1_000_000, ge=0, description="amount at risk with one of them, and lost a day")

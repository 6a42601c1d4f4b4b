"""Everything a verifier can be told, checked at start: a TOML file, overridden by RETALLY_VERIFIER_* variables."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from retally.errors import BadRequest
from retally.protocol.encoding import parse_bytes32
from retally.service_settings import Port, Seconds, ServiceSettings


class VerifierSettings(ServiceSettings):
    """A verifier's settings."""

    model_config = SettingsConfigDict(env_prefix="RETALLY_VERIFIER_")

    port: Port = 8200
    public_url: str = Field(description="where jurors fetch evidence files")
    data_dir: Path
    model_dirs: tuple[Path, ...] = Field(description="models whose commits are audited")
    calibration_dir: Path
    profile_files: tuple[Path, ...] = Field(default=(), description="the exact ones of them are judged by equality")

    confirmations: int = Field(default=0, ge=0)
    replayers: int = Field(default=2, ge=2, description="nodes of other owners that score each answer")
    most_replayers: int = Field(default=5, ge=2, le=9, description="how many of them, where the first disagree")
    at_once: int = Field(default=8, ge=1, le=256, description="points judged, and scores bought of a node, at once")
    redis_url: str | None = Field(default=None, description="shares the judging of points with workers of the same key")
    lease_seconds: Seconds = Field(default=15, description="after which a dead leader's or worker's work is taken over")
    engine_url: str | None = Field(
        default=None, description="a vLLM of one's own: no case is opened that it does not bear out"
    )
    engine_profile: str | None = Field(
        default=None, description="the profile id that it runs under; else taken to be the accused node's"
    )
    max_price: int = Field(
        default=20_000_000,
        ge=0,
        lt=2**64,
        description="what a replay may cost per million tokens, in asset units: no node that asks for more is drawn on",
    )
    lane: int = Field(default=0, ge=0, lt=2**32)
    request_seconds: Seconds = 120
    patience_seconds: float = Field(
        default=60, ge=0, description="how long a silent node is asked before it is challenged"
    )

    withdraw_seconds: Seconds = Field(default=3600, description="how often pay and returned bonds are withdrawn")

    @field_validator("engine_profile")
    @classmethod
    def _is_an_id(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_bytes32("engine_profile", value)
            except BadRequest as error:
                raise ValueError(error.message) from error
        return value

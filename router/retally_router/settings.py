"""Everything a router can be told, checked at start: a TOML file, overridden by RETALLY_ROUTER_* variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class RouterSettings(BaseSettings):
    """A router's settings."""

    model_config = SettingsConfigDict(env_prefix="RETALLY_ROUTER_", frozen=True, extra="forbid", toml_file=None)

    rpc_url: str
    deployment: Path
    redis_url: str = "redis://127.0.0.1:6379/0"
    key_file: Path | None = None
    key_password_file: Path | None = None
    key: SecretStr | None = Field(default=None, description="raw key that signs assignments; only on chain 31337")

    host: str = "127.0.0.1"
    port: Port = 8080
    replica: int = Field(default=0, ge=0, lt=2**32)
    lanes: int = Field(default=64, ge=1, le=2**16, description="lanes that the replicas share out among themselves")
    lane_lease_seconds: Seconds = 10.0
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    log_level: str = "INFO"

    default_max_tokens: int = Field(default=512, ge=1)
    request_lifetime_seconds: int = Field(default=3600, ge=60, le=6 * 86_400)
    first_byte_seconds: Seconds = 120.0
    idle_seconds: Seconds = 60.0
    connect_seconds: Seconds = 3.0
    chain_seconds: Seconds = Field(default=10.0, description="for what the chain is asked while a client waits")
    client_seconds: Seconds = Field(default=60.0, description="for a client to send its request, or to take a part")
    max_attempts: int = Field(default=3, ge=1, le=16, description="nodes tried before the first byte")
    max_continuations: int = Field(default=2, ge=0, le=8, description="nodes that may continue a broken stream")

    poll_seconds: Seconds = 1.0
    node_stale_seconds: Seconds = 5.0
    standing_seconds: Seconds = Field(default=5.0, description="how long what the chain said about a payer is trusted")
    audited_owners: int = Field(default=3, ge=1, description="unrelated owners that make a model auditable")
    require_calibration: bool = Field(default=True, description="route by default only to calibrated profiles")
    breaker_failures: int = Field(default=3, ge=1)
    breaker_seconds: Seconds = 10.0
    value_of_second: int = Field(default=300, ge=0, description="amount that a second of waiting is worth to a payer")

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if (self.key_file is None) == (self.key is None):
            raise ValueError("set exactly one of key_file and key")
        if self.key_file is not None and self.key_password_file is None:
            raise ValueError("key_file needs key_password_file")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the TOML file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(path: Path) -> RouterSettings:
    """Settings of a TOML file; paths in it are relative to the file."""

    class FileSettings(RouterSettings):
        model_config = SettingsConfigDict(**{**RouterSettings.model_config, "toml_file": path})

    settings = FileSettings()  # type: ignore[call-arg]  # the sources supply the required fields
    base = path.resolve().parent
    places = ("deployment", "key_file", "key_password_file")
    resolved = {name: base / value for name in places if (value := getattr(settings, name)) is not None}
    return settings.model_copy(update=resolved)

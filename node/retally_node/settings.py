"""Everything a node can be told, checked at start: a TOML file, overridden by RETALLY_NODE_* variables."""

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
Amount = Annotated[int, Field(ge=0, lt=2**96)]
Price = Annotated[int, Field(ge=0, lt=2**64)]
Seconds = Annotated[float, Field(gt=0)]


class NodeSettings(BaseSettings):
    """A node's settings: amounts in the asset's smallest unit, prices per million tokens."""

    model_config = SettingsConfigDict(
        env_prefix="RETALLY_NODE_", frozen=True, extra="forbid", protected_namespaces=(), toml_file=None
    )

    rpc_url: str
    deployment: Path
    key_file: Path | None = None
    key_password_file: Path | None = None
    key: SecretStr | None = Field(default=None, description="raw hot key; only on chain 31337")

    host: str = "127.0.0.1"
    port: Port = 8100
    public_url: str | None = None
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    admin_token: SecretStr | None = None
    log_level: str = "INFO"

    engine_url: str = "http://127.0.0.1:8000"
    engine_command: tuple[str, ...] | None = Field(
        default=None, description="starts the engine; attach to one if unset"
    )
    start_engine: bool = Field(default=False, description="starts vLLM with the profile's flags")
    engine_start_seconds: Seconds = 300
    model_dir: Path
    data_dir: Path

    price_in: Price
    price_cached: Price
    price_out: Price
    max_context: int = Field(ge=16)
    max_running: int = Field(default=64, ge=1, description="segments decoded at once")
    max_waiting: int = Field(default=256, ge=0, description="segments admitted beyond those")
    offer_seconds: int = Field(default=3600, ge=60)
    chunk_tokens: int = Field(default=16, ge=1)

    credit_per_payer: Amount = 100_000_000
    credit_total: Amount = 1_000_000_000
    voucher_wait_seconds: Seconds = 20
    require_audit_consent: bool = False

    settle_interval_seconds: int = Field(default=86_400, ge=1)
    settle_at_expiry_seconds: int = Field(default=2 * 86_400, ge=0)
    poll_seconds: Seconds = 1.0
    standing_seconds: float = Field(
        default=2.0, ge=0, description="how long a payer's standing read on chain is trusted"
    )
    jury: bool = True
    calibration_dir: Path | None = None

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if (self.key_file is None) == (self.key is None):
            raise ValueError("set exactly one of key_file and key")
        if self.price_cached > self.price_in:
            raise ValueError("price_cached must not exceed price_in: cached tokens may only lower a fee")
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


def load_settings(path: Path) -> NodeSettings:
    """Settings of a TOML file; paths in it are relative to the file."""

    class FileSettings(NodeSettings):
        model_config = SettingsConfigDict(**{**NodeSettings.model_config, "toml_file": path})

    settings = FileSettings()  # type: ignore[call-arg]  # the sources supply the required fields
    base = path.resolve().parent
    places = ("deployment", "key_file", "key_password_file", "model_dir", "data_dir", "calibration_dir")
    resolved = {name: base / value for name in places if (value := getattr(settings, name)) is not None}
    return settings.model_copy(update=resolved)

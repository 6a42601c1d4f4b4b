"""Everything a verifier can be told, checked at start: a TOML file, overridden by RETALLY_VERIFIER_* variables."""

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


class VerifierSettings(BaseSettings):
    """A verifier's settings."""

    model_config = SettingsConfigDict(
        env_prefix="RETALLY_VERIFIER_", frozen=True, extra="forbid", protected_namespaces=(), toml_file=None
    )

    rpc_url: str
    deployment: Path
    key_file: Path | None = None
    key_password_file: Path | None = None
    key: SecretStr | None = Field(default=None, description="raw key; only on chain 31337")

    host: str = "127.0.0.1"
    port: Port = 8200
    public_url: str = Field(description="where jurors fetch evidence files")
    data_dir: Path
    model_dirs: tuple[Path, ...] = Field(description="models whose commits are audited")
    calibration_dir: Path
    log_level: str = "INFO"

    confirmations: int = Field(default=0, ge=0)
    poll_seconds: Seconds = 1.0
    replayers: int = Field(default=2, ge=2, description="nodes of other owners that score each answer")
    lane: int = Field(default=0, ge=0, lt=2**32)
    request_seconds: Seconds = 120
    patience_seconds: float = Field(
        default=60, ge=0, description="how long a silent node is asked before it is challenged"
    )

    withdraw_seconds: Seconds = Field(default=3600, description="how often pay and returned bonds are withdrawn")

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if (self.key_file is None) == (self.key is None):
            raise ValueError("set exactly one of key_file and key")
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


def load_settings(path: Path) -> VerifierSettings:
    """Settings of a TOML file; paths in it are relative to the file."""

    class FileSettings(VerifierSettings):
        model_config = SettingsConfigDict(**{**VerifierSettings.model_config, "toml_file": path})

    settings = FileSettings()  # type: ignore[call-arg]  # the sources supply the required fields
    base = path.resolve().parent
    places = ("deployment", "key_file", "key_password_file", "data_dir", "calibration_dir")
    resolved: dict[str, object] = {
        name: base / value for name in places if (value := getattr(settings, name)) is not None
    }
    resolved["model_dirs"] = tuple(base / folder for folder in settings.model_dirs)
    return settings.model_copy(update=resolved)

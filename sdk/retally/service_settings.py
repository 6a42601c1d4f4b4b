"""What every service is told alike: a TOML file, overridden by variables of the environment, checked at start."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from retally.errors import BadRequest

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
_HINT = "each service's folder has examples/complete.toml, which shows every setting"


class ServiceSettings(BaseSettings):
    """A service's chain, key and address; a service adds its own fields and the prefix of its variables."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", protected_namespaces=(), toml_file=None)

    rpc_url: str
    deployment: Path
    key_file: Path | None = None
    key_password_file: Path | None = None
    key: SecretStr | None = Field(default=None, description="raw key; only on chain 31337")

    host: str = "127.0.0.1"
    log_level: str = "INFO"
    poll_seconds: Seconds = 1.0

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

    @classmethod
    def load(cls, path: Path) -> Self:
        """Settings of a TOML file; paths in it are relative to the file. Raises BadRequest, which names each fault."""

        class FileSettings(cls):  # type: ignore[valid-type, misc]  # the file's place is known only now
            model_config = SettingsConfigDict(toml_file=path)

        if not path.is_file():
            raise BadRequest(f"there is no settings file {path}", hint=_HINT)
        try:
            settings: Self = FileSettings()
        except tomllib.TOMLDecodeError as error:
            raise BadRequest(f"{path} is no TOML: {error}", hint=_HINT) from error
        except ValidationError as error:
            raise BadRequest(f"{path}: {_faults(error)}", hint=_HINT) from error
        base = path.resolve().parent
        resolved = {name: _below(base, getattr(settings, name)) for name in cls.model_fields}
        return settings.model_copy(update={name: value for name, value in resolved.items() if value is not None})

    @classmethod
    def of_command_line(cls, prog: str, description: str) -> Self:
        """Settings of the file that `--config` names; ends the process with a message when they are no good."""
        parser = argparse.ArgumentParser(prog=prog, description=description)
        parser.add_argument("--config", type=Path, required=True, help="the TOML file of the settings")
        try:
            return cls.load(parser.parse_args().config)
        except BadRequest as error:
            parser.error(error.message)


def _faults(error: ValidationError) -> str:
    """What is wrong with which setting; never its value, which may be a key."""
    return "; ".join(
        f"{'.'.join(str(part) for part in fault['loc']) or 'settings'}: {fault['msg']}"
        for fault in error.errors(include_input=False, include_context=False, include_url=False)
    )


def _below(base: Path, value: object) -> Path | tuple[Path, ...] | None:
    if isinstance(value, Path):
        return base / value
    if isinstance(value, tuple) and value and all(isinstance(one, Path) for one in value):
        return tuple(base / one for one in value)
    return None

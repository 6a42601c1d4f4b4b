"""From settings to a worker: all that needs large libraries once, checking settings and opening the key's file."""

from __future__ import annotations

from typing import NoReturn

import msgspec

from retally.chain.deployment import Deployment
from retally.keystore import service_key
from retally.protocol.eip712 import SigningKey
from retally_router.checked_settings import CheckedSettings
from retally_router.settings import RouterSettings
from retally_router.worker import AS_JSON, MODULE, become_worker


def start(settings: RouterSettings, *, as_json: bool = False) -> NoReturn:
    """Opens the key, then goes on as the worker; `as_json` is how that tells an error."""
    deployment = Deployment.load(settings.deployment)
    key = service_key(settings, deployment.chain_id)
    become_worker(checked(settings, key), MODULE, *([AS_JSON] if as_json else []))


def checked(settings: RouterSettings, key: SigningKey) -> CheckedSettings:
    """What the worker needs of the settings, and the key that they name."""
    values = settings.model_dump(exclude={"key", "key_file", "key_password_file"})
    values |= {"deployment": str(settings.deployment.resolve()), "key": key.secret.hex()}
    return msgspec.convert(values, CheckedSettings)

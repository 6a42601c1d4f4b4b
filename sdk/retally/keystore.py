"""Keys at rest: Web3 Secret Storage files in one private folder."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from retally.errors import BadRequest, NotFound, Unauthorized
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Address, checksum_address

if TYPE_CHECKING:  # the command line opens keys without the settings' library
    from pydantic import SecretStr

SCRYPT_ITERATIONS = 1 << 17
DEVELOPMENT_CHAIN = 31337


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key file: its address and where it lies."""

    address: Address
    path: Path


class Keystore:
    """A folder of encrypted key files; nothing in it is readable without its password."""

    def __init__(self, folder: Path, *, iterations: int = SCRYPT_ITERATIONS) -> None:
        self.folder = folder
        self._iterations = iterations

    def list(self) -> list[StoredKey]:
        """The keys in this folder, oldest first."""
        found = []
        for path in sorted(self.folder.glob("UTC--*")):
            address = _read(path).get("address")
            if not isinstance(address, str):
                raise BadRequest(f"{path} does not say its address", hint="move it away, then: retally wallet import")
            found.append(StoredKey(checksum_address("0x" + address.removeprefix("0x")), path))
        return found

    def add(self, key: SigningKey, password: str) -> StoredKey:
        """Stores a key encrypted under the password."""
        with _same_recursion():
            from eth_keyfile.keyfile import create_keyfile_json

        content = create_keyfile_json(key.secret, password.encode(), kdf="scrypt", iterations=self._iterations)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        stamp = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime())
        path = self.folder / f"UTC--{stamp}--{key.address.removeprefix('0x').lower()}"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        return StoredKey(key.address, path)

    def find(self, address: str | None = None) -> StoredKey:
        """The key of that address; without an address, the only key there is."""
        keys = self.list()
        if address is not None:
            keys = [key for key in keys if key.address.lower() == address.lower()]
        if not keys:
            raise NotFound(
                f"no key {address or ''} in {self.folder}".replace("  ", " "), hint="create one: retally wallet create"
            )
        if len({key.address for key in keys}) > 1:
            raise BadRequest("several keys: say which one", param="address", hint="pass --address or RETALLY_ADDRESS")
        return keys[-1]

    def unlock(self, password: str, address: str | None = None) -> SigningKey:
        """Decrypts a key of this folder."""
        return unlock_file(self.find(address).path, password)


class KeySettings(Protocol):
    """Where a service's settings say its key is."""

    @property
    def key(self) -> SecretStr | None:
        """The raw key, on the development chain alone."""

    @property
    def key_file(self) -> Path | None:
        """A Web3 Secret Storage file."""

    @property
    def key_password_file(self) -> Path | None:
        """Its password, without the line's end."""


def service_key(settings: KeySettings, chain_id: int) -> SigningKey:
    """The key that a service signs with."""
    if settings.key is not None:
        if chain_id != DEVELOPMENT_CHAIN:
            raise BadRequest(
                f"raw keys are for chain {DEVELOPMENT_CHAIN} only, this is {chain_id}", hint="use key_file"
            )
        return key_from_hex(settings.key.get_secret_value())
    if settings.key_file is None or settings.key_password_file is None:
        raise BadRequest("key_file needs key_password_file", param="key_file")
    return unlock_file(settings.key_file, settings.key_password_file.read_text(encoding="utf-8").rstrip("\r\n"))


def unlock_file(path: Path, password: str) -> SigningKey:
    """Decrypts one Web3 Secret Storage file."""
    with _same_recursion():
        from eth_keyfile.keyfile import decode_keyfile_json

    content = _read(path)
    try:
        return SigningKey(decode_keyfile_json(dict(content), password.encode()))
    except ValueError as error:
        raise Unauthorized(f"wrong password for {path.name}", code="wrong_password") from error
    except (KeyError, TypeError, AttributeError, NotImplementedError) as error:
        raise BadRequest(f"{path} is not a key file", hint="expected Web3 Secret Storage JSON") from error


def key_from_hex(text: str) -> SigningKey:
    """A raw key from its 64 hex digits; one that was cut off would be another key."""
    digits = text.strip().removeprefix("0x")
    try:
        if len(digits) != 64:
            raise ValueError(len(digits))
        return SigningKey.from_hex(digits)
    except ValueError as error:
        raise BadRequest("this is no private key", hint="64 hex digits, with or without 0x") from error


@contextmanager
def _same_recursion() -> Iterator[None]:
    """Leaves Python's bound as it was; a library under this one raises it, and deep JSON then ends the process."""
    limit = sys.getrecursionlimit()
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise NotFound(f"no key file {path}") from error
    except OSError as error:
        raise BadRequest(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{path} is not a key file", hint="expected Web3 Secret Storage JSON") from error
    if not isinstance(content, dict) or "crypto" not in {str(name).lower() for name in content}:
        raise BadRequest(f"{path} is not a key file", hint="expected Web3 Secret Storage JSON")
    return content

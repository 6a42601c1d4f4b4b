"""API keys: capped session signers that the router holds encrypted under the key itself.

Redis alone spends nothing: a session's secret is readable only with the API key that its client presents.
"""

from __future__ import annotations

import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from retally.crash_points import crash_point
from retally.errors import NotFound, Unauthorized
from retally.protocol.eip712 import Address, Domain, SigningKey
from retally.protocol.encoding import to_hex
from retally.protocol.key_limits import KeyLimits
from retally.protocol.voucher import SignerAuth

NO_LIMITS = KeyLimits()
PREFIX = "rtl"
OPENED_KEYS = 10_000
RECHECK_SECONDS = 2.0


class KeyRecord(msgspec.Struct, frozen=True):
    """What Redis keeps of a key."""

    key_id: str
    payer: str
    signer: str
    cap: str
    expiry: int
    deadline: int
    created_at: int
    nonce: bytes
    sealed: bytes
    limits: dict[str, str] = {}

    def view(self) -> dict[str, Any]:
        """The record without anything secret."""
        return {
            "keyId": self.key_id,
            "payer": self.payer,
            "signer": self.signer,
            "cap": self.cap,
            "expiry": self.expiry,
            "deadline": self.deadline,
            "createdAt": self.created_at,
            "limits": self.limits,
        }


@dataclass(frozen=True, slots=True)
class Session:
    """An opened key: who pays, and the key that signs for it."""

    key_id: str
    payer: Address
    signing_key: SigningKey
    cap: int
    expiry: int
    limits: KeyLimits = NO_LIMITS

    @property
    def signer(self) -> Address:
        """The session signer's address."""
        return self.signing_key.address


class Keys:
    """Creates, opens, lists and forgets API keys."""

    def __init__(self, redis: Any, domain: Domain) -> None:
        self._redis = redis
        self._domain = domain
        self._opened: OrderedDict[str, tuple[float, Session]] = OrderedDict()

    async def create(
        self, payer: Address, cap: int, expiry: int, deadline: int, now: int, limits: KeyLimits = NO_LIMITS
    ) -> dict[str, Any]:
        """Makes a session signer; the answer holds the API key, which nobody can show again."""
        signer, key_id, secret = SigningKey.generate(), secrets.token_hex(8), secrets.token_bytes(32)
        auth = SignerAuth(payer, signer.address, cap, expiry, deadline)
        nonce = secrets.token_bytes(12)
        sealed = _cipher(secret, key_id).encrypt(nonce, signer.secret, _bound(key_id, payer, signer.address))
        record = KeyRecord(
            key_id, payer, signer.address, str(cap), expiry, deadline, now, nonce, sealed, limits.to_wire()
        )
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(_record_key(key_id), msgspec.msgpack.encode(record))
            pipe.sadd(_index_key(payer), key_id)
            crash_point("before:key")
            await pipe.execute()
            crash_point("after:key")
        text = f"{PREFIX}-{key_id}-{urlsafe_b64encode(secret).decode().rstrip('=')}"
        proof = to_hex(signer.sign(auth.digest(self._domain)))
        return {"apiKey": text, **record.view(), "proof": proof}

    async def open(self, api_key: str) -> Session:
        """The session behind an API key; raises Unauthorized."""
        known = self._opened.get(api_key)
        if known is not None and known[0] > time.monotonic():
            self._opened.move_to_end(api_key)
            return known[1]
        session = await self._open(api_key)
        self._opened[api_key] = (time.monotonic() + RECHECK_SECONDS, session)
        while len(self._opened) > OPENED_KEYS:
            self._opened.popitem(last=False)
        return session

    async def list(self, payer: Address) -> list[dict[str, Any]]:
        """A payer's keys, without secrets."""
        ids = sorted(key_id.decode() for key_id in await self._redis.smembers(_index_key(payer)))
        found = [await self._redis.get(_record_key(key_id)) for key_id in ids]
        return [msgspec.msgpack.decode(raw, type=KeyRecord).view() for raw in found if raw is not None]

    async def payer_of(self, key_id: str) -> Address:
        """Whose key it is."""
        raw = await self._redis.get(_record_key(key_id))
        if raw is None:
            raise NotFound(f"there is no key {key_id}", param="keyId", hint="list the keys with GET /retally/v1/keys")
        return Address(msgspec.msgpack.decode(raw, type=KeyRecord).payer)

    async def revoke(self, key_id: str, payer: Address) -> None:
        """Forgets a key; the chain still has to revoke its signer."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.delete(_record_key(key_id))
            pipe.srem(_index_key(payer), key_id)
            crash_point("before:revoke")
            await pipe.execute()
            crash_point("after:revoke")
        gone = [api_key for api_key, (_, session) in self._opened.items() if session.key_id == key_id]
        for api_key in gone:
            del self._opened[api_key]

    async def _open(self, api_key: str) -> Session:
        key_id, secret = _parse(api_key)
        raw = await self._redis.get(_record_key(key_id))
        if raw is None:
            raise _unknown()
        record = msgspec.msgpack.decode(raw, type=KeyRecord)
        bound = _bound(key_id, record.payer, record.signer)
        try:
            plain = _cipher(secret, key_id).decrypt(record.nonce, record.sealed, bound)
        except InvalidTag as error:
            raise _unknown() from error
        limits = KeyLimits.from_wire(record.limits)
        return Session(key_id, Address(record.payer), SigningKey(plain), int(record.cap), record.expiry, limits)


def _unknown() -> Unauthorized:
    hint = "create a key with `retally keys create`"
    return Unauthorized("the API key is unknown or revoked", code="invalid_api_key", hint=hint)


def _parse(api_key: str) -> tuple[str, bytes]:
    prefix, _, rest = api_key.partition("-")
    key_id, _, text = rest.partition("-")
    try:
        secret = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise _unknown() from error
    if prefix != PREFIX or len(key_id) != 16 or not key_id.isalnum() or len(secret) != 32:
        raise _unknown()
    return key_id, secret


def _cipher(secret: bytes, key_id: str) -> AESGCM:
    derived = HKDF(algorithm=SHA256(), length=32, salt=key_id.encode(), info=b"retally/session-signer").derive(secret)
    return AESGCM(derived)


def _bound(key_id: str, payer: str, signer: str) -> bytes:
    return f"{key_id}|{payer}|{signer}".encode()


def _record_key(key_id: str) -> str:
    return f"retally:key:{key_id}"


def _index_key(payer: str) -> str:
    return f"retally:{{{payer}}}:keys"

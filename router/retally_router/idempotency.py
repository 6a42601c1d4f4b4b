"""Answers by Idempotency-Key: asked again with the same body, the stored answer; nothing is made or paid twice.

What is stored is readable only with the credential that asked: Redis alone, or a copy of it, shows no answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from retally.errors import BadRequest, Conflict
from retally_router.begun_job import BegunJob
from retally_router.store_errors import StoreError

MAX_KEY = 255
KEEP_SECONDS = 86_400
# A router that dies holds its requests up for so long; one that lives renews the claim.
CLAIM_SECONDS = 15
# What a router had begun is known for so long after its death.
BEGUN_SECONDS = 300
LARGEST_ANSWER = 8 * 1024 * 1024

_DROP = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('EXPIRE', KEYS[1], ARGV[2]) end return 0"
# A router that stalled beyond its claim must not touch what its successor notes. Keys: the claim, the note.
_BEGIN = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
return 1
"""
_FORGET = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[2]) end return 0"
_KEEP = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
redis.call('DEL', KEYS[2])
return 1
"""


class StoredAnswer(msgspec.Struct, frozen=True):
    """A whole answer; without a body when it was too large to keep."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | None


class _Entry(msgspec.Struct, frozen=True):
    """What Redis holds under a key: whose body it is for, and the sealed answer once there is one."""

    digest: bytes
    holder: bytes
    nonce: bytes = b""
    sealed: bytes = b""


def key_of_header(value: bytes) -> bytes:
    """The header's value, if it is fit to be a key."""
    if not 0 < len(value) <= MAX_KEY or not all(33 <= byte <= 126 for byte in value):
        message = f"an Idempotency-Key is 1 to {MAX_KEY} printable characters without spaces"
        raise BadRequest(message, param="Idempotency-Key", hint="use a fresh UUID for each request")
    return value


@dataclass(frozen=True, slots=True)
class Claim:
    """One key of one caller with one body, held by one request while its answer is made."""

    place: str
    secret: bytes
    raw: bytes
    digest: bytes


class IdempotentAnswers:
    """The store: one answer for each caller and key."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    async def claim(self, credential: bytes, key: bytes, path: bytes, body: bytes) -> Claim | StoredAnswer:
        """The right to make the answer, or the answer that was made; raises Conflict while it is being made."""
        digest = hashlib.sha256(path + b"\0" + body).digest()
        # Under a hash tag of its own: a Redis Cluster spreads the answers.
        name = hashlib.sha256(b"retally/idempotency\0" + credential + b"\0" + key).hexdigest()
        place = f"retally:idempotent:{{{name}}}"
        secret = hashlib.sha256(b"retally/idempotent-answer\0" + credential + b"\0" + key).digest()
        raw = msgspec.msgpack.encode(_Entry(digest, secrets.token_bytes(16)))
        if await self._redis.set(place, raw, nx=True, ex=CLAIM_SECONDS):
            return Claim(place, secret, raw, digest)
        known = await self._redis.get(place)
        if known is None:
            return await self.claim(credential, key, path, body)
        return self._stored(msgspec.msgpack.decode(known, type=_Entry), secret, digest)

    async def keep(self, claim: Claim, answer: StoredAnswer) -> None:
        """Stores the whole answer in the claim's place, unless another router took the claim over."""
        if len(answer.body or b"") > LARGEST_ANSWER:
            answer = StoredAnswer(answer.status, answer.headers, None)
        nonce = secrets.token_bytes(12)
        sealed = AESGCM(claim.secret).encrypt(nonce, msgspec.msgpack.encode(answer), claim.digest)
        entry = _Entry(claim.digest, b"", nonce, sealed)
        keys = (claim.place, _begun_key(claim))
        await self._redis.eval(_KEEP, 2, *keys, claim.raw, msgspec.msgpack.encode(entry), KEEP_SECONDS)

    async def begin(self, claim: Claim, job: BegunJob) -> None:
        """Notes which job is made for the claim, and where, before its node gets it; raises once it is another's."""
        nonce = secrets.token_bytes(12)
        sealed = AESGCM(claim.secret).encrypt(nonce, msgspec.msgpack.encode(job), _bound_to(claim))
        keys = (claim.place, _begun_key(claim))
        if not await self._redis.eval(_BEGIN, 2, *keys, claim.raw, nonce + sealed, BEGUN_SECONDS):
            hint = "retry in a second: another router makes the answer by now"
            raise Conflict("this router was too slow for the request", code="idempotency_in_flight", hint=hint)

    async def begun(self, claim: Claim) -> BegunJob | None:
        """What a router that died, or one that could not say how it ended, had begun for the same request."""
        found = await self._redis.get(_begun_key(claim))
        if found is None:
            return None
        try:
            plain = AESGCM(claim.secret).decrypt(found[:12], found[12:], _bound_to(claim))
        except InvalidTag:
            # Of another body under this key: that request ended without an answer, and this one is not it.
            return None
        return msgspec.msgpack.decode(plain, type=BegunJob)

    async def forget(self, claim: Claim) -> None:
        """Forgets what was begun: its end is known here."""
        with contextlib.suppress(StoreError):
            await self._redis.eval(_FORGET, 2, claim.place, _begun_key(claim), claim.raw)

    async def give_up(self, claim: Claim) -> None:
        """Frees the key: nothing was made that a repetition may not make again."""
        with contextlib.suppress(StoreError):
            await self._redis.eval(_DROP, 1, claim.place, claim.raw)

    async def renew(self, claim: Claim) -> None:
        """Keeps the claim for as long as this is awaited."""
        while True:
            await asyncio.sleep(CLAIM_SECONDS / 3)
            with contextlib.suppress(StoreError):
                await self._redis.eval(_RENEW, 1, claim.place, claim.raw, CLAIM_SECONDS)
                await self._redis.expire(_begun_key(claim), BEGUN_SECONDS)

    def _stored(self, entry: _Entry, secret: bytes, digest: bytes) -> StoredAnswer:
        if entry.digest != digest:
            hint = "use a fresh Idempotency-Key for another request"
            message = "this Idempotency-Key came with another body before"
            raise BadRequest(message, param="Idempotency-Key", code="idempotency_key_reused", hint=hint)
        if not entry.sealed:
            hint = "retry in a second: the stored answer will come"
            raise Conflict("the first request with this Idempotency-Key runs", code="idempotency_in_flight", hint=hint)
        try:
            plain = AESGCM(secret).decrypt(entry.nonce, entry.sealed, digest)
        except InvalidTag as error:
            raise Conflict("the stored answer can't be read", code="idempotent_answer_unreadable") from error
        answer = msgspec.msgpack.decode(plain, type=StoredAnswer)
        if answer.body is None:
            message = f"the answer was larger than the {LARGEST_ANSWER} bytes that are kept"
            raise Conflict(message, code="idempotent_answer_too_large", hint="its receipts are at GET /v1/receipts")
        return answer


def _begun_key(claim: Claim) -> str:
    return claim.place.replace("idempotent", "begun", 1)


def _bound_to(claim: Claim) -> bytes:
    return b"begun" + claim.digest

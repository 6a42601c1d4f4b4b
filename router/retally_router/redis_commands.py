"""The commands of Redis that the router uses, by the names that redis-py gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retally_router.resp import Part


class Commands:
    """The commands, on whatever carries them out."""

    def _call(self, *parts: Part) -> Any:
        raise NotImplementedError

    def ping(self) -> Any:
        """PING."""
        return self._call("PING")

    def get(self, key: str) -> Any:
        """GET."""
        return self._call("GET", key)

    def mget(self, *keys: str) -> Any:
        """MGET."""
        return self._call("MGET", *keys)

    def set(self, key: str, value: Part, *, nx: bool = False, ex: int | None = None) -> Any:
        """SET, for so many seconds if they are given; with `nx` only where nothing is, else the reply is None."""
        return self._call("SET", key, value, *(("NX",) if nx else ()), *(() if ex is None else ("EX", ex)))

    def delete(self, key: str) -> Any:
        """DEL."""
        return self._call("DEL", key)

    def expire(self, key: str, seconds: int) -> Any:
        """EXPIRE."""
        return self._call("EXPIRE", key, seconds)

    def hset(
        self, key: str, field: str | None = None, value: Part = b"", mapping: Mapping[str, Part] | None = None
    ) -> Any:
        """HSET of one field or of several."""
        pairs: list[Part] = [] if field is None else [field, value]
        for name, each in (mapping or {}).items():
            pairs += [name, each]
        return self._call("HSET", key, *pairs)

    def hdel(self, key: str, *fields: str) -> Any:
        """HDEL."""
        return self._call("HDEL", key, *fields)

    def hmget(self, key: str, *fields: str) -> Any:
        """HMGET."""
        return self._call("HMGET", key, *fields)

    def hkeys(self, key: str) -> Any:
        """HKEYS."""
        return self._call("HKEYS", key)

    def lpush(self, key: str, value: Part) -> Any:
        """LPUSH."""
        return self._call("LPUSH", key, value)

    def ltrim(self, key: str, first: int, last: int) -> Any:
        """LTRIM."""
        return self._call("LTRIM", key, first, last)

    def lrange(self, key: str, first: int, last: int) -> Any:
        """LRANGE."""
        return self._call("LRANGE", key, first, last)

    def eval(self, script: str, count: int, *parts: Part) -> Any:
        """EVAL, with so many keys first."""
        return self._call("EVAL", script, count, *parts)

    def sadd(self, key: str, member: Part) -> Any:
        """SADD."""
        return self._call("SADD", key, member)

    def srem(self, key: str, member: Part) -> Any:
        """SREM."""
        return self._call("SREM", key, member)

    def smembers(self, key: str) -> Any:
        """SMEMBERS."""
        return self._call("SMEMBERS", key)

"""redis-py's client, for what the joined one does not speak: TLS, sockets of files, options in the URL.

redis-py is some ten megabytes in a process: it is loaded only where such a URL is set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from retally_router.redis_commands import Commands
from retally_router.resp import Part
from retally_router.store_errors import StoreError, StoreRefused, StoreTimeout, StoreUnreachable


class PlainRedis(Commands):
    """The store by redis-py, with the router's own errors."""

    def __init__(self, url: str, seconds: float) -> None:
        from redis.asyncio import Redis

        self._redis: Any = Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds)

    async def _call(self, *parts: Part) -> Any:
        with _own_errors():
            return await self._redis.execute_command(*parts)

    async def hgetall(self, key: str) -> dict[bytes, bytes]:
        """HGETALL."""
        return dict(await self._call("HGETALL", key))

    def pipeline(self, *, transaction: bool) -> PlainPipeline:
        """Commands that leave together."""
        return PlainPipeline(self._redis.pipeline(transaction=transaction))

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._redis.aclose()


class PlainPipeline(Commands):
    """Commands that leave together."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pipe.reset()

    def _call(self, *parts: Part) -> Self:
        self._pipe.execute_command(*parts)
        return self

    async def execute(self) -> list[Any]:
        """Sends them; raises the first error, after all were answered."""
        with _own_errors():
            return list(await self._pipe.execute())


@contextmanager
def _own_errors() -> Iterator[None]:
    from redis import exceptions

    try:
        yield
    except exceptions.TimeoutError as error:
        raise StoreTimeout(str(error)) from error
    except exceptions.ConnectionError as error:
        raise StoreUnreachable(str(error)) from error
    except exceptions.ResponseError as error:
        raise StoreRefused(str(error)) from error
    except exceptions.RedisError as error:
        raise StoreError(str(error)) from error

"""The store's client: the same answers as redis-py's, joined writes, and errors where Redis fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from tests.router_world import database_url

from retally.devnet.redis_server import RedisServer
from retally_router.joined_redis import JoinedRedis, open_store
from retally_router.plain_redis import PlainRedis
from retally_router.resp import Replies
from retally_router.store_errors import StoreError, StoreRefused, StoreTimeout, StoreUnreachable

DATABASE = 6


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[JoinedRedis]:
    url = database_url(redis_url, DATABASE)
    async with Redis.from_url(url) as redis:
        await redis.flushdb()
    opened = open_store(url, 5.0)
    assert isinstance(opened, JoinedRedis)
    yield opened
    await opened.aclose()


class TestCommands:
    async def test_answer_as_redis_py_does(self, store: JoinedRedis, redis_url: str) -> None:
        async with Redis.from_url(database_url(redis_url, DATABASE)) as plain:
            for client in (store, plain):
                await client.delete("h")
                await client.hset("h", "a", 1)
                await client.hset("h", mapping={"b": b"\r\n\x00", "c": "ü"})
                await client.set("k", "v", ex=9)
                assert await client.hgetall("h") == {b"a": b"1", b"b": b"\r\n\x00", b"c": "ü".encode()}
                assert await client.hmget("h", "a", "zz") == [b"1", None]
                assert sorted(await client.hkeys("h")) == [b"a", b"b", b"c"]
                assert await client.get("nothing") is None
                assert await client.eval("return {1, redis.call('GET', KEYS[1]), ARGV[1]}", 1, "k", 5) == [
                    1,
                    b"v",
                    b"5",
                ]
                async with client.pipeline(transaction=False) as pipe:
                    pipe.lpush("l", "x")
                    pipe.ltrim("l", 0, 0)
                    assert len(await pipe.execute()) == 2
                assert await client.lrange("l", 0, -1) == [b"x"]

    async def test_of_one_turn_are_answered_in_order(self, store: JoinedRedis) -> None:
        asks = [store.eval("return ARGV[1]", 0, number) for number in range(500)]
        assert await asyncio.gather(*asks) == [str(number).encode() for number in range(500)]

    async def test_one_that_was_given_up_takes_nobody_elses_answer(self, store: JoinedRedis) -> None:
        await store.set("a", 1)
        await store.set("b", 2)
        first = asyncio.ensure_future(store.get("a"))
        second = store.get("b")
        first.cancel()
        assert await second == b"2"

    async def test_a_wrong_one_raises_and_the_next_works(self, store: JoinedRedis) -> None:
        await store.set("a", 1)
        with pytest.raises(StoreRefused, match="WRONGTYPE"):
            await store.hkeys("a")
        assert await store.get("a") == b"1"


class TestOtherClient:
    """redis-py's, where the URL asks for what the joined one does not speak."""

    @pytest.fixture
    async def plain(self, redis_url: str) -> AsyncIterator[PlainRedis]:
        url = database_url(redis_url, DATABASE)
        async with Redis.from_url(url) as redis:
            await redis.flushdb()
        opened = open_store(f"{url}?health_check_interval=30", 5.0)
        assert isinstance(opened, PlainRedis)
        yield opened
        await opened.aclose()

    async def test_answers_alike(self, plain: PlainRedis) -> None:
        await plain.hset("h", mapping={"b": b"\r\n\x00", "c": "ü"})
        assert await plain.hgetall("h") == {b"b": b"\r\n\x00", b"c": "ü".encode()}
        assert await plain.set("k", "v", ex=9)
        assert not await plain.set("k", "w", nx=True)
        assert await plain.eval("return {1, redis.call('GET', KEYS[1]), ARGV[1]}", 1, "k", 5) == [1, b"v", b"5"]
        async with plain.pipeline(transaction=False) as pipe:
            pipe.lpush("l", "x")
            pipe.sadd("s", "y")
            assert await pipe.execute() == [1, 1]
        assert list(await plain.smembers("s")) == [b"y"]

    async def test_its_errors_are_the_stores(self, plain: PlainRedis) -> None:
        await plain.set("a", 1)
        with pytest.raises(StoreRefused, match="WRONGTYPE"):
            await plain.hkeys("a")
        async with plain.pipeline(transaction=False) as pipe:
            pipe.hkeys("a")
            with pytest.raises(StoreRefused, match="WRONGTYPE"):
                await pipe.execute()

    async def test_nobody_listens(self) -> None:
        store = open_store("redis://127.0.0.1:9/0?health_check_interval=30", 1.0)
        with pytest.raises(StoreUnreachable):
            await store.ping()
        await store.aclose()

    async def test_silence_is_a_time_out(self) -> None:
        async with talking(b"") as url:
            store = open_store(f"{url}?retry_on_timeout=false", 0.1)
            with pytest.raises(StoreTimeout):
                await store.ping()
            await store.aclose()


class TestFailures:
    async def test_nobody_listens(self) -> None:
        store = JoinedRedis("redis://127.0.0.1:9/0", 1.0)
        with pytest.raises(StoreUnreachable, match="can't be reached"):
            await store.ping()

    async def test_comes_back_with_its_server(self, tmp_path: Path) -> None:
        server = RedisServer(tmp_path / "redis", mark=str(tmp_path))
        await server.start()
        store = JoinedRedis(server.url, 1.0)
        try:
            await store.ping()
            await server.stop()
            with pytest.raises(StoreError):
                await store.ping()
            await server.start()
            assert await store.ping() == b"PONG"
        finally:
            await store.aclose()
            await server.stop()

    async def test_silence_is_a_time_out_and_a_new_connection(self) -> None:
        async with talking(b"") as url:
            store = JoinedRedis(url, 0.1)
            for _ in range(2):
                with pytest.raises(StoreTimeout):
                    await store.ping()
            await store.aclose()

    @pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+PONG\r\n+PONG\r\n", b"$x\r\n"])
    async def test_what_is_no_redis_is_left(self, said: bytes) -> None:
        async with talking(said) as url:
            store = JoinedRedis(url, 0.5)
            found = await asyncio.gather(store.ping(), return_exceptions=True)
            assert isinstance(found[0], StoreError) or found == [b"PONG"]
            await store.aclose()

    @pytest.mark.parametrize("change", [("redis://", "redis://:wrong@"), ("/0", "/99")])
    async def test_nothing_runs_after_a_refused_greeting(self, redis_url: str, change: tuple[str, str]) -> None:
        store = JoinedRedis(redis_url.replace(*change), 1.0)
        with pytest.raises(StoreError):
            await store.set("stray", 1)
        await store.aclose()
        async with Redis.from_url(redis_url) as redis:
            assert await redis.get("stray") is None


class TestReplies:
    def test_may_come_in_any_pieces(self) -> None:
        raw = b"*3\r\n$5\r\nhello\r\n:7\r\n*-1\r\n+OK\r\n$-1\r\n"
        for step in range(1, len(raw)):
            replies, found = Replies(), []
            for at in range(0, len(raw), step):
                found += replies.feed(raw[at : at + step])
            assert found == [[b"hello", 7, None], b"OK", None]


@asynccontextmanager
async def talking(said: bytes) -> AsyncIterator[str]:
    """A server that says that to whatever comes."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read(1)
        writer.write(said)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        for writer in writers:
            writer.close()
        server.close()

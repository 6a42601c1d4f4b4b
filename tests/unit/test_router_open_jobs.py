"""What is on record of jobs that still run, where it can't be read."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs
from tests.fakes_router import FakeNode
from tests.router_world import check_error, router_world

from retally_router.credit_keys import open_key

WITHOUT_SIGNER = (
    b'{"job_id":"0x00","request":{},"node":"","endpoint":"","model":"","offer":{},"lane":0,'
    b'"prompt_tokens_at_most":0,"segments":[]}'
)


@pytest.mark.parametrize("raw", [b"", b"{}", b"{", b"\xff", b'"\xff"', b'{"job_id":7}', b"[]"])
async def test_an_unreadable_one_is_named_and_kept_and_its_payer_is_served_once_it_is_gone(
    redis_url: str, raw: bytes
) -> None:
    async with router_world(redis_url, [FakeNode("a")]) as world:
        place = open_key(world.payer.address)
        await world.redis.hset(place, "0xaa:a:0", raw)
        with capture_logs() as said:
            error = check_error(await world.ask(), 503, "unavailable")
        assert "0xaa:a:0" in error["message"]
        assert [line["place"] for line in said if line["event"] == "open_job_unreadable"] == ["0xaa:a:0"]
        assert await world.redis.hgetall(place) == {b"0xaa:a:0": raw}
        await world.redis.delete(place)
        assert (await world.ask()).status_code == 200
        assert await world.settled()


async def test_one_without_a_signer_is_nobodys(redis_url: str) -> None:
    async with router_world(redis_url, [FakeNode("a")]) as world:
        await world.redis.hset(open_key(world.payer.address), "0x00:a:0", WITHOUT_SIGNER)
        assert (await world.ask()).status_code == 200
        assert await world.settled()

"""What Redis spends on one job's hold, promise and release, by how many jobs of its payer are open.

Redis' own count of the microseconds in scripts, over a Redis of this script's; nothing of the router.
Usage: scripts/bench_credit [--open N ...] [--jobs N] [--lease-jobs N] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from retally.devnet.redis_server import RedisServer
from retally.protocol.eip712 import Address, SigningKey, keccak
from retally.protocol.voucher import ChannelId
from retally_router.credit import Credit
from retally_router.earmarks import Ask
from retally_router.joined_redis import open_store
from retally_router.ports import Standing

PAYER, SIGNER, NODE = (SigningKey(keccak(name)).address for name in (b"payer", b"session", b"node"))
OPEN = (0, 100, 1000, 10_000)


async def rich(payer: Address, signer: Address, fresh: bool) -> Standing:
    """Funds for everything."""
    return Standing(2**50, 0, 2**50, 2**40)


async def spent(redis: Any) -> int:
    """Microseconds so far in scripts."""
    return int((await redis.info("commandstats"))["cmdstat_evalsha"]["usec"])


async def job(credit: Credit, name: str) -> None:
    """One job's three writes."""
    await credit.hold(PAYER, SIGNER, name, 100)
    await credit.promise(ChannelId(PAYER, SIGNER, NODE, 0), [Ask(name, name, 100, is_own=True)])
    await credit.release(PAYER, name)


async def measure(opened: list[int], jobs: int, lease_jobs: int) -> dict[str, Any]:
    """Microseconds a job, by the number of open holds; leased in blocks of so many jobs, or not with 0."""
    with tempfile.TemporaryDirectory(prefix="retally-credit-") as folder:
        server = RedisServer(Path(folder), mark=folder)
        await server.start()
        try:
            store = open_store(server.url, 5.0)
            async with Redis.from_url(server.url) as redis:
                return {str(count): await measure_one(redis, store, count, jobs, lease_jobs) for count in opened}
        finally:
            await server.stop()


async def measure_one(redis: Any, store: Any, opened: int, jobs: int, lease_jobs: int) -> float:
    """The same with so many open."""
    await redis.flushdb()
    credit = Credit(store, rich, lease_jobs=lease_jobs)
    for number in range(opened):
        await credit.hold(PAYER, SIGNER, f"open{number}", 100)
    await job(credit, "first")
    before = await spent(redis)
    for number in range(jobs):
        await job(credit, str(number))
    return round((await spent(redis) - before) / jobs, 1)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--open", type=int, nargs="+", default=list(OPEN))
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--lease-jobs", type=int, default=0, help="the router's credit_lease_jobs; 0 asks for each job")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args()
    found = asyncio.run(measure(args.open, args.jobs, args.lease_jobs))
    for count, microseconds in found.items():
        print(f"{count:>6} open: {microseconds:8.1f} us of Redis a job")
    if args.json:
        print(json.dumps({"jobs": args.jobs, "leaseJobs": args.lease_jobs, "storeMicrosecondsByOpenHolds": found}))


if __name__ == "__main__":
    main()

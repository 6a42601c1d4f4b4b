"""Sends a router what nobody should send: no 500, no body outside OpenAI's envelope, and ordinary clients are served.

The router runs as an operator starts it, over anvil and Redis; only its node's model is a toy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.router_world import chat

from fuzz_market import MODEL, FuzzedRouter, fuzzed_router
from fuzz_requests import Case, Cases
from fuzz_sockets import Siege
from fuzz_wire import Ordinary, Unanswered, Wire

SHOWN = 20
KINDS = 8
# Behind what a client may wait for at all: a case that hits a time-out is no fault, but takes long.
SETTINGS = {"client_seconds": 5.0, "first_byte_seconds": 20.0, "node_stale_seconds": 60.0, "max_body_bytes": 2**20}


class Fuzz:
    """One run against one router."""

    def __init__(self, cases: Cases, port: int) -> None:
        self._cases = cases
        self._port = port
        self.statuses: Counter[int] = Counter()
        self.faults: list[dict[str, Any]] = []

    async def run(self, requests: int, clients: int) -> None:
        """Sends so many, over so many connections."""
        left = iter(range(requests))
        await asyncio.gather(*[self._client(left) for _ in range(clients)])

    async def _client(self, left: Any) -> None:
        wire = Wire("127.0.0.1", self._port)
        for _ in left:
            await self._send(wire, self._cases.draw())
        wire.close()

    async def _send(self, wire: Wire, case: Case) -> None:
        try:
            reply = await wire.ask(case.raw(f"127.0.0.1:{self._port}"), is_head=case.method == "HEAD")
        except (Unanswered, OSError) as error:
            self._note(case, f"no answer: {error}", b"")
            return
        self.statuses[reply.status] += 1
        fault = reply.fault(is_head=case.method == "HEAD")
        if fault is not None:
            self._note(case, fault, reply.body)

    def _note(self, case: Case, fault: str, answer: bytes) -> None:
        shown = {"fault": fault, "request": f"{case.method} {case.target[:300]}", "body": repr(case.body[:500])}
        self.faults.append({**shown, "headers": repr(case.headers)[:500], "answer": repr(answer[:300])})


async def measure(
    requests: int, seed: int, clients: int, siege_seconds: float, folder: Path, server: str = "asgi"
) -> dict[str, Any]:
    """One run as figures; `server` is asgi or native."""
    async with fuzzed_router(folder, {**SETTINGS, "server": server}) as router:
        return {"server": server, **await _measure(router, requests, seed, clients, siege_seconds)}


async def _measure(
    router: FuzzedRouter, requests: int, seed: int, clients: int, siege_seconds: float
) -> dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.get(f"{router.url}/openapi.json") as answer:
        document = await answer.json()
    key, hostile, node = router.api_key, router.hostile_key, router.node
    cases = Cases(document, seed, key, {"MODEL": MODEL, "NODE": node.address})
    fuzz, began, before = Fuzz(cases, router.port), time.monotonic(), router.memory()
    await fuzz.run(requests, clients)
    seconds = time.monotonic() - began
    # Its tokens take their time, so that what fails under siege is the router and not the fake node.
    node.seconds_per_token = 0.02
    host, raw, streamed = "127.0.0.1", _request(key), _request(hostile, stream=True, n=2, max_tokens=200)
    calm, besieged = Ordinary(host, router.port, raw), Ordinary(host, router.port, raw)
    await calm.run(siege_seconds / 2)
    used = router.cpu_seconds()
    siege = Siege(host, router.port, raw.decode(), streamed.decode(), siege_seconds)
    opened, _ = await asyncio.gather(siege.run(), besieged.run(siege_seconds))
    return {
        "requests": requests,
        "seed": seed,
        "routes": len(cases.routes),
        "statuses": {str(status): count for status, count in sorted(fuzz.statuses.items())},
        "faults": fuzz.faults[:SHOWN],
        "faultCount": len(fuzz.faults),
        "seconds": round(seconds, 1),
        "siegeSeconds": siege_seconds,
        "hostileConnections": dict(sorted(opened.items())),
        "answersInCalm": calm.answers.total(),
        "ordinaryAnswers": {str(status): count for status, count in sorted(besieged.answers.items())},
        "slowestOrdinarySeconds": round(besieged.slowest, 2),
        "routerCpuSeconds": round(router.cpu_seconds() - used, 1),
        "memoryMegabytes": [round(before / 2**20), round(router.memory() / 2**20)],
        "isAlive": router.service.is_running,
    }


def _request(key: str, **changes: Any) -> bytes:
    body = json.dumps(chat(**{"max_tokens": 8, **changes})).encode()
    headers = [(b"authorization", b"Bearer " + key.encode()), (b"content-type", b"application/json")]
    return Case("POST", "/v1/chat/completions", body, headers).raw("127.0.0.1")


def faults_of(figures: dict[str, Any]) -> list[str]:
    """What is wrong with a run; nothing, if it is as it must be."""
    found = [fault["fault"] + " to " + fault["request"] for fault in figures["faults"]]
    # On a busy machine the toy node, which shares this process, may be late: that is 503, and counted.
    if "200" not in figures["ordinaryAnswers"] or figures["ordinaryAnswers"].keys() - {"200", "503"}:
        found.append(f"ordinary clients under siege got {figures['ordinaryAnswers']}")
    if len(figures["hostileConnections"]) < KINDS:
        found.append(f"the siege only did {figures['hostileConnections']}")
    return found if figures["isAlive"] else [*found, "the router ended"]


def main() -> int:
    """Runs, prints, and fails if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--siege-seconds", type=float, default=20.0)
    parser.add_argument(
        "--server", choices=("asgi", "native"), default="asgi", help="which of the router's two servers"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="retally-fuzz-") as folder:
        run = measure(args.requests, args.seed, args.clients, args.siege_seconds, Path(folder), args.server)
        figures = asyncio.run(run)
    for name, value in figures.items():
        if name != "faults":
            print(f"{name:23} {value}")
    for fault in figures["faults"]:
        print(json.dumps(fault, indent=2))
    faults = faults_of(figures)
    print("\n".join(faults) or "nothing found")
    if args.json:
        print(json.dumps(figures))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Waiting until services answer, and giving up with the end of their log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx

from retally.devnet.processes import Service, ServiceFailed

_READY_SECONDS = 60.0
_POLL_SECONDS = 0.1

Check = Callable[[httpx.AsyncClient], Awaitable[bool]]


async def wait_answers(url: str, service: Service) -> None:
    """Wait until a service answers 200 at the address."""

    async def answers(client: httpx.AsyncClient) -> bool:
        return (await client.get(url)).status_code == httpx.codes.OK

    await _wait(answers, service, f"did not answer at {url}")


async def wait_routable(router_url: str, model: str, nodes: int, service: Service) -> None:
    """Wait until the router knows this many nodes that serve the model."""

    async def knows_all(client: httpx.AsyncClient) -> bool:
        return len(await _routable(client, router_url)) >= nodes

    await _wait(knows_all, service, f"did not list {nodes} nodes for {model}")


async def wait_node_routable(router_url: str, node: str, service: Service) -> None:
    """Wait until the router would send jobs to this node."""

    async def knows_it(client: httpx.AsyncClient) -> bool:
        return node in await _routable(client, router_url)

    await _wait(knows_it, service, f"did not list {node}")


async def _routable(client: httpx.AsyncClient, router_url: str) -> set[str]:
    answer = await client.get(f"{router_url}/retally/v1/nodes")
    listed = answer.json()["nodes"] if answer.status_code == httpx.codes.OK else []
    return {each["node"] for each in listed if each.get("routable", each.get("healthy", True))}


async def _wait(check: Check, service: Service, reason: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        while time.monotonic() < deadline:
            service.check_running()
            with suppress(httpx.TransportError):
                if await check(client):
                    return
            await asyncio.sleep(_POLL_SECONDS)
    raise ServiceFailed(service.name, f"{reason} within {_READY_SECONDS:.0f} s", service.log)

"""`retally node status | earnings`: what a node does, and what its owner has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import httpx
import typer
from rich.console import RenderableType

from retally.chain import bonds
from retally.chain.staking import Role
from retally.cli.amounts import show_amount
from retally.cli.output import emit, table
from retally.cli.session import run
from retally.keystore import service_key
from retally_node import operate
from retally_node.collector import collector_key
from retally_node.command_context import Config, chain_of, operator_of
from retally_node.settings import NodeSettings

STATUS = ("owner", "registered", "collector", "authorised", "endpoint", "serving", "jobs", "uncollected", "problems")


def status(ctx: typer.Context, config: Config) -> None:
    """Whether the node serves, what it is registered as, and its stake."""
    settings = NodeSettings.load(config)

    async def work() -> dict[str, Any]:
        async with chain_of(settings) as chain:
            key = service_key(settings, chain.deployment.chain_id)
            node, collector = key.address, collector_key(settings, key).address
            entry = await chain.registry.node(node)
            answer = await _ask(settings, node)
            return {
                "node": node,
                "registered": entry.is_live,
                "collector": collector,
                "authorised": entry.is_live and await chain.registry.is_delegate(entry.owner, collector),
                "endpoint": entry.endpoint,
                "serving": answer is not None,
                **await bonds.stake_status(chain, entry.owner, Role.OPERATOR),
                **await operate.appeal_status(chain, collector),
                **(answer or {}),
            }

    data = run(work)
    emit(ctx, data, _status_view(data))


def _status_view(data: dict[str, Any]) -> RenderableType:
    view = table("node", str(data["node"]))
    for name in STATUS:
        if name in data:
            view.add_row(name, str(data[name]))
    for name in ("bonded", "appealFunds", "appealCost"):
        view.add_row(name, show_amount(int(data[name])))
    for case in data.get("cases", ()):
        view.add_row(f"case {case['case']}", f"own replay: {case['ownReplay']}; {case['state']}")
    return view


def earnings(
    ctx: typer.Context,
    config: Config,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Pay out all credits to the owner.")] = False,
) -> None:
    """What the owner has earned, and what is held or free."""
    settings = NodeSettings.load(config)

    async def look() -> dict[str, Any]:
        async with chain_of(settings) as chain:
            node = service_key(settings, chain.deployment.chain_id).address
            return await operate.earnings(chain, await chain.registry.node_owner(node))

    async def pay() -> dict[str, Any]:
        async with operator_of(ctx, settings) as operator:
            gained = await operate.withdraw_earnings(operator)
            return {**await operate.earnings(operator.chain, operator.owner), "withdrawn": str(gained)}

    work: Callable[[], Awaitable[dict[str, Any]]] = pay if withdraw else look
    data = run(work)
    view = table("owner", str(data["owner"]))
    for name, amount in data.items():
        if name != "owner":
            view.add_row(name, show_amount(int(amount)))
    emit(ctx, data, view)


async def _ask(settings: NodeSettings, node: str) -> dict[str, Any] | None:
    """What the running node says of its books; None if something else, or nothing, listens there."""
    token = "" if settings.admin_token is None else settings.admin_token.get_secret_value()
    try:
        async with httpx.AsyncClient(
            base_url=f"http://{settings.host}:{settings.port}/retally/v1", timeout=5, trust_env=False
        ) as client:
            info = await client.get("/info")
            if info.status_code != httpx.codes.OK or info.json().get("node") != node:
                return None
            answer = await client.get("/admin/status", headers={"authorization": f"Bearer {token}"})
    except (httpx.HTTPError, ValueError):
        return None
    return dict(answer.json()) if answer.status_code == httpx.codes.OK else {}

"""`retally node …`: set a node up, stake for it, run it, earn, leave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import RenderableType

from retally.chain.connection import Chain
from retally.chain.deployment import Deployment
from retally.chain.transactions import TxSender
from retally.cli.amounts import parse_amount, show_amount
from retally.cli.money import moment
from retally.cli.output import JsonGroup, emit, note, table
from retally.cli.session import Session, run
from retally.errors import BadRequest
from retally.inference.model_files import ModelFiles
from retally.keystore import service_key
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Address, parse_address
from retally_node import operate
from retally_node.collector import collector_key
from retally_node.new_node import NewNode, make_node, profile_for_embeddings
from retally_node.settings import NodeSettings

app = typer.Typer(cls=JsonGroup, no_args_is_help=True, help="Serve a model and earn.")


class Serves(StrEnum):
    """What a node is for."""

    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"


Config = Annotated[Path, typer.Option("--config", help="node.toml", exists=True, dir_okay=False)]
GAS_WEI = 10**17
STATUS = ("owner", "registered", "collector", "authorised", "endpoint", "serving", "jobs", "uncollected", "problems")
HOT_COLLECTOR = (
    "the node's own key may now collect, answer and vote for you: whoever steals it can cost you half of the stake; "
    "to keep one apart set collector_key_file in node.toml and stake again"
)


@app.command()
def init(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Where the node's key, settings and books shall lie.")],
    model_dir: Annotated[Path, typer.Option(help="The model's folder.", exists=True, file_okay=False)],
    price_in: Annotated[str, typer.Option(help="rUSD per million prompt tokens.")] = "2",
    price_cached: Annotated[str, typer.Option(help="rUSD per million cached prompt tokens.")] = "1",
    price_out: Annotated[str | None, typer.Option(help="The same of answer tokens; else 6, of embeddings 0.")] = None,
    engine_url: Annotated[str | None, typer.Option(help="A running vLLM to attach to; else one is started.")] = None,
    port: Annotated[int, typer.Option(help="Where the node listens.")] = 8100,
    serves: Annotated[Serves, typer.Option(help="What its engine is for, never both.")] = Serves.COMPLETIONS,
    profile_file: Annotated[
        Path | None, typer.Option(help="The registered profile's JSON; for embeddings else the deployment's.")
    ] = None,
) -> None:
    """Make a node key and a node.toml; nothing touches the chain yet."""
    context = Session(ctx).context
    if context.rpc_url is None or context.deployment is None:
        raise BadRequest("no chain is known", hint="pass --rpc-url and --deployment, or run: retally devnet up")
    files = ModelFiles.load(model_dir)
    embeds = serves == Serves.EMBEDDINGS
    if embeds:
        profile_file = profile_for_embeddings(Deployment.load(context.deployment), profile_file)
    new = NewNode(
        folder=folder,
        rpc_url=context.rpc_url,
        deployment=context.deployment,
        model_dir=model_dir,
        max_context=files.max_context,
        price_in=parse_amount(price_in),
        price_cached=parse_amount(price_cached),
        price_out=0 if embeds and price_out is None else parse_amount(price_out or "6"),
        engine_url=engine_url,
        port=port,
        serves=serves.value,
        profile_file=profile_file,
    )
    config, address = make_node(new)
    data = {"node": address, "config": str(config), "model": files.name, "serves": serves.value}
    what = f"{serves.value} of {files.name}"
    emit(ctx, data, f"{address} will serve {what}; next: retally node stake --config {config} --amount 1000")


@app.command()
def stake(
    ctx: typer.Context,
    config: Config,
    amount: Annotated[str | None, typer.Option(help="How much more to stake, in rUSD.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Where routers reach the node; else public_url.")] = None,
    profile: Annotated[str | None, typer.Option(help="Profile id, if the deployment knows several.")] = None,
    collector: Annotated[
        str | None, typer.Option(help="Who may collect, answer and vote: an address, or none; else the node's key.")
    ] = None,
    appeals: Annotated[
        str | None, typer.Option(help="How much to send that key, in rUSD, so that it can appeal for you.")
    ] = None,
) -> None:
    """Stake with the owner's key, register the node and authorise the key that collects."""
    settings = NodeSettings.load(config)
    url = endpoint or settings.public_url or f"http://{settings.host}:{settings.port}"
    for_appeals = _for_appeals(appeals, collector)

    async def work() -> dict[str, Any]:
        async with _operator(ctx, settings) as operator:
            node = service_key(settings, operator.chain.deployment.chain_id)
            if amount is not None:
                note(ctx, f"staking {amount} …")
                await operate.stake(operator, parse_amount(amount))
            files = ModelFiles.load(settings.model_dir)
            done = await operate.register(operator, node, files, profile, url, serves=settings.serves)
            acting = _acting(collector, settings, node)
            await operate.authorise(operator, node.address, acting)
            if not settings.embeds:
                await operate.enlist(operator, node.address)
            if acting is not None:
                await _provide(operator, acting, for_appeals)
            entry = {"node": node.address, "entry": done, "collector": acting}
            return {**entry, **await operate.stake_status(operator.chain, operator.owner)}

    data = run(work)
    if data["collector"] == data["node"]:
        note(ctx, HOT_COLLECTOR)
    emit(ctx, data, f"{data['node']} is {data['entry']}; staked: {show_amount(int(data['bonded']))}")


def _for_appeals(appeals: str | None, collector: str | None) -> int:
    """What the key that acts for the owner shall have for appeals; looked at before anything is sent."""
    if appeals is None:
        return 0
    if collector == "none":
        raise BadRequest("nobody is named who could appeal", param="appeals", hint="leave --collector none out")
    return parse_amount(appeals)


async def _provide(operator: operate.Operator, acting: Address, for_appeals: int) -> None:
    """Gas for the key that acts for the owner, and money for its appeals."""
    await operate.send_gas(operator, acting, GAS_WEI)
    if for_appeals:
        await operate.fund_appeals(operator, acting, for_appeals)


def _acting(collector: str | None, settings: NodeSettings, node: SigningKey) -> Address | None:
    """Who shall act for the owner: who is named, nobody, or the key that the settings name."""
    if collector is None:
        return collector_key(settings, node).address
    return None if collector == "none" else parse_address("collector", collector)


@app.command()
def serve(
    config: Config,
    start_engine: Annotated[bool, typer.Option("--start-engine", help="Start vLLM with the profile's flags.")] = False,
) -> None:
    """Serve until stopped."""
    from retally_node.bootstrap import run as run_node

    settings = NodeSettings.load(config)
    run_node(settings.model_copy(update={"start_engine": True}) if start_engine else settings)


@app.command()
def status(ctx: typer.Context, config: Config) -> None:
    """Whether the node serves, what it is registered as, and its stake."""
    settings = NodeSettings.load(config)

    async def work() -> dict[str, Any]:
        async with _chain(settings) as chain:
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
                **await operate.stake_status(chain, entry.owner),
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


@app.command()
def earnings(
    ctx: typer.Context,
    config: Config,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Pay out all credits to the owner.")] = False,
) -> None:
    """What the owner has earned, and what is held or free."""
    settings = NodeSettings.load(config)

    async def look() -> dict[str, Any]:
        async with _chain(settings) as chain:
            node = service_key(settings, chain.deployment.chain_id).address
            return await operate.earnings(chain, await chain.registry.node_owner(node))

    async def pay() -> dict[str, Any]:
        async with _operator(ctx, settings) as operator:
            gained = await operate.withdraw_earnings(operator)
            return {**await operate.earnings(operator.chain, operator.owner), "withdrawn": str(gained)}

    work: Callable[[], Awaitable[dict[str, Any]]] = pay if withdraw else look
    data = run(work)
    view = table("owner", str(data["owner"]))
    for name, amount in data.items():
        if name != "owner":
            view.add_row(name, show_amount(int(amount)))
    emit(ctx, data, view)


@app.command()
def unstake(
    ctx: typer.Context,
    config: Config,
    amount: Annotated[str | None, typer.Argument(help="How much shall thaw; nothing: pay out what has.")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop thawing.")] = False,
) -> None:
    """Take stake out: first it thaws (21 days), then `retally node unstake` pays it out."""
    settings = NodeSettings.load(config)

    async def work() -> dict[str, Any]:
        async with _operator(ctx, settings) as operator:
            units = None if amount is None else parse_amount(amount)
            done = await operate.unstake(operator, units, cancel=cancel)
            return {"action": done, **await operate.stake_status(operator.chain, operator.owner)}

    data = run(work)
    until = f" until {moment(int(data['thawEnd']))}" if int(data["thawing"]) else ""
    emit(ctx, data, f"{data['action']}; thawing {show_amount(int(data['thawing']))}{until}")


@asynccontextmanager
async def _chain(settings: NodeSettings) -> AsyncIterator[Chain]:
    async with Chain(settings.rpc_url, Deployment.load(settings.deployment)) as chain:
        yield chain


@asynccontextmanager
async def _operator(ctx: typer.Context, settings: NodeSettings) -> AsyncIterator[operate.Operator]:
    session = Session(ctx)
    session.context = replace(session.context, rpc_url=settings.rpc_url, deployment=settings.deployment)
    key = session.key()
    async with _chain(settings) as chain:
        store = session.home / "transactions" / f"{chain.deployment.chain_id}-{key.address}.json"
        yield operate.Operator(chain, TxSender(chain, key, store), key.address)


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

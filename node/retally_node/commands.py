"""`retally node …`: set a node up, stake for it, run it, earn, leave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from retally.chain import bonds
from retally.chain.deployment import Deployment
from retally.chain.staking import Role
from retally.cli.amounts import parse_amount, show_amount
from retally.cli.bond import thaw_text
from retally.cli.output import JsonGroup, emit, note
from retally.cli.session import DEVNET_CHAIN, Session, run
from retally.errors import BadRequest
from retally.inference.model_files import ModelFiles
from retally.keystore import service_key
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Address, parse_address
from retally_node import operate
from retally_node.collector import collector_key
from retally_node.command_context import Config, operator_of
from retally_node.commands_look import earnings, status
from retally_node.jury_duty import why_no_juror
from retally_node.new_node import NewNode, make_node, profile_for_embeddings, shipped_calibrations
from retally_node.settings import NodeSettings

app = typer.Typer(cls=JsonGroup, no_args_is_help=True, help="Serve a model and earn.")


class Serves(StrEnum):
    """What a node is for."""

    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"


ProfileOption = Annotated[
    Path | None, typer.Option(help="The registered profile's JSON; for embeddings else the deployment's.")
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(help="What it judges by as a juror; else what ships for the model.", exists=True, file_okay=False),
]

GAS_WEI = 10**17
HOT_COLLECTOR = (
    "the node's own key may now collect, answer and vote for you: whoever steals it can cost you half of the stake; "
    "to keep one apart set collector_key_file in node.toml and stake again"
)

OTHER_COLLECTOR = (
    "`retally node serve` opens the key that node.toml names, which may not act for you now: name the other one as "
    "collector_key_file, or the node will not start"
)
#: Addresses that mean nothing to a router elsewhere.
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1", "0.0.0.0", "::")


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
    profile_file: ProfileOption = None,
    public_url: Annotated[str | None, typer.Option(help="Where routers reach it, with TLS in front.")] = None,
    calibration_dir: CalibrationOption = None,
) -> None:
    """Make a node key and a node.toml; nothing touches the chain yet."""
    context = Session(ctx).context
    if context.rpc_url is None or context.deployment is None:
        raise BadRequest("no chain is known", hint="pass --rpc-url and --deployment, or run: retally devnet up")
    files, embeds = ModelFiles.load(model_dir), serves == Serves.EMBEDDINGS
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
        public_url=public_url,
        calibration_dir=calibration_dir or shipped_calibrations(files.model_id),
    )
    config, address = make_node(new)
    data = {"node": address, "config": str(config), "model": files.name, "serves": serves.value}
    emit(ctx, data, f"{address} will serve {files.name}; next: retally node stake --config {config} --amount 1000")


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
    for_appeals = _for_appeals(appeals, collector)

    async def work() -> dict[str, Any]:
        async with operator_of(ctx, settings) as operator:
            chain, owner = operator.chain, operator.owner
            node = service_key(settings, chain.deployment.chain_id)
            url, files = _endpoint(endpoint, settings, chain.deployment.chain_id), ModelFiles.load(settings.model_dir)
            lack = why_no_juror(settings, files.model_id)
            if amount is not None:
                note(ctx, f"staking {amount} …")
                await bonds.stake(chain, operator.sender, owner, Role.OPERATOR, parse_amount(amount))
            done = await operate.register(operator, node, files, profile, url, serves=settings.serves)
            acting = _acting(collector, settings, node)
            await operate.authorise(operator, node.address, acting)
            await operate.stand_for_juries(operator, node.address, is_willing=lack is None)
            if acting is not None:
                await _provide(operator, acting, for_appeals)
            entry = {"node": node.address, "entry": done, "endpoint": url, "collector": acting, "noJuror": lack}
            return {**entry, **await bonds.stake_status(chain, owner, Role.OPERATOR)}

    data = run(work)
    for warning in _warnings(data, settings, collector):
        note(ctx, warning)
    emit(ctx, data, f"{data['node']} is {data['entry']}; staked: {show_amount(int(data['bonded']))}")


def _warnings(data: Mapping[str, Any], settings: NodeSettings, collector: str | None) -> Iterator[str]:
    """What an owner should know about how its node stands now."""
    if data["collector"] == data["node"]:
        yield HOT_COLLECTOR
    if collector is not None and not _is_named(data["collector"], settings):
        yield OTHER_COLLECTOR
    if data["noJuror"] is not None and not settings.embeds:
        yield f"you do not stand for jury duty: {data['noJuror']}"


def _endpoint(named: str | None, settings: NodeSettings, chain_id: int) -> str:
    """Where routers reach the node, as the chain will say; raises BadRequest where only this machine could."""
    url = named or settings.public_url
    if url is None and chain_id != DEVNET_CHAIN and settings.host in LOCAL_HOSTS:
        hint = "set public_url in node.toml, or pass --endpoint"
        raise BadRequest(f"routers elsewhere can't reach {settings.host}", param="public_url", hint=hint)
    return url or f"http://{settings.host}:{settings.port}"


def _is_named(acting: str | None, settings: NodeSettings) -> bool:
    """Whether who acts for the owner is whose key the node opens when it serves."""
    chain_id = Deployment.load(settings.deployment).chain_id
    return acting == collector_key(settings, service_key(settings, chain_id)).address


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


app.command()(status)
app.command()(earnings)


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
        async with operator_of(ctx, settings) as operator:
            units = None if amount is None else parse_amount(amount)
            chain, owner = operator.chain, operator.owner
            done = await bonds.unstake(chain, operator.sender, Role.OPERATOR, units, cancel=cancel)
            return {"action": done, **await bonds.stake_status(chain, owner, Role.OPERATOR)}

    data = run(work)
    emit(ctx, data, thaw_text(data))

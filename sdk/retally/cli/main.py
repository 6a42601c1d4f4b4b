"""The `retally` command: groups of the services are found by entry point `retally.commands`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer

import retally
from retally.cli import bond, chat, claim, jobs, keys, market, money, proxy, reexecute, verify, wallet
from retally.cli.devnet import app as devnet_app
from retally.cli.doctor import doctor
from retally.cli.output import JsonGroup, emit
from retally.cli.session import remember_flags
from retally.errors import RetallyError

HELP = """Pay per token for LLM inference that anyone can verify.

`--json` works with every command: one JSON object on standard output, an error included.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 money is missing or a limit was reached, 5 the chain can't
be reached, 6 a re-executed job is a mismatch, 7 its verdict is inconclusive, 130 Ctrl-C.
"""

MONEY = "Money"
MARKET = "Market"
MACHINE = "Running things"


class RootGroup(JsonGroup):
    """The root: groups of installed services are imported only when they are asked for, or listed."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command of ours, else a service's group by its entry point."""
        entry = None if cmd_name in self.commands else _services().get(cmd_name)
        if entry is not None:
            self.add_command(load_service(entry), cmd_name)
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        """All commands, services last."""
        return list(dict.fromkeys([*super().list_commands(ctx), *sorted(_services())]))


def _services() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="retally.commands")}


def load_service(entry: EntryPoint) -> Any:
    """A service's command group; where it can't be imported, a hidden command that says why."""
    try:
        group: Any = typer.main.get_command(entry.load())
        group.rich_help_panel = MACHINE
    except ImportError as error:
        # One service that is not whole must not take the other commands along.
        group = typer.main.get_command(_unavailable(f"retally {entry.name} can't be loaded: {error}"))
        group.hidden = True
    group.name = entry.name
    return group


def _unavailable(message: str) -> typer.Typer:
    broken = typer.Typer()

    @broken.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def command() -> None:
        raise RetallyError(message, code="not_installed", hint="install retally again")

    return broken


app = typer.Typer(cls=RootGroup, no_args_is_help=True, help=HELP, pretty_exceptions_enable=False)


@app.callback()
def root(
    ctx: typer.Context,
    home: Annotated[str | None, typer.Option(help="Keys, lanes and history. Also $RETALLY_HOME.")] = None,
    router_url: Annotated[str | None, typer.Option(help="The router. Also $RETALLY_ROUTER_URL.")] = None,
    rpc_url: Annotated[str | None, typer.Option(help="The chain's RPC endpoint. Also $RETALLY_RPC_URL.")] = None,
    deployment: Annotated[str | None, typer.Option(help="Deployment file. Also $RETALLY_DEPLOYMENT.")] = None,
    api_key: Annotated[str | None, typer.Option(help="API key. Also $RETALLY_API_KEY.")] = None,
    address: Annotated[str | None, typer.Option(help="Which of your keys. Also $RETALLY_ADDRESS.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Flags win over the environment, the environment over a running devnet, which counts where no chain is named."""
    remember_flags(
        ctx,
        {
            "home": home,
            "router_url": router_url,
            "rpc_url": rpc_url,
            "deployment": deployment,
            "api_key": api_key,
            "address": address,
        },
    )


@app.command()
def version(ctx: typer.Context) -> None:
    """Show the version."""
    emit(ctx, {"version": retally.__version__}, retally.__version__)


app.add_typer(wallet.app, name="wallet", rich_help_panel=MONEY)
app.add_typer(keys.app, name="keys", rich_help_panel=MONEY)
_MONEY: tuple[Callable[..., None], ...] = (
    money.faucet,
    money.deposit,
    money.balance,
    money.withdraw,
    bond.bond,
    bond.unbond,
)
_MARKET: tuple[Callable[..., None], ...] = (
    chat.chat,
    market.models,
    market.nodes,
    jobs.jobs,
    jobs.receipt,
    market.cases,
)
for command in _MONEY:
    app.command(rich_help_panel=MONEY)(command)
for command in _MARKET:
    app.command(rich_help_panel=MARKET)(command)
app.command("verify-receipt", rich_help_panel=MARKET)(jobs.verify_receipt)
app.command("verify", rich_help_panel=MARKET)(verify.verify)
app.command("reexecute", rich_help_panel=MARKET)(reexecute.reexecute)
app.command("claim", rich_help_panel=MARKET)(claim.claim)
app.command("proxy", rich_help_panel=MACHINE)(proxy.proxy)
app.add_typer(devnet_app, name="devnet", rich_help_panel=MACHINE)
app.command("doctor", rich_help_panel=MACHINE)(doctor)


def main() -> None:
    """Entry point of the `retally` command."""
    app(prog_name="retally")

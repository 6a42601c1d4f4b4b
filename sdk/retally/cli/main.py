"""The `retally` command: groups of the services are found by entry point `retally.commands`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer

import retally
from retally.cli import chat, jobs, keys, market, money, proxy, wallet
from retally.cli.devnet import app as devnet_app
from retally.cli.doctor import doctor
from retally.cli.output import JsonGroup, emit, note
from retally.cli.session import remember_flags

HELP = """Pay per token for LLM inference that anyone can verify.

`--json` works with every command: one JSON object on standard output.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 money is missing or a limit was reached, 5 the chain can't
be reached, 130 Ctrl-C.
"""

app = typer.Typer(cls=JsonGroup, no_args_is_help=True, help=HELP, pretty_exceptions_enable=False)


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
    """Flags win over the environment, the environment over a running devnet."""
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


MONEY = "Money"
MARKET = "Market"
MACHINE = "Running things"

app.add_typer(wallet.app, name="wallet", rich_help_panel=MONEY)
app.add_typer(keys.app, name="keys", rich_help_panel=MONEY)
_MONEY: tuple[Callable[..., None], ...] = (money.faucet, money.deposit, money.balance, money.withdraw)
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
app.command("proxy", rich_help_panel=MACHINE)(proxy.proxy)
app.add_typer(devnet_app, name="devnet", rich_help_panel=MACHINE)
app.command("doctor", rich_help_panel=MACHINE)(doctor)


def add_service_groups(root: typer.Typer) -> None:
    """Mounts the groups that installed services offer; one that can't be loaded doesn't take the others along."""
    for entry in sorted(entry_points(group="retally.commands"), key=lambda entry: entry.name):
        try:
            group: Any = entry.load()
        except ImportError as error:
            root.command(entry.name, hidden=True)(_unavailable(entry.name, str(error)))
            continue
        root.add_typer(group, name=entry.name, rich_help_panel=MACHINE)


def _unavailable(name: str, reason: str) -> Any:
    def command(ctx: typer.Context) -> None:
        """Not available here."""
        note(ctx, f"retally {name} can't be loaded: {reason}")
        raise typer.Exit(1)

    return command


add_service_groups(app)


def main() -> None:
    """Entry point of the `retally` command."""
    app(prog_name="retally")

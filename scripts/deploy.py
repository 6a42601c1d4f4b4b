"""Deploy the contracts to a chain and write `deployments/<chain id>.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from eth_account import Account
from web3 import Web3

from retally.chain.deploy import (
    ANVIL_CHAIN_ID,
    ANVIL_KEY,
    CalibrationEntry,
    Catalogue,
    Model,
    Profile,
    deploy,
)
from retally.chain.parameters import default_parameters, devnet_parameters

__all__ = [
    "ANVIL_KEY",
    "CalibrationEntry",
    "Catalogue",
    "Model",
    "Profile",
    "default_parameters",
    "deploy",
    "devnet_parameters",
    "load_catalogue",
    "write_deployment",
]

DEPLOYMENTS = Path(__file__).resolve().parent.parent / "deployments"


def load_catalogue(path: Path) -> Catalogue:
    """Read a catalogue file: {"models": […], "profiles": […], "calibrations": […]} with the fields of the entries."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return Catalogue(
        models=[Model(**item) for item in data.get("models", [])],
        profiles=[Profile(**item) for item in data.get("profiles", [])],
        calibrations=[CalibrationEntry(**item) for item in data.get("calibrations", [])],
    )


def write_deployment(deployment: dict[str, object], path: Path) -> None:
    """Write a deployment file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(deployment, indent=2) + "\n", encoding="utf-8")


def _unlock(keystore: Path | None, password_file: Path | None, chain_id: int) -> str:
    if keystore is None:
        if chain_id != ANVIL_CHAIN_ID:
            raise typer.BadParameter(f"chain {chain_id} needs a --keystore: raw keys are for chain {ANVIL_CHAIN_ID}")
        return ANVIL_KEY
    if password_file is not None:
        password = password_file.read_text(encoding="utf-8").rstrip("\n")
    else:
        password = typer.prompt(f"Password of {keystore}", hide_input=True)
    try:
        return "0x" + bytes(Account.decrypt(keystore.read_text(encoding="utf-8"), password)).hex()
    except ValueError as error:
        raise typer.BadParameter(f"{keystore} does not open: {error}") from error


def main(
    rpc: Annotated[str, typer.Option(help="JSON-RPC address of the chain.")] = "http://127.0.0.1:8545",
    keystore: Annotated[Path | None, typer.Option(help="Web3 Secret Storage file of the deploying key.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File with its password; asked for otherwise.")] = None,
    asset: Annotated[str | None, typer.Option(help="ERC-20 to settle in; a DevAsset is deployed otherwise.")] = None,
    catalogue: Annotated[Path | None, typer.Option(help="Models, profiles and calibrations to register.")] = None,
    guardian: Annotated[str | None, typer.Option(help="Who may pause; the deploying key otherwise.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write the deployment file.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Deploy retally's contracts and write their addresses and parameters to a file."""
    web3 = Web3(Web3.HTTPProvider(rpc))
    if not web3.is_connected():
        typer.echo(f"no chain answers at {rpc}", err=True)
        raise typer.Exit(5)
    chain_id = web3.eth.chain_id
    key = _unlock(keystore, password_file, chain_id)
    if asset is None and chain_id != ANVIL_CHAIN_ID:
        raise typer.BadParameter(f"chain {chain_id} needs an --asset: the DevAsset is free money for everybody")
    deployer = Account.from_key(key).address
    funds = web3.from_wei(web3.eth.get_balance(deployer), "ether")
    typer.echo(f"chain {chain_id} at {rpc}, deployer {deployer} with {funds} of the chain's coin")
    if not yes and chain_id != ANVIL_CHAIN_ID:
        typer.confirm("Deploy? The contracts cannot be changed afterwards", abort=True)
    entries = load_catalogue(catalogue) if catalogue else Catalogue()
    deployment = deploy(rpc, key, catalogue=entries, asset=asset, guardian=guardian, progress=typer.echo)
    path = output or DEPLOYMENTS / f"{chain_id}.json"
    write_deployment(deployment, path)
    typer.echo(f"written to {path}")


if __name__ == "__main__":
    typer.run(main)

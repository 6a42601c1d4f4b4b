"""`retally wallet`: keys at rest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from retally.cli.output import JsonGroup, emit, table
from retally.cli.session import Session, password
from retally.keystore import StoredKey, key_from_hex, unlock_file
from retally.protocol.eip712 import SigningKey

app = typer.Typer(cls=JsonGroup, no_args_is_help=True, help="Create, import and list your keys.")


@app.command()
def create(ctx: typer.Context) -> None:
    """Make a new key, encrypted under a password."""
    _emit_stored(ctx, Session(ctx).keystore.add(SigningKey.generate(), password("New password", confirm=True)))


@app.command("import")
def import_key(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="Web3 Secret Storage file; else a hex key is read.")] = None,
) -> None:
    """Take over a key: from another keystore's file, or as hex from the terminal or standard input."""
    if file is not None:
        secret = password(f"Password of {file.name}")
        _emit_stored(ctx, Session(ctx).keystore.add(unlock_file(file, secret), secret))
        return
    # Deliberately no argument: what stands on a command line ends up in histories and process lists.
    text = typer.prompt("Private key (hex)", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    key = key_from_hex(text)
    _emit_stored(ctx, Session(ctx).keystore.add(key, password("New password", confirm=True)))


@app.command("list")
def list_keys(ctx: typer.Context) -> None:
    """Show the keys in the keystore, and the devnet's payer where a devnet runs."""
    session = Session(ctx)
    rows = [{"address": key.address, "path": str(key.path)} for key in session.keystore.list()]
    if session.context.key is not None:
        rows.append({"address": session.raw_key(session.context.key).address, "path": "(given key)"})
    view = table("address", "file")
    for row in rows:
        view.add_row(row["address"], row["path"])
    emit(ctx, {"keys": rows}, view)


@app.command()
def address(ctx: typer.Context) -> None:
    """Show the address that commands act for."""
    found = Session(ctx).address()
    emit(ctx, {"address": found}, found)


def _emit_stored(ctx: typer.Context, stored: StoredKey) -> None:
    emit(ctx, {"address": stored.address, "path": str(stored.path)}, f"{stored.address}\n{stored.path}")

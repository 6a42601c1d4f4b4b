"""What the commands of a node share: its settings' file, its chain, its owner's key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from retally.chain.connection import Chain
from retally.chain.deployment import Deployment
from retally.chain.transactions import TxSender
from retally.cli.session import Session
from retally_node import operate
from retally_node.settings import NodeSettings

Config = Annotated[Path, typer.Option("--config", help="node.toml", exists=True, dir_okay=False)]


@asynccontextmanager
async def chain_of(settings: NodeSettings) -> AsyncIterator[Chain]:
    """The chain that the settings name."""
    async with Chain(settings.rpc_url, Deployment.load(settings.deployment)) as chain:
        yield chain


@asynccontextmanager
async def operator_of(ctx: typer.Context, settings: NodeSettings) -> AsyncIterator[operate.Operator]:
    """The owner, with the key of this shell's wallet."""
    session = Session(ctx)
    session.context = replace(session.context, rpc_url=settings.rpc_url, deployment=settings.deployment)
    key = session.key()
    async with chain_of(settings) as chain:
        store = session.home / "transactions" / f"{chain.deployment.chain_id}-{key.address}.json"
        yield operate.Operator(chain, TxSender(chain, key, store), key.address)

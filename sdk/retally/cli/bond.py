"""`retally bond | unbond`: what a verifier or a router stakes; a node's stake is `retally node stake`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from retally.cli.amounts import parse_amount, show_amount
from retally.cli.money import CUT_SHORT, moment, sender_of
from retally.cli.output import emit, note
from retally.cli.session import Session, run


class Bonded(StrEnum):
    """Who bonds with a key of its own; an operator's owner stakes for its nodes."""

    VERIFIER = "verifier"
    ROUTER = "router"


ROLE = Annotated[Bonded, typer.Argument(help="As what.")]


def bond(
    ctx: typer.Context,
    role: ROLE,
    amount: Annotated[str, typer.Argument(help="How much more, in rUSD.")],
) -> None:
    """Bond as a verifier or a router, with the key that it runs with."""
    session, units = Session(ctx), parse_amount(amount)

    async def work() -> dict[str, Any]:
        from retally.chain import bonds
        from retally.chain.staking import Role

        key, as_role = session.key(), Role[role.name]
        async with session.chain() as chain:
            note(ctx, f"bonding {show_amount(units)} …")
            if not await bonds.stake(chain, sender_of(chain, session, key), key.address, as_role, units):
                note(ctx, CUT_SHORT)
            least = await chain.staking.minimum(as_role)
            return {"role": role.value, "least": str(least), **await bonds.stake_status(chain, key.address, as_role)}

    data = run(work)
    short = int(data["least"]) - int(data["bonded"])
    missing = f"; {show_amount(short)} short of what it needs" if short > 0 else ""
    emit(ctx, data, f"{data['owner']} has bonded {show_amount(int(data['bonded']))} as a {role.value}{missing}")


def unbond(
    ctx: typer.Context,
    role: ROLE,
    amount: Annotated[str | None, typer.Argument(help="How much shall thaw; nothing: pay out what has.")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop thawing.")] = False,
) -> None:
    """Take a bond out: first it thaws (21 days), then `retally unbond ROLE` pays it out."""
    session = Session(ctx)

    async def work() -> dict[str, Any]:
        from retally.chain import bonds
        from retally.chain.staking import Role

        key, as_role = session.key(), Role[role.name]
        async with session.chain() as chain:
            units = None if amount is None else parse_amount(amount)
            done = await bonds.unstake(chain, sender_of(chain, session, key), as_role, units, cancel=cancel)
            return {"role": role.value, "action": done, **await bonds.stake_status(chain, key.address, as_role)}

    data = run(work)
    emit(ctx, data, thaw_text(data))


def thaw_text(data: Mapping[str, Any]) -> str:
    """What was done with a stake, and what of it thaws until when."""
    until = f" until {moment(int(data['thawEnd']))}" if int(data["thawing"]) else ""
    return f"{data['action']}; thawing {show_amount(int(data['thawing']))}{until}"

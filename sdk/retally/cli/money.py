"""`retally faucet | deposit | balance | withdraw`: the payer's account in the Escrow."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from retally.cli.amounts import parse_amount, show_amount
from retally.cli.output import emit, note, table
from retally.cli.session import DEVNET_CHAIN, Session, run
from retally.errors import BadRequest, InsufficientFunds

GAS_WEI = 10**19
LOW_GAS_WEI = 10**16
FAUCET_LIMIT = 1_000_000 * 10**6
CUT_SHORT = "an earlier run that was cut short had sent this already: it is finished, and nothing more is sent"


def faucet(
    ctx: typer.Context,
    amount: Annotated[str, typer.Argument(help="How much, in rUSD.")] = "1000",
) -> None:
    """Take test money and gas (devnet only)."""
    session, units = Session(ctx), parse_amount(amount)
    if units > FAUCET_LIMIT:
        raise BadRequest(f"the faucet gives at most {show_amount(FAUCET_LIMIT)} at a time", param="amount")

    async def work() -> dict[str, Any]:
        key = session.key()
        async with session.chain() as chain:
            if chain.deployment.chain_id != DEVNET_CHAIN:
                raise BadRequest("the faucet is for devnets", hint="buy the asset, then: retally deposit")
            await _top_up_gas(chain, key.address)
            sent = await sender_of(chain, session, key).send(chain.asset.call("faucet", key.address, units))
            balance = await chain.asset.balance_of(key.address)
        return {"address": key.address, "amount": str(units), "wallet": str(balance), "transaction": sent.tx_hash}

    data = run(work)
    emit(ctx, data, f"{show_amount(units)} for {data['address']}; it now holds {show_amount(int(data['wallet']))}")


def deposit(
    ctx: typer.Context,
    amount: Annotated[str, typer.Argument(help="How much, in rUSD.")],
) -> None:
    """Bring money into the Escrow, where nodes can be paid from it."""
    session, units = Session(ctx), parse_amount(amount)

    async def work() -> dict[str, Any]:
        key = session.key()
        async with session.chain() as chain:
            sender, call = sender_of(chain, session, key), chain.escrow.deposit(key.address, units)
            sent = await _sent_before(ctx, sender, call)
            if sent is None:
                await _approve(ctx, chain, sender, units)
                note(ctx, f"depositing {show_amount(units)} …")
                sent = await sender.send(call)
            account = await chain.escrow.account(key.address)
        return {
            "address": key.address,
            "amount": str(units),
            "available": str(account.balance - account.thawing),
            "transaction": sent.tx_hash,
        }

    data = run(work)
    emit(ctx, data, f"deposited {show_amount(units)}; available {show_amount(int(data['available']))}")


async def _approve(ctx: typer.Context, chain: Any, sender: Any, units: int) -> None:
    held = await chain.asset.balance_of(sender.address)
    if held < units:
        raise InsufficientFunds(units, held)
    if await chain.asset.allowance(sender.address, chain.escrow.address) < units:
        note(ctx, f"approving {show_amount(units)} …")
        await sender.send(chain.asset.approve(chain.escrow.address, units))


async def _sent_before(ctx: typer.Context, sender: Any, call: Any) -> Any:
    """The transaction of this call where an earlier run left it unfinished: finished now, it is what was wanted."""
    resumed = await sender.resume()
    if resumed is None or not resumed.is_call(call):
        return None
    note(ctx, CUT_SHORT)
    return resumed.tx_receipt


def balance(ctx: typer.Context) -> None:
    """Show the account: available, reserved, thawing, and what the wallet itself holds."""
    session = Session(ctx)

    async def work() -> dict[str, Any]:
        from retally.chain.credits import credit_of

        payer = session.address()
        async with session.chain() as chain:
            account = await chain.escrow.account(payer)
            credit = await credit_of(chain, payer)
            return {
                "address": payer,
                "available": str(account.balance - account.thawing),
                "reserved": str(account.reserved),
                "thawing": str(account.thawing),
                "thawEnd": account.thaw_end,
                "credit": str(credit),
                "wallet": str(await chain.asset.balance_of(payer)),
                "now": chain.clock.now(),
            }

    data = run(work)
    view = table("account", str(data["address"]))
    for name in ("available", "reserved", "thawing", "credit", "wallet"):
        view.add_row(name, show_amount(int(data[name])))
    if int(data["thawing"]):
        view.add_row("thaws until", moment(int(data["thawEnd"])))
    emit(ctx, data, view)


def withdraw(
    ctx: typer.Context,
    amount: Annotated[str | None, typer.Argument(help="How much shall thaw; nothing: pay out what has.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Start thawing all that is available.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop thawing.")] = False,
) -> None:
    """Take money out: first it thaws (3 days), then `retally withdraw` pays it out; credits wait for no thaw."""
    session = Session(ctx)
    if sum((amount is not None, everything, cancel)) > 1:
        raise BadRequest("an amount, --all and --cancel exclude each other", param="amount")

    async def work() -> dict[str, Any]:
        key = session.key()
        async with session.chain() as chain:
            units = None if amount is None else parse_amount(amount)
            sender = sender_of(chain, session, key)
            action, sent = await _withdraw(ctx, chain, sender, units, everything=everything, cancel=cancel)
            after = await chain.escrow.account(key.address)
            return {
                "action": action,
                "address": key.address,
                "available": str(after.balance - after.thawing),
                "thawing": str(after.thawing),
                "thawEnd": after.thaw_end,
                "wallet": str(await chain.asset.balance_of(key.address)),
                "transaction": sent.tx_hash,
            }

    data = run(work)
    emit(ctx, data, _withdrawn_text(data))


async def _withdraw(
    ctx: typer.Context, chain: Any, sender: Any, units: int | None, *, everything: bool, cancel: bool
) -> tuple[str, Any]:
    """What was done, and its transaction."""
    if cancel:
        call = chain.escrow.cancel_thaw()
        return "cancelled", await _sent_before(ctx, sender, call) or await sender.send(call)
    if units is None and not everything:
        sent = await _sent_before(ctx, sender, chain.escrow.withdraw())
        return "withdrawn", sent or await _pay_out(chain, sender, await chain.escrow.account(sender.address))
    if units is not None:
        call = chain.escrow.thaw(units)
        return "thawing", await _sent_before(ctx, sender, call) or await sender.send(call)
    resumed = await sender.resume()
    account = await chain.escrow.account(sender.address)
    # `balance` includes what thaws: only the rest can start to.
    free = account.balance - account.thawing
    if free:
        return "thawing", await sender.send(chain.escrow.thaw(free))
    if resumed is not None and resumed.tx_receipt is not None and resumed.label == chain.escrow.thaw(1).label:
        note(ctx, CUT_SHORT)
        return "thawing", resumed.tx_receipt
    error = InsufficientFunds(1, 0)
    error.hint = "what thaws is paid out by: retally withdraw" if account.thawing else "see: retally balance"
    raise error


async def _pay_out(chain: Any, sender: Any, account: Any) -> Any:
    """Credits, such as the refund of a case, and what has thawed; returns the last transaction."""
    from retally.chain.credits import withdraw_credits

    sent = await withdraw_credits(chain, sender)
    if account.thawing and (not sent or account.thaw_end <= chain.clock.now()):
        sent.append(await sender.send(chain.escrow.withdraw()))
    if not sent:
        error = InsufficientFunds(1, 0)
        error.hint = "an amount, or --all, starts the thaw; see: retally balance"
        raise error
    return sent[-1]


def _withdrawn_text(data: dict[str, Any]) -> str:
    if data["action"] == "thawing":
        until = moment(int(data["thawEnd"]))
        return f"{show_amount(int(data['thawing']))} thaws until {until}; then run: retally withdraw"
    if data["action"] == "cancelled":
        return f"no longer thawing; available {show_amount(int(data['available']))}"
    return f"withdrawn; the wallet holds {show_amount(int(data['wallet']))}"


def sender_of(chain: Any, session: Session, key: Any) -> Any:
    """Sends transactions of a key; what is under way is on disk, so that Ctrl-C can't pay twice."""
    from retally.chain.transactions import TxSender

    return TxSender(chain, key, session.home / "transactions" / f"{chain.deployment.chain_id}-{key.address}.json")


async def _top_up_gas(chain: Any, address: str) -> None:
    held = int(await chain.rpc.request("eth_getBalance", address, "latest"), 16)
    if held < LOW_GAS_WEI:
        await chain.rpc.request("anvil_setBalance", address, hex(GAS_WEI))


def moment(seconds: int) -> str:
    """A chain time for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))

"""What stands behind a role: put down, taken out, looked at."""

from __future__ import annotations

from typing import Any

from retally.chain.connection import Chain
from retally.chain.staking import Role
from retally.chain.transactions import TxSender
from retally.errors import InsufficientFunds
from retally.protocol.encoding import Address


async def stake(chain: Chain, sender: TxSender, owner: Address, role: Role, amount: int) -> bool:
    """Bonds so much more of the sender's asset; raises InsufficientFunds when it has less.

    False where an earlier run that was cut short had sent that already: it is finished, and nothing more is bonded.
    """
    call, resumed = chain.staking.stake(role, amount), await sender.resume()
    if resumed is not None and resumed.is_call(call):
        return False
    held = await chain.asset.balance_of(owner)
    if held < amount:
        raise InsufficientFunds(amount, held)
    if await chain.asset.allowance(owner, chain.staking.address) < amount:
        await sender.send(chain.asset.approve(chain.staking.address, amount))
    await sender.send(call)
    return True


async def unstake(chain: Chain, sender: TxSender, role: Role, amount: int | None, *, cancel: bool) -> str:
    """Starts the thaw of an amount; without one pays out what has thawed; or stops thawing. Says what was done."""
    if cancel:
        await sender.send(chain.staking.cancel_thaw(role))
        return "cancelled"
    if amount is not None:
        await sender.send(chain.staking.thaw(role, amount))
        return "thawing"
    await sender.send(chain.staking.withdraw(role))
    return "withdrawn"


async def stake_status(chain: Chain, owner: Address, role: Role) -> dict[str, Any]:
    """The stake of an owner in that role, in the asset's smallest unit; `thawEnd` is chain time."""
    state = await chain.staking.stake_of(owner, role)
    return {
        "owner": owner,
        "bonded": str(state.bonded),
        "thawing": str(state.thawing),
        "thawEnd": state.thaw_end,
        "locks": state.locks,
    }

"""What an operator does with its cold key: stake, register, look after earnings, leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from retally.chain.connection import Chain
from retally.chain.contract import ContractCall
from retally.chain.credits import withdraw_credits
from retally.chain.transactions import TxSender
from retally.errors import BadRequest, InsufficientFunds
from retally.inference.model_files import ModelFiles
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import ZERO_ADDRESS, Address, Bytes32, parse_bytes32
from retally.protocol.voucher import NodeAuth

CONSENT_SECONDS = 3600
LOW_GAS_WEI = 10**16


@dataclass(frozen=True, slots=True)
class Operator:
    """An owner with its chain and sender."""

    chain: Chain
    sender: TxSender
    owner: Address


async def register(
    operator: Operator, node: SigningKey, files: ModelFiles, profile: str | None, endpoint: str, *, serves: str
) -> str:
    """Register the node, or bring its entry up to date; say what was done."""
    chain = operator.chain
    profile_id = profile_of(chain, profile, serves)
    entry = await chain.registry.node(node.address)
    if entry.owner == ZERO_ADDRESS:
        consent = NodeAuth(operator.owner, node.address, chain.clock.now() + CONSENT_SECONDS)
        signature = node.sign(consent.digest(chain.domain))
        call = chain.registry.register_node(consent, signature, files.model_id, profile_id, endpoint)
        await operator.sender.send(call)
        return "registered"
    if entry.owner != operator.owner or not entry.is_live:
        raise BadRequest(f"{node.address} belongs to {entry.owner} or is revoked", hint="make a new node key")
    if (entry.model_id, entry.profile_id, entry.endpoint) == (files.model_id, profile_id, endpoint):
        return "unchanged"
    await operator.sender.send(chain.registry.update_node(node.address, endpoint, files.model_id, profile_id))
    return "updated"


def profile_of(chain: Chain, profile: str | None, serves: str) -> Bytes32:
    """The profile that was named, or the deployment's only one for what the node serves."""
    if profile is not None:
        return parse_bytes32("profile", profile)
    known = [each for each in chain.deployment.profiles if each.get("serves", "completions") == serves]
    if len(known) != 1:
        raise BadRequest(f"the deployment knows several profiles for {serves}, or none", hint="pass --profile 0x…")
    return parse_bytes32("profile", known[0].get("profileId") or known[0].get("id"))


async def stand_for_juries(operator: Operator, node: Address, *, is_willing: bool) -> None:
    """Enlist for jury duty with the stake as it is now, or resign; an entry that stands stays as old as it is."""
    chain = operator.chain
    pools, entry = chain.juror_pools, await chain.registry.node(node)
    pool = await pools.pool_of(entry.model_id, entry.profile_id)
    known = await pools.entry_of(pool, operator.owner) if pool else None
    stands = known is not None and known.weight > 0 and known.node == node
    if is_willing and not stands:
        await operator.sender.send(pools.enlist(node))
    elif stands and not is_willing:
        await operator.sender.send(pools.resign(entry.model_id, entry.profile_id))


async def authorise(operator: Operator, node: Address, collector: Address | None) -> None:
    """Let this key collect, answer and vote; the node's own no more, unless it is that key."""
    registry = operator.chain.registry
    if collector is not None and not await registry.is_delegate(operator.owner, collector):
        await operator.sender.send(registry.set_delegate(collector, True))
    if node != collector and await registry.is_delegate(operator.owner, node):
        await operator.sender.send(registry.set_delegate(node, False))


async def send_gas(operator: Operator, collector: Address, wei: int) -> None:
    """Give the key that sends transactions gas, if it has little."""
    held = int(await operator.chain.rpc.request("eth_getBalance", collector, "latest"), 16)
    if wei and held < LOW_GAS_WEI:
        await operator.sender.send(ContractCall(collector, b"", "gas for the node"), wei)


async def fund_appeals(operator: Operator, collector: Address, amount: int) -> None:
    """Send the key that appeals for the owner what fees and bonds of appeals take."""
    chain = operator.chain
    held = await chain.asset.balance_of(operator.owner)
    if held < amount:
        raise InsufficientFunds(amount, held)
    await operator.sender.send(chain.asset.transfer(collector, amount))


async def appeal_status(chain: Chain, collector: Address) -> dict[str, Any]:
    """What the key that appeals holds, and what the first appeal of a case takes."""
    return {
        "appealFunds": str(await chain.asset.balance_of(collector)),
        "appealCost": str(await chain.court.appeal_cost(0)),
    }


async def earnings(chain: Chain, owner: Address) -> dict[str, Any]:
    """What an owner earned and can have."""
    return {
        "owner": owner,
        "credit": str(await chain.escrow.credit(owner)),
        "held": str(await chain.escrow.held_of(owner)),
        "exposure": str(await chain.escrow.exposure(owner)),
        "freeExposure": str(await chain.escrow.free_exposure(owner)),
        "juryPay": str(await chain.court.credit(owner)),
        "stakingCredit": str(await chain.staking.credit(owner)),
    }


async def withdraw_earnings(operator: Operator) -> int:
    """Pay out every credit; return how much the wallet gained."""
    chain, owner = operator.chain, operator.owner
    before = await chain.asset.balance_of(owner)
    if await chain.escrow.held_of(owner):
        await operator.sender.send(chain.escrow.release_held(owner))
    await withdraw_credits(chain, operator.sender)
    return await chain.asset.balance_of(owner) - before

"""The accounts of a devnet: gas and asset come from nowhere, everything else by ordinary transactions."""

from __future__ import annotations

from retally.chain.connection import Chain
from retally.chain.contract import ContractCall
from retally.chain.staking import Role
from retally.chain.transactions import TxReceipt, TxSender
from retally.devnet.anvil import Anvil
from retally.devnet.options import RUSD
from retally.protocol.eip712 import Address, SigningKey
from retally.protocol.voucher import NodeAuth

GAS_WEI = 1_000 * 10**18
ROUTER_BOND = 1_000 * RUSD
VERIFIER_BOND = 2_000 * RUSD
VERIFIER_DEPOSIT = 1_000 * RUSD
VERIFIER_FUNDS = 1_000 * RUSD
#: What a node may pay for appeals: both of one case, of which the devnet asks 101 and 201.
APPEAL_FUNDS = 500 * RUSD

_AUTH_SECONDS = 3_600


class Party:
    """One account that sends its own transactions, one after the other."""

    def __init__(self, key: SigningKey, anvil: Anvil, chain: Chain) -> None:
        self.key = key
        self._anvil = anvil
        self._chain = chain
        self._sender = TxSender(chain, key)

    @property
    def address(self) -> Address:
        """The account's address."""
        return self.key.address

    async def send(self, call: ContractCall) -> TxReceipt:
        """Send one call and wait until it is mined."""
        return await self._sender.send(call)

    async def fund(self, amount: int = 0) -> None:
        """Take gas from the chain's owner and asset from its faucet."""
        await self._anvil.set_balance(self.address, GAS_WEI)
        if amount:
            await self.send(self._chain.asset.call("faucet", self.address, amount))

    async def stake(self, role: Role, amount: int) -> None:
        """Put fresh stake behind a role."""
        await self.fund(amount)
        await self.send(self._chain.asset.approve(self._chain.staking.address, amount))
        await self.send(self._chain.staking.stake(role, amount))

    async def deposit(self, amount: int) -> None:
        """Bring fresh money into escrow."""
        await self.fund(amount)
        await self.send(self._chain.asset.approve(self._chain.escrow.address, amount))
        await self.send(self._chain.escrow.deposit(self.address, amount))

    async def register_node(
        self, node: SigningKey, model_id: bytes, profile_id: bytes, endpoint: str, *, is_juror: bool = True
    ) -> None:
        """Register a node whose key agrees, and let that key collect, answer and, as a juror, vote."""
        deadline = await self._anvil.now() + _AUTH_SECONDS
        consent = NodeAuth(owner=self.address, node=node.address, deadline=deadline)
        signature = node.sign(consent.digest(self._chain.domain))
        await self.send(self._chain.registry.register_node(consent, signature, model_id, profile_id, endpoint))
        await self.send(self._chain.registry.set_delegate(node.address, True))
        if is_juror:
            await self.send(self._chain.juror_pools.enlist(node.address))


async def prepare_router(party: Party) -> None:
    """A router bonds; it never holds anyone's money."""
    await party.stake(Role.ROUTER, ROUTER_BOND)


async def prepare_verifier(party: Party) -> None:
    """A verifier bonds, deposits for the replays it buys, and keeps asset for case bonds."""
    await party.stake(Role.VERIFIER, VERIFIER_BOND)
    await party.deposit(VERIFIER_DEPOSIT)
    await party.fund(VERIFIER_FUNDS)

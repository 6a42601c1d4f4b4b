"""The ERC-20 that everything is paid in."""

from __future__ import annotations

from retally.chain.contract import Contract, ContractCall
from retally.protocol.encoding import Address


class Asset(Contract):
    """The asset; `faucet` exists on devnets only."""

    NAME = "DevAsset"

    async def balance_of(self, account: Address) -> int:
        """How much an account holds."""
        return int(await self.view("balanceOf", account))

    async def allowance(self, account: Address, spender: Address) -> int:
        """How much a spender may pull."""
        return int(await self.view("allowance", account, spender))

    async def total_supply(self) -> int:
        """How much there is."""
        return int(await self.view("totalSupply"))

    def approve(self, spender: Address, amount: int) -> ContractCall:
        """Lets a spender pull so much."""
        return self.call("approve", spender, amount)

    def transfer(self, to: Address, amount: int) -> ContractCall:
        """Sends so much."""
        return self.call("transfer", to, amount)

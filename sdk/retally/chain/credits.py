"""Credits: money that waits in the contracts until whom it belongs to pulls it."""

from __future__ import annotations

from typing import Protocol

from retally.chain.connection import Chain
from retally.chain.contract import ContractCall
from retally.chain.transactions import TxReceipt, TxSender
from retally.protocol.encoding import Address


async def credit_of(chain: Chain, account: Address) -> int:
    """What waits for an account in all contracts: income, refunds of cases, jury pay, returned bonds."""
    return sum([await contract.credit(account) for contract in _contracts(chain)])


async def withdraw_credits(chain: Chain, sender: TxSender) -> list[TxReceipt]:
    """Pays the sender every credit it has, one transaction for each contract that holds one."""
    return [
        await sender.send(contract.withdraw_credit())
        for contract in _contracts(chain)
        if await contract.credit(sender.address)
    ]


class _Paying(Protocol):
    async def credit(self, account: Address) -> int: ...

    def withdraw_credit(self) -> ContractCall: ...


def _contracts(chain: Chain) -> tuple[_Paying, ...]:
    return (chain.escrow, chain.staking, chain.court, chain.silence)

"""Recount the asset from its Transfer logs and hold the contracts' books against it; prints one JSON object.

Shares no code with retally: only logs and views. `supply_conserved` is true when the balances that the logs add up to
are the asset's own, their sum is its supply, and Escrow and Staking owe exactly what they hold.
Usage: scripts/check_supply.py --rpc URL --deployment FILE
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from chain_logs import Logs

ZERO = "0x" + "00" * 20
TRANSFER = "Transfer(address indexed,address indexed,uint256)"
ESCROW_ACCOUNTS = (
    ("Deposited(address indexed,address indexed,uint96)", 0),
    ("Reserved(address indexed,address indexed,address indexed,uint96,uint96,uint32)", 0),
)
COLLECTED = (
    "Collected(uint64 indexed,address indexed,address indexed,bytes32,uint96,uint32,uint64,uint40,uint96,uint96,uint96,"
    "bytes)"
)
ESCROW_CREDITED = (
    (COLLECTED, 2),
    ("AuditPaid(address indexed,address indexed,uint96)", 1),
    ("HeldReleased(address indexed,uint96)", 0),
)
STAKED = "Staked(address indexed,uint8 indexed,address indexed,uint96)"
STAKING_CREDITED = (
    ("Refunded(bytes32 indexed,address indexed,uint96)", 1),
    ("Rewarded(address indexed,uint96)", 0),
)


def recount(logs: Logs) -> tuple[dict[str, int], int]:
    """Balances and supply by the Transfer logs."""
    balances: dict[str, int] = defaultdict(int)
    supply = 0
    for log in logs.read(logs.contracts["Asset"], TRANSFER):
        sender, receiver, amount = log["values"]
        if sender == ZERO:
            supply += amount
        else:
            balances[sender] -= amount
        if receiver == ZERO:
            supply -= amount
        else:
            balances[receiver] += amount
    return dict(balances), supply


def _people(logs: Logs, contract: str, events: tuple[tuple[str, int], ...]) -> set[str]:
    return {log["values"][place] for event, place in events for log in logs.read(contract, event)}


def escrow_owes(logs: Logs) -> int:
    """Deposits, reservations, credits, held credits and the audit pool."""
    escrow = logs.contracts["Escrow"]
    total: int = logs.call(escrow, "auditPool()", ["uint96"])[0]
    for payer in _people(logs, escrow, ESCROW_ACCOUNTS):
        balance, _, _, reserved = logs.call(escrow, "account(address)", ["uint96", "uint96", "uint40", "uint96"], payer)
        total += balance + reserved
    for account in _people(logs, escrow, ESCROW_CREDITED):
        total += logs.call(escrow, "credit(address)", ["uint256"], account)[0]
    for owner in _people(logs, escrow, ((COLLECTED, 2),)):
        total += logs.call(escrow, "heldOf(address)", ["uint96"], owner)[0]
    return total


def staking_owes(logs: Logs) -> int:
    """Stakes, thawing ones included, and credits."""
    staking, total = logs.contracts["Staking"], 0
    for owner, role in {tuple(log["values"][:2]) for log in logs.read(staking, STAKED)}:
        kinds = ["uint96", "uint96", "uint40", "uint16", "uint40"]
        bonded, thawing = logs.call(staking, "stakeOf(address,uint8)", kinds, owner, role)[:2]
        total += bonded + thawing
    for account in _people(logs, staking, STAKING_CREDITED):
        total += logs.call(staking, "credit(address)", ["uint256"], account)[0]
    return total


def check(logs: Logs) -> dict[str, Any]:
    """Everything counted, and whether it agrees."""
    asset = logs.contracts["Asset"]
    balances, supply = recount(logs)
    total_supply = logs.call(asset, "totalSupply()", ["uint256"])[0]
    differing = [
        account
        for account, amount in sorted(balances.items())
        if logs.call(asset, "balanceOf(address)", ["uint256"], account)[0] != amount
    ]
    held = {name: balances.get(logs.contracts[name].lower(), 0) for name in ("Escrow", "Staking")}
    owed = {"Escrow": escrow_owes(logs), "Staking": staking_owes(logs)}
    conserved = supply == total_supply == sum(balances.values()) and not differing and held == owed
    return {
        "supply": str(total_supply),
        "supplyByLogs": str(supply),
        "accounts": len(balances),
        "differing": differing,
        "held": {name: str(amount) for name, amount in held.items()},
        "owed": {name: str(amount) for name, amount in owed.items()},
        "supply_conserved": conserved,
    }


def main() -> None:
    """Read the arguments, print, and fail where something leaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rpc", required=True)
    parser.add_argument("--deployment", type=Path, required=True)
    parser.add_argument("--json", action="store_true", help="one line instead of many")
    given = parser.parse_args()
    result = check(Logs(given.rpc, given.deployment))
    print(json.dumps(result, indent=None if given.json else 2))
    sys.exit(0 if result["supply_conserved"] else 1)


if __name__ == "__main__":
    main()

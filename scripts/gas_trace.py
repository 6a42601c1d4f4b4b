"""Takes a transaction's gas apart: what each slot, call, log and the computation around them cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.contracts.world import World

from compile_contracts import collect_sources, compile_layout
from retally.protocol.encoding import keccak

INTRINSIC = 21_000
CALLS = ("CALL", "STATICCALL", "DELEGATECALL")
STORAGE = ("SLOAD", "SSTORE")
TRANSIENT = ("TLOAD", "TSTORE")


@dataclass(frozen=True)
class Row:
    """One thing that a transaction pays for."""

    what: str
    times: int
    gas: int


@dataclass
class _Call:
    contract: str
    gas_before: int
    inside: int = 0


def storage_layout(contract: str) -> dict[str, int]:
    """The slot of each state variable of a contract."""
    unit = f"contracts/{contract}.sol"
    layout = compile_layout(collect_sources([unit]), unit, contract)
    return {str(entry["label"]): int(entry["slot"]) for entry in layout}


def in_mapping(slot: int, *keys: str | int | bytes) -> int:
    """The slot of a mapping's entry, through as many mappings as there are keys."""
    for key in keys:
        word = key if isinstance(key, bytes) else (int(key, 16) if isinstance(key, str) else key).to_bytes(32, "big")
        slot = int.from_bytes(keccak(word + slot.to_bytes(32, "big")), "big")
    return slot


def take_apart(world: World, tx_hash: bytes, labels: Mapping[tuple[str, int], str]) -> list[Row]:
    """What a transaction paid for, dearest first; the sum is its gas."""
    receipt = world.web3.eth.get_transaction_receipt(tx_hash)  # type: ignore[arg-type]  # bytes are what it hashes to
    data = bytes(world.web3.eth.get_transaction(tx_hash)["input"])  # type: ignore[arg-type]  # as above
    options = {"disableMemory": True, "disableStorage": True}
    logs = world.rpc("debug_traceTransaction", "0x" + bytes(tx_hash).hex(), options)["structLogs"]
    names = {address.lower(): name for name, address in world.at.items()}
    gas: Counter[str] = Counter()
    times: Counter[str] = Counter()

    def add(what: str, amount: int, number: int = 1) -> None:
        gas[what] += amount
        times[what] += number

    add("transaction", INTRINSIC)
    add("calldata", sum(16 if byte else 4 for byte in data), len(data))
    _follow(logs, names.get(str(receipt["to"]).lower(), "?"), names, labels, add)
    add("refund and rest", receipt["gasUsed"] - sum(gas.values()))
    rows = [Row(what, times[what], amount) for what, amount in gas.most_common() if amount]
    assert sum(row.gas for row in rows) == receipt["gasUsed"]
    return rows


def _follow(
    logs: Any, outermost: str, names: Mapping[str, str], labels: Mapping[tuple[str, int], str], add: Any
) -> None:
    stack = [_Call(outermost, 0)]
    for index, log in enumerate(logs):
        op, contract = log["op"], stack[-1].contract
        cost = int(log["gasCost"])
        after = logs[index + 1] if index + 1 < len(logs) else None
        if op in CALLS and after is not None:
            callee = "0x" + hex(int(log["stack"][-2], 16))[2:].zfill(40)
            if after["depth"] > log["depth"]:
                stack.append(_Call(names.get(callee, callee), int(log["gas"])))
                continue
            cost = int(log["gas"]) - int(after["gas"])
            add("ecrecover", cost)
        elif op in STORAGE:
            slot = int(log["stack"][-1], 16)
            add(labels.get((contract, slot), f"{contract}: other slots"), cost, 1 if op == "SLOAD" else 0)
        elif op in TRANSIENT:
            add("lock", cost)
        elif op.startswith("LOG"):
            add(f"event of {contract}", cost)
        else:
            add(f"computation of {contract}", cost, 0)
        stack[-1].inside += cost
        if after is not None and after["depth"] < log["depth"]:
            call = stack.pop()
            own = call.gas_before - int(after["gas"]) - call.inside
            add(f"call of {call.contract}", own)
            stack[-1].inside += own + call.inside

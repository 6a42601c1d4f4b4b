"""Recompute every drawn audit point from chain data alone, as any third party can; prints one JSON object.

Shares no code with retally: events, block hashes, keccak and rules R-18, R-24 and R-25.
Usage: scripts/recompute_audit_points.py --rpc URL --deployment FILE [--commit ID]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from eth_hash.auto import keccak
from web3 import Web3

from chain_logs import Logs

COLLECTED = (
    "Collected(uint64 indexed,address indexed,address indexed,bytes32,uint96,uint32,uint64,uint40,uint96,uint96,uint96,"
    "bytes)"
)
SEED_FIXED = "SeedFixed(uint64 indexed,bytes32,uint64)"
RANGE_BYTES = 68


def recompute(logs: Logs, wanted: int | None) -> list[dict[str, Any]]:
    """All commits with their seeds and points."""
    escrow, audits = logs.contracts["Escrow"], logs.contracts["Audits"]
    fixed = {log["values"][0]: log["values"][1:] for log in logs.read(audits, SEED_FIXED)}
    commits = []
    for log in logs.read(escrow, COLLECTED):
        commit_id, node, owner, root, step, share_ppm, seed_block = log["values"][:7]
        if wanted is not None and commit_id != wanted:
            continue
        entry: dict[str, Any] = {
            "commitId": str(commit_id),
            "node": Web3.to_checksum_address(node),
            "owner": Web3.to_checksum_address(owner),
            "receiptsRoot": Web3.to_hex(root),
            "step": str(step),
            "sharePpm": share_ppm,
            "seedBlock": str(seed_block),
            "seed": None,
            "seedMatchesBlock": None,
            "points": [],
        }
        if commit_id in fixed:
            seed, block_number = fixed[commit_id]
            block_hash = bytes(logs.web3.eth.get_block(block_number)["hash"])
            own = keccak(block_hash + bytes.fromhex(escrow[2:]) + commit_id.to_bytes(8, "big") + root)
            entry.update(seed=Web3.to_hex(own), seedMatchesBlock=own == seed, seedBlock=str(block_number))
            entry["points"] = points(own, bytes.fromhex(node[2:]), step, log["values"][11])
        commits.append(entry)
    return commits


def points(seed: bytes, node: bytes, step: int, ranges: bytes) -> list[dict[str, Any]]:
    """The drawn points of a commit in (range, k) order."""
    drawn = []
    for index in range(len(ranges) // RANGE_BYTES):
        packed = ranges[index * RANGE_BYTES : (index + 1) * RANGE_BYTES]
        channel = keccak(packed[:40] + node + packed[40:44])
        before, after = int.from_bytes(packed[44:56], "big"), int.from_bytes(packed[56:68], "big")
        for k in range(before // step, after // step + 1):
            offset = int.from_bytes(keccak(seed + channel + k.to_bytes(32, "big")), "big") % step
            if before <= k * step + offset < after:
                drawn.append(
                    {
                        "rangeIndex": index,
                        "k": k,
                        "point": str(k * step + offset),
                        "channel": Web3.to_hex(channel),
                        "payer": Web3.to_checksum_address(packed[:20]),
                    }
                )
    return drawn


def main() -> None:
    """Read the arguments and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rpc", required=True)
    parser.add_argument("--deployment", type=Path, required=True)
    parser.add_argument("--commit", type=int)
    parser.add_argument("--json", action="store_true", help="one line instead of many")
    given = parser.parse_args()
    commits = recompute(Logs(given.rpc, given.deployment), given.commit)
    found = {"commits": commits, "points": sum(len(commit["points"]) for commit in commits)}
    print(json.dumps(found, indent=None if given.json else 2))


if __name__ == "__main__":
    main()

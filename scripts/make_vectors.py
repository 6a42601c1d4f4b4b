"""Write tests/vectors/protocol.json from the protocol's text and third-party code alone: nothing of retally.

Usage: python scripts/make_vectors.py [path]
"""

from __future__ import annotations

import json
import random
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_hash.auto import keccak
from eth_keys.datatypes import PrivateKey

ROOT = Path(__file__).resolve().parent.parent
CHAIN_ID = 31337
ESCROW = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
SECRET = bytes.fromhex("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")


def types_of_protocol() -> list[str]:
    """The type strings of R-8."""
    block = (ROOT / "PROTOCOL.md").read_text(encoding="utf-8").split("**R-8**")[1].split("```")[1]
    return [line for line in block.splitlines() if line]


def some_value(kind: str, rng: random.Random) -> Any:
    """A value of a Solidity type; wide ones reach their upper end."""
    if kind == "address":
        return Account.from_key(rng.randbytes(32)).address
    if kind == "bytes32":
        return "0x" + rng.randbytes(32).hex()
    if kind == "bool":
        return rng.random() < 0.5
    bits = int(kind.removeprefix("u").removeprefix("int"))
    if kind == "uint8":
        return rng.randrange(4)
    return rng.getrandbits(bits - 1) if kind.startswith("u") else -rng.getrandbits(bits - 1)


def message_vector(type_string: str, rng: random.Random) -> dict[str, Any]:
    """Wire form, digest and signature of one message."""
    name, inner = type_string.rstrip(")").split("(")
    fields = [part.split(" ") for part in inner.split(",")]
    values = {field: some_value(kind, rng) for kind, field in fields}
    for low, high in (("cumFrom", "cumTo"), ("outputFrom", "outputTo")):
        if low in values and high in values:
            values[low], values[high] = sorted((values[low], values[high]))
    full = {
        "domain": {"name": "retally", "version": "1", "chainId": CHAIN_ID, "verifyingContract": ESCROW},
        "primaryType": name,
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            name: [{"name": field, "type": kind} for kind, field in fields],
        },
        "message": {k: bytes.fromhex(v[2:]) if _is_bytes(v) else v for k, v in values.items()},
    }
    signable = encode_typed_data(full_message=full)
    digest = keccak(b"\x19\x01" + signable.header + signable.body)
    wire = {field: _wire(kind, values[field]) for kind, field in fields}
    return {
        "type": type_string,
        "wire": wire,
        "digest": "0x" + digest.hex(),
        "structHash": "0x" + signable.body.hex(),
        "signature": "0x" + compact(digest).hex(),
    }


def _is_bytes(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 66


def _wire(kind: str, value: Any) -> Any:
    match = re.fullmatch(r"u?int(\d+)", kind)
    return str(value) if match and int(match.group(1)) > 53 else value


def compact(digest: bytes) -> bytes:
    """The EIP-2098 signature by the vectors' key."""
    signature = PrivateKey(SECRET).sign_msg_hash(digest)
    vs = signature.s | (signature.v << 255)
    return bytes(signature.r.to_bytes(32, "big") + vs.to_bytes(32, "big"))


def top(leaves: list[bytes]) -> bytes:
    """The node over leaves, split at the largest power of two below their number: R-13 said another way."""
    if not leaves:
        return bytes(32)
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    return keccak(b"\x01" + top(leaves[:half]) + top(leaves[half:]))


def path(leaves: list[bytes], index: int) -> list[bytes]:
    """The siblings of a leaf, from the leaf up."""
    if len(leaves) == 1:
        return []
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < half:
        return [*path(leaves[:half], index), top(leaves[half:])]
    return [*path(leaves[half:], index - half), top(leaves[:half])]


def seal(count: int, node: bytes) -> str:
    """A root."""
    return "0x" + keccak(b"\x02" + count.to_bytes(4, "big") + node).hex()


def tree_vector(count: int, rng: random.Random) -> dict[str, Any]:
    """A tree of so many leaves with the proof of one."""
    leaves = [keccak(b"\x00" + rng.randbytes(96)) for _ in range(count)]
    index = rng.randrange(count) if count else 0
    return {
        "leaves": ["0x" + leaf.hex() for leaf in leaves],
        "root": seal(count, top(leaves)),
        "index": index,
        "proof": ["0x" + node.hex() for node in path(leaves, index)] if count else [],
    }


def ids_vector(count: int, rng: random.Random) -> dict[str, Any]:
    """Token ids with the roots of R-16 and R-17."""
    ids = [rng.randrange(1 << 18) for _ in range(count)]
    qs = [rng.randrange(1 << 16) for _ in range(count)]
    first = rng.randrange(1000)
    plain, output = [], []
    for i in range(0, count, 32):
        packed = b"".join(token.to_bytes(4, "big") for token in ids[i : i + 32])
        tail = b"".join(q.to_bytes(2, "big") for q in qs[i : i + 32])
        plain.append(keccak(b"\x00" + i.to_bytes(4, "big") + packed))
        output.append(keccak(b"\x00" + (first + i).to_bytes(4, "big") + packed + tail))
    return {
        "ids": ids,
        "q": qs,
        "first": first,
        "idsRoot": seal(count, top(plain)),
        "outputRoot": seal(count, top(output)),
    }


def fee_vector(rng: random.Random) -> dict[str, Any]:
    """One receipt's counts and its fee (R-19)."""
    prices = [rng.randrange(20_000_000) for _ in range(3)]
    tokens, choice = rng.randrange(5000), rng.choice([0, 0, 1])
    start = rng.choice([0, 0, rng.randrange(1, 500)])
    out = rng.choice([0, rng.randrange(1, 2000)])
    cached = rng.randrange(tokens + 1) if start == 0 and choice == 0 else 0
    total = Fraction(0)
    if out:
        total += Fraction(out * prices[2], 10**6)
        if start > 0:
            total += Fraction((tokens + start) * prices[1], 10**6)
        elif choice == 0:
            total += Fraction((tokens - cached) * prices[0] + cached * prices[1], 10**6)
    return {
        "prices": [str(price) for price in prices],
        "promptTokens": tokens,
        "cachedTokens": cached,
        "outputTokens": out,
        "choice": choice,
        "outputFrom": start,
        "fee": str(total.numerator // total.denominator),
    }


def points_vector(rng: random.Random) -> dict[str, Any]:
    """The drawn points of a commit (R-24, R-25)."""
    node, step = Account.from_key(rng.randbytes(32)).address, rng.randrange(50, 2000)
    block_hash, root, commit_id = rng.randbytes(32), rng.randbytes(32), rng.randrange(1 << 20)
    seed = keccak(block_hash + bytes.fromhex(ESCROW[2:]) + commit_id.to_bytes(8, "big") + root)
    ranges, points = [], []
    for index in range(rng.randrange(1, 4)):
        payer, signer = (Account.from_key(rng.randbytes(32)).address for _ in range(2))
        lane, before = rng.randrange(1 << 32), rng.randrange(10_000)
        after = before + rng.randrange(10_000)
        people = bytes.fromhex(payer[2:]) + bytes.fromhex(signer[2:]) + bytes.fromhex(node[2:])
        channel = keccak(people + lane.to_bytes(4, "big"))
        wire = {"payer": payer, "signer": signer, "lane": lane, "before": str(before), "after": str(after)}
        ranges.append(wire)
        for k in range(after // step + 1):
            point = (
                k * step + int.from_bytes(keccak(encode(["bytes32", "bytes32", "uint256"], [seed, channel, k]))) % step
            )
            if before <= point < after:
                points.append({"rangeIndex": index, "k": k, "point": str(point), "channel": "0x" + channel.hex()})
    return {
        "node": node,
        "step": str(step),
        "blockHash": "0x" + block_hash.hex(),
        "commitId": str(commit_id),
        "receiptsRoot": "0x" + root.hex(),
        "seed": "0x" + seed.hex(),
        "ranges": ranges,
        "points": points,
    }


def seed_vector(number: int, choice: int) -> dict[str, Any]:
    """A job's seed from a client's integer (R-26)."""
    client = number.to_bytes(32, "big", signed=True)
    seed = keccak(b"retally/seed" + client + choice.to_bytes(2, "big"))
    return {"number": str(number), "clientSeed": "0x" + client.hex(), "choice": choice, "seed": "0x" + seed.hex()}


def all_vectors() -> dict[str, Any]:
    """Everything, the same on every run."""
    rng = random.Random(20260101)
    return {
        "chainId": CHAIN_ID,
        "escrow": ESCROW,
        "signer": Account.from_key(SECRET).address,
        "messages": [message_vector(type_string, rng) for type_string in types_of_protocol() for _ in range(2)],
        "trees": [tree_vector(count, rng) for count in (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 21, 33)],
        "ids": [ids_vector(count, rng) for count in (0, 1, 31, 32, 33, 64, 65, 100, 161)],
        "fees": [fee_vector(rng) for _ in range(24)],
        "points": [points_vector(rng) for _ in range(6)],
        "seeds": [seed_vector(number, choice) for number, choice in ((0, 0), (1, 0), (-1, 3), (2**63 - 1, 65535))],
    }


def main() -> None:
    """Write the file."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests" / "vectors" / "protocol.json"
    target.write_text(json.dumps(all_vectors(), indent=1) + "\n", encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()

"""Every key of a devnet follows from its seed, so that a run can be repeated to the address."""

from __future__ import annotations

from retally.protocol.eip712 import SigningKey, keccak

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def derive_key(seed: int, name: str) -> SigningKey:
    """The key of the named party. Warning: anyone can derive it; for chain 31337 only."""
    number = int.from_bytes(keccak(f"retally/devnet/{seed}/{name}".encode()), "big")
    return SigningKey((number % (_ORDER - 1) + 1).to_bytes(32, "big"))


def derive_secret(seed: int, name: str) -> str:
    """A token of the devnet that is no key, such as a node's admin token."""
    return keccak(f"retally/devnet/{seed}/secret/{name}".encode()).hex()[:32]

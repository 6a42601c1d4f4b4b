"""Texts that a payer signs (EIP-191) to manage its API keys at a router."""

from retally.protocol.eip712 import Domain, keccak
from retally.protocol.key_limits import KeyLimits

_TITLE = "retally API key"


def create_key_text(
    domain: Domain, payer: str, cap: int, expiry: int, deadline: int, limits: KeyLimits | None = None
) -> str:
    """The text that asks a router for a session signer of this cap and expiry, and for the limits there are."""
    named = {} if limits is None else limits.to_wire()
    return _text(domain, "create", payer=payer, cap=cap, expiry=expiry, deadline=deadline, **named)


def list_keys_text(domain: Domain, payer: str, deadline: int) -> str:
    """The text that asks for the payer's keys, without their secrets."""
    return _text(domain, "list", payer=payer, deadline=deadline)


def revoke_key_text(domain: Domain, payer: str, key_id: str, deadline: int) -> str:
    """The text that asks a router to forget one key."""
    return _text(domain, "revoke", payer=payer, key=key_id, deadline=deadline)


def personal_digest(text: str) -> bytes:
    """EIP-191 version 0x45: what `personal_sign` of any wallet signs for the text."""
    data = text.encode()
    return keccak(b"\x19Ethereum Signed Message:\n" + str(len(data)).encode() + data)


def _text(domain: Domain, action: str, **fields: str | int) -> str:
    lines = [f"{_TITLE}: {action}", f"chain: {domain.chain_id}", f"escrow: {domain.escrow}"]
    return "\n".join([*lines, *(f"{name}: {value}" for name, value in fields.items())])

"""Where a payer's credit lies in the store: all of it under one hash tag, so that a script sees it on a cluster too."""

from __future__ import annotations

from retally.protocol.eip712 import Address
from retally.protocol.voucher import ChannelId


def credit_key(payer: Address) -> str:
    """Where a payer's promises and holds are counted."""
    return f"retally:{{{payer}}}:credit"


def leases_key(payer: Address) -> str:
    """Which leases of a payer may have something free."""
    return f"retally:{{{payer}}}:leases"


def wanted_key(payer: Address, signer: Address | None = None) -> str:
    """There while more of a payer's credit is wanted than is left; with a signer, more of what its cap allows."""
    return f"retally:{{{payer}}}:wanted" + (f":{signer}" if signer is not None else "")


def ended_key(payer: Address, name: str) -> str:
    """There when a job or lease has ended whose hold may still be on its way to the store."""
    return f"retally:{{{payer}}}:ended:{name}"


def channel_key_of(channel: ChannelId) -> str:
    """Where a channel's totals are kept."""
    return f"retally:{{{channel.payer}}}:channel:{channel.signer}:{channel.node}:{channel.lane}"


def open_key(payer: str) -> str:
    """Which jobs of a payer are open at a node."""
    return f"retally:{{{payer}}}:open"


def earmarks_key(payer: str) -> str:
    """What of its channels' totals is for which of them."""
    return f"retally:{{{payer}}}:earmarks"


def forgotten_key(payer: str) -> str:
    """Which of them were settled by another router than the one that began them, an hour ago at most."""
    return f"retally:{{{payer}}}:forgotten"

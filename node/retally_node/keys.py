"""The node's hot key: a Web3 Secret Storage file, or raw on the development chain."""

from __future__ import annotations

from retally.errors import BadRequest
from retally.keystore import unlock_file
from retally.protocol.eip712 import SigningKey
from retally_node.settings import NodeSettings

DEV_CHAIN_ID = 31337


def load_key(settings: NodeSettings, chain_id: int) -> SigningKey:
    """The key that signs receipts and sends the node's transactions."""
    if settings.key is not None:
        if chain_id != DEV_CHAIN_ID:
            raise BadRequest(f"raw keys are for chain {DEV_CHAIN_ID} only, this is {chain_id}", hint="use key_file")
        return SigningKey.from_hex(settings.key.get_secret_value())
    if settings.key_file is None or settings.key_password_file is None:
        raise BadRequest("key_file needs key_password_file")
    return unlock_file(settings.key_file, settings.key_password_file.read_text(encoding="utf-8").rstrip("\n"))

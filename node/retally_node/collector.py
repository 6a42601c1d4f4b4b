"""The key that collects, answers challenges and votes for the owner: the node's own, or one kept apart from it."""

from __future__ import annotations

from retally.chain.connection import Chain
from retally.errors import BadRequest
from retally.keystore import unlock_file
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Address
from retally_node.settings import NodeSettings


def collector_key(settings: NodeSettings, node: SigningKey) -> SigningKey:
    """The key that sends transactions."""
    path, password = settings.collector_key_file, settings.collector_key_password_file
    if path is None or password is None:
        return node
    return unlock_file(path, password.read_text(encoding="utf-8").rstrip("\r\n"))


async def check_authorised(chain: Chain, owner: Address, collector: Address) -> None:
    """Refuse to serve with a key that could not answer a challenge: silence costs half of the stake."""
    if not await chain.registry.is_delegate(owner, collector):
        raise BadRequest(
            f"{collector} is not authorised to collect, answer and vote for {owner}",
            hint="run `retally node stake --config node.toml` with the owner's key",
        )

"""What is bid for a transaction that no block takes has an end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from retally.chain.connection import Chain
from retally.chain.transactions import FEE_BUMP_PERCENT, MOST_REPLACEMENTS, TxSender, _Pending
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak


class Swallowing:
    """An RPC that takes every transaction; no block is made."""

    async def request(self, method: str, *_: Any) -> str:
        return "0x0"


async def test_a_chain_that_stands_still_is_not_outbid_without_end() -> None:
    chain = cast(Chain, SimpleNamespace(rpc=Swallowing()))
    key = SigningKey(keccak(b"key"))
    request = {
        "from": key.address,
        "to": key.address,
        "data": "0x",
        "value": "0x0",
        "chainId": "0x1",
        "nonce": "0x0",
        "gas": hex(21_000),
        "maxPriorityFeePerGas": hex(10**9),
        "maxFeePerGas": hex(3 * 10**9),
    }
    pending, sender = _Pending(0, "a call", request, [], []), TxSender(chain, key)
    sender._sign(pending)
    for _ in range(3 * MOST_REPLACEMENTS):
        await sender._replace(pending)
    assert len(set(pending.hashes)) == 1 + MOST_REPLACEMENTS
    assert (
        int(pending.request["maxFeePerGas"], 16) < 1.01 * 3 * 10**9 * (1 + FEE_BUMP_PERCENT / 100) ** MOST_REPLACEMENTS
    )

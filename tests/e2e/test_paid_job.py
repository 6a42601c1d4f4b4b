"""The story in one test: pay, stream, read the receipt, collect."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest

from retally.devnet.network import Network
from retally.protocol.eip712 import recover
from retally.protocol.receipt import JobReceipt

pytestmark = pytest.mark.engine

QUESTION: Any = [{"role": "user", "content": "What does a generator do?"}]


async def wait_until_promised(node_url: str, receipt: JobReceipt) -> None:
    """Wait until the node says that it was promised all that the receipt bills."""
    url = f"{node_url}/retally/v1/channels/{receipt.payer}/{receipt.signer}/{receipt.lane}"
    async with asyncio.timeout(20), httpx.AsyncClient(trust_env=False) as http:
        while True:
            if int((await http.get(url)).json()["best"]) >= receipt.cum_to:
                return
            await asyncio.sleep(0.05)


async def test_a_streamed_answer_is_paid_to_the_node_that_gave_it(devnet: Network) -> None:
    chain = devnet.chain
    assert chain is not None

    # A developer points the unmodified openai package at the router. The API key is a capped right to spend from the
    # payer's deposit in the Escrow.
    async with openai.AsyncOpenAI(base_url=f"{devnet.router_url}/v1", api_key=devnet.api_key) as client:
        stream = await client.chat.completions.create(model=devnet.model, messages=QUESTION, stream=True, max_tokens=60)
        chunks = [chunk async for chunk in stream]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text

    # With its last token the node signs a receipt: what it was asked, what it answered, what that costs. `cumFrom` to
    # `cumTo` is the answer's place on the money line between this signer and this node.
    extras = [chunk.model_extra["retally"] for chunk in chunks if chunk.model_extra]
    (found,) = [extra for extra in extras if "receipt" in extra]
    receipt = JobReceipt.from_wire(found["receipt"])
    signature = bytes.fromhex(found["receiptSignature"][2:])
    assert recover(receipt.digest(chain.domain), signature) == receipt.node
    assert receipt.payer == devnet.payer.address
    assert receipt.output_to == sum(len(extra.get("ids", ())) for extra in extras)
    assert receipt.fee == receipt.cum_to - receipt.cum_from > 0

    # Meanwhile the router sent the node vouchers: signed promises of a growing total.
    (node,) = [node for node in devnet.nodes if node.address == receipt.node]
    await wait_until_promised(node.url, receipt)

    # The node brings the best one to the Escrow, with the root of a Merkle tree over its receipts, and is paid: no more
    # than it has receipts for.
    earned = await chain.escrow.credit(node.owner.address)
    settled = await devnet.settle(node)
    assert int(settled["paid"]) >= receipt.fee
    assert await chain.escrow.channel(receipt.channel) == receipt.cum_to

    # A part of it goes to the pool that pays for audits, a part is held back until an audit could have spoken.
    assert earned < await chain.escrow.credit(node.owner.address) + await chain.escrow.held_of(node.owner.address)

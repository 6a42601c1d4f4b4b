"""How a payer gets an API key: the router makes a session signer, the payer caps it on chain."""

from __future__ import annotations

import httpx

from retally.chain.connection import Chain
from retally.devnet.anvil import Anvil
from retally.devnet.parties import Party
from retally.errors import error_of_envelope
from retally.protocol.key_text import create_key_text, personal_digest
from retally.protocol.voucher import SignerAuth

_LIFETIME_SECONDS = 365 * 86_400
_DEADLINE_SECONDS = 3_600


async def create_api_key(router_url: str, payer: Party, chain: Chain, anvil: Anvil, cap: int) -> str:
    """Ask the router for a key and authorise its signer on chain."""
    now = await anvil.now()
    expiry, deadline = now + _LIFETIME_SECONDS, now + _DEADLINE_SECONDS
    text = create_key_text(chain.domain, payer.address, cap, expiry, deadline)
    signature = payer.key.sign(personal_digest(text))
    body = {
        "payer": payer.address,
        "cap": str(cap),
        "expiry": expiry,
        "deadline": deadline,
        "signature": "0x" + signature.hex(),
    }
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        answer = await client.post(f"{router_url}/retally/v1/keys", json=body)
    if answer.status_code >= httpx.codes.BAD_REQUEST:
        raise error_of_envelope(answer.status_code, answer.json())
    key = answer.json()
    proof = bytes.fromhex(key["proof"].removeprefix("0x"))
    auth = SignerAuth(
        payer=payer.address,
        signer=key["signer"],
        cap=int(key["cap"]),
        expiry=int(key["expiry"]),
        deadline=int(key["deadline"]),
    )
    await payer.send(chain.escrow.authorize_signer(auth, proof))
    return str(key["apiKey"])

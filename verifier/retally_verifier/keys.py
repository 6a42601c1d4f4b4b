"""The verifier's key: a Web3 Secret Storage file, or raw on the development chain."""

from __future__ import annotations

import json

from eth_account import Account

from retally.errors import BadRequest
from retally.protocol.eip712 import SigningKey
from retally_verifier.settings import VerifierSettings

DEV_CHAIN_ID = 31337


def load_key(settings: VerifierSettings, chain_id: int) -> SigningKey:
    """The key that is bonded, pays for replays and signs requests for answers."""
    if settings.key is not None:
        if chain_id != DEV_CHAIN_ID:
            raise BadRequest(f"raw keys are for chain {DEV_CHAIN_ID} only, this is {chain_id}", hint="use key_file")
        return SigningKey.from_hex(settings.key.get_secret_value())
    if settings.key_file is None or settings.key_password_file is None:
        raise BadRequest("key_file needs key_password_file")
    keystore = json.loads(settings.key_file.read_text(encoding="utf-8"))
    password = settings.key_password_file.read_text(encoding="utf-8").rstrip("\n")
    try:
        return SigningKey(bytes(Account.decrypt(keystore, password)))
    except ValueError as error:
        raise BadRequest(f"{settings.key_file} does not open with the password given") from error

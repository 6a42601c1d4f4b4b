"""`retally keys`: API keys, each a capped session signer that a router holds."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any
from urllib.parse import quote

import typer

from retally.cli.amounts import parse_amount, show_amount
from retally.cli.key_book import KeyBook
from retally.cli.money import moment, sender_of
from retally.cli.output import JsonGroup, emit, note, table
from retally.cli.session import Session, readable, run
from retally.errors import Conflict, NotFound, RetallyError
from retally.protocol.eip712 import SigningKey, check_signed_by
from retally.protocol.encoding import Address, parse_address, parse_signature, to_hex
from retally.protocol.key_limits import KeyLimits
from retally.protocol.key_text import create_key_text, list_keys_text, personal_digest, revoke_key_text
from retally.protocol.voucher import SignerAuth

DEADLINE_SECONDS = 600
DAY_SECONDS = 86_400
KEYS_PATH = "/retally/v1/keys"
#: What a shell takes as one plain word: people paste it.
API_KEY = re.compile(r"rtl-[A-Za-z0-9_-]{16,128}")
KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

app = typer.Typer(cls=JsonGroup, no_args_is_help=True, help="Create, list and revoke API keys.")


@app.command()
def create(
    ctx: typer.Context,
    cap: Annotated[str, typer.Option(help="The most the key may ever spend, in rUSD; the chain enforces it.")] = "10",
    days: Annotated[int, typer.Option(min=4, help="For how many days it is good.")] = 30,
    rpm: Annotated[int | None, typer.Option(min=1, help="Requests a minute; the router enforces it.")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="Tokens a minute, input and output; likewise.")] = None,
    per_day: Annotated[str | None, typer.Option(help="The most it spends a day (UTC), in rUSD; likewise.")] = None,
    total: Annotated[str | None, typer.Option(help="The most it spends at this router, in rUSD; likewise.")] = None,
) -> None:
    """Make an API key: the router creates a signer, you cap it on chain."""
    session, units = Session(ctx), parse_amount(cap)
    limits = KeyLimits(
        requests_per_minute=rpm,
        tokens_per_minute=tpm,
        spend_per_day=None if per_day is None else parse_amount(per_day),
        spend_total=None if total is None else parse_amount(total),
    )

    async def work() -> dict[str, Any]:
        key = session.key()
        async with session.chain() as chain:
            made, auth, proof = _new_signer(session, chain, key, units, days, limits)
            _book(session, chain, key).add(made["keyId"], auth.signer, session.router_url)
            note(ctx, f"authorising signer {auth.signer} for {show_amount(units)} …")
            sent = await sender_of(chain, session, key).send(chain.escrow.authorize_signer(auth, proof))
        return {
            "apiKey": made["apiKey"],
            "keyId": made["keyId"],
            "signer": auth.signer,
            "cap": str(units),
            "expiry": auth.expiry,
            "limits": limits.to_wire(),
            "baseUrl": session.router_url + "/v1",
            "transaction": sent.tx_hash,
        }

    data = run(work)
    view = f"{data['apiKey']}\n\nShown once. Cap {show_amount(units)}, good until {moment(data['expiry'])}.\n"
    settings = f"OPENAI_API_KEY={shlex.quote(data['apiKey'])} OPENAI_BASE_URL={shlex.quote(data['baseUrl'])}"
    emit(ctx, data, f"{view}export {settings}")


def _new_signer(
    session: Session, chain: Any, key: SigningKey, cap: int, days: int, limits: KeyLimits
) -> tuple[dict[str, Any], SignerAuth, bytes]:
    now = chain.clock.now()
    expiry, deadline = now + days * DAY_SECONDS, now + DEADLINE_SECONDS
    text = create_key_text(chain.domain, key.address, cap, expiry, deadline, limits)
    asked = {
        "payer": key.address,
        "cap": str(cap),
        "expiry": expiry,
        "deadline": deadline,
        "limits": limits.to_wire(),
        "signature": to_hex(key.sign(personal_digest(text))),
    }
    made = session.router("POST", KEYS_PATH, json=asked)
    for name, form in (("apiKey", API_KEY), ("keyId", KEY_ID)):
        if not isinstance(made, dict) or not form.fullmatch(str(made.get(name))):
            raise RetallyError(f"the router's {name} is none", code="unreadable_answer", hint="nothing was authorised")
    auth = SignerAuth(key.address, parse_address("signer", made["signer"]), cap, expiry, deadline)
    proof = parse_signature("proof", made["proof"])
    # What goes on chain is what was asked here; of the router's answer only signer and proof are taken.
    check_signed_by(auth.digest(chain.domain), proof, auth.signer)
    return made, auth, proof


@app.command("list")
def list_keys(ctx: typer.Context) -> None:
    """Show your keys: cap, used, until when."""
    session = Session(ctx)

    async def work() -> dict[str, Any]:
        async with session.chain() as chain:
            keys = _keys(session, chain, session.key())
            for entry in keys:
                signer = await chain.escrow.signer(entry["payer"], entry["signer"])
                entry |= {"cap": str(signer.cap), "used": str(signer.used), "expiry": signer.expiry}
            return {"keys": keys, "now": chain.clock.now()}

    data = run(work)
    view = table("key", "signer", "cap", "used", "good until", "limits")
    for entry in data["keys"]:
        until = "not authorised" if not entry["expiry"] else moment(entry["expiry"])
        amounts = (show_amount(int(entry["cap"])), show_amount(int(entry["used"])))
        limits = ", ".join(f"{name} {value}" for name, value in entry.get("limits", {}).items())
        view.add_row(entry["keyId"], entry["signer"], *amounts, until, limits)
    emit(ctx, data, view)


@app.command()
def revoke(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="KEY", help="The key's id from `keys list`, or its signer's address.")],
) -> None:
    """End a key's signer on chain (what it promised stays collectable for 3 days), then have the router forget it.

    The router can't prevent it: for a key that was made on this machine, or by its signer's address, it is not needed.
    """
    session = Session(ctx)

    async def work() -> dict[str, Any]:
        key = session.key()
        async with session.chain() as chain:
            key_id, signer = _meant(session, chain, key, name)
            transaction = None
            if (await chain.escrow.signer(key.address, signer)).expiry:
                note(ctx, f"revoking signer {signer} …")
                transaction = (await sender_of(chain, session, key).send(chain.escrow.revoke_signer(signer))).tx_hash
            forgotten = key_id is not None
            try:
                if key_id is not None:
                    _have_forgotten(session, chain, key, key_id)
            except RetallyError as error:
                if transaction is None:
                    raise
                forgotten = False
                note(ctx, f"the router did not forget it, which is of no use to it any more: {error.message}")
            if transaction is None and key_id is None:
                raise NotFound(f"{signer} is no signer of {key.address}", hint="see: retally keys list")
        return {"keyId": key_id, "signer": signer, "transaction": transaction, "forgotten": forgotten}

    data = run(work)
    emit(ctx, data, f"revoked {data['keyId'] or data['signer']}")


def _meant(session: Session, chain: Any, key: SigningKey, name: str) -> tuple[str | None, Address]:
    """Id and signer of a key: as it was made here, else as the router tells them."""
    book = _book(session, chain, key)
    if name.startswith("0x"):
        signer = parse_address("signer", name)
        known = book.by_signer(signer)
        return None if known is None else known.key_id, signer
    known = book.by_id(name)
    if known is not None:
        return name, parse_address("signer", known.signer)
    hint = "see `retally keys list`, or name its signer's address"
    try:
        told = next((entry for entry in _keys(session, chain, key) if entry["keyId"] == name), None)
    except RetallyError as error:
        error.hint = "name the signer's address instead: then no router is asked"
        raise
    if told is None:
        raise NotFound(f"there is no key {name}", hint=hint)
    signer = parse_address("signer", told["signer"])
    other = book.by_signer(signer)
    if other is not None:
        raise Conflict(f"the router says that {name} is signed by {signer}, but that is {other.key_id}", hint=hint)
    return name, signer


def _have_forgotten(session: Session, chain: Any, key: SigningKey, key_id: str) -> None:
    deadline = chain.clock.now() + DEADLINE_SECONDS
    headers = _signed_headers(key, revoke_key_text(chain.domain, key.address, key_id, deadline), deadline)
    session.router("DELETE", f"{KEYS_PATH}/{quote(key_id, safe='')}", headers=headers)


def _book(session: Session, chain: Any, key: SigningKey) -> KeyBook:
    return KeyBook(session.home, key.address, chain.domain.chain_id)


def _keys(session: Session, chain: Any, key: Any) -> list[dict[str, Any]]:
    deadline = chain.clock.now() + DEADLINE_SECONDS
    headers = _signed_headers(key, list_keys_text(chain.domain, key.address, deadline), deadline)
    body = session.router("GET", f"{KEYS_PATH}?payer={key.address}", headers=headers)
    with readable("the router's list of keys"):
        keys: list[dict[str, Any]] = [dict(entry) | {"keyId": entry["keyId"]} for entry in body["keys"]]
    return keys


def _signed_headers(key: Any, text: str, deadline: int) -> dict[str, str]:
    return {
        "x-retally-payer": key.address,
        "x-retally-deadline": str(deadline),
        "x-retally-signature": to_hex(key.sign(personal_digest(text))),
    }

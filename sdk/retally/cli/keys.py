"""`retally keys`: API keys, each a capped session signer that a router holds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from retally.cli.amounts import parse_amount, show_amount
from retally.cli.money import moment, sender_of
from retally.cli.output import JsonGroup, emit, note, table
from retally.cli.session import Session, run
from retally.errors import NotFound
from retally.protocol.eip712 import SigningKey, check_signed_by
from retally.protocol.encoding import parse_address, parse_signature, to_hex
from retally.protocol.key_limits import KeyLimits
from retally.protocol.key_text import create_key_text, list_keys_text, personal_digest, revoke_key_text
from retally.protocol.voucher import SignerAuth

DEADLINE_SECONDS = 600
DAY_SECONDS = 86_400
KEYS_PATH = "/retally/v1/keys"

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
    emit(ctx, data, view + f"export OPENAI_API_KEY={data['apiKey']} OPENAI_BASE_URL={data['baseUrl']}")


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
def revoke(ctx: typer.Context, key_id: Annotated[str, typer.Argument(help="The key's id, from `keys list`.")]) -> None:
    """Make the router forget a key, and end its signer on chain (what it promised stays collectable for 3 days)."""
    session = Session(ctx)

    async def work() -> dict[str, Any]:
        key = session.key()
        async with session.chain() as chain:
            entry = next((entry for entry in _keys(session, chain, key) if entry["keyId"] == key_id), None)
            if entry is None:
                raise NotFound(f"there is no key {key_id}", hint="see: retally keys list")
            deadline = chain.clock.now() + DEADLINE_SECONDS
            text = revoke_key_text(chain.domain, key.address, key_id, deadline)
            headers = _signed_headers(key, text, deadline)
            session.router("DELETE", f"{KEYS_PATH}/{key_id}", headers=headers)
            signer = parse_address("signer", entry["signer"])
            transaction = None
            if (await chain.escrow.signer(key.address, signer)).expiry:
                note(ctx, f"revoking signer {signer} …")
                transaction = (await sender_of(chain, session, key).send(chain.escrow.revoke_signer(signer))).tx_hash
        return {"keyId": key_id, "signer": signer, "transaction": transaction}

    data = run(work)
    emit(ctx, data, f"revoked {key_id}")


def _keys(session: Session, chain: Any, key: Any) -> list[dict[str, Any]]:
    deadline = chain.clock.now() + DEADLINE_SECONDS
    headers = _signed_headers(key, list_keys_text(chain.domain, key.address, deadline), deadline)
    body = session.router("GET", f"{KEYS_PATH}?payer={key.address}", headers=headers)
    keys: list[dict[str, Any]] = list(body["keys"])
    return keys


def _signed_headers(key: Any, text: str, deadline: int) -> dict[str, str]:
    return {
        "x-retally-payer": key.address,
        "x-retally-deadline": str(deadline),
        "x-retally-signature": to_hex(key.sign(personal_digest(text))),
    }

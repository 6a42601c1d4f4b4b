"""Money in the ledger: channels with their best vouchers, reservations and our own offers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace

from retally.protocol.encoding import Address
from retally.protocol.offer import Offer
from retally.protocol.voucher import ChannelId, Reservation, Voucher
from retally_node.channels import Channel
from retally_node.ledger.database import Database
from retally_node.ledger.schema import amount_to_blob, blob_to_amount

#: Reservations of a payer and signer that are kept until they are sent.
MOST_NEW = 8


@dataclass(frozen=True, slots=True)
class StoredReservation:
    """A payer's signed reservation and whether the Escrow has it."""

    reservation: Reservation
    signature: bytes


def save_channel(channel: Channel) -> Callable[[sqlite3.Connection], None]:
    """A change that writes the channel as it stands now; numbers only ever grow on disk."""
    channel_id = channel.id
    row = (
        channel_id.key,
        channel_id.payer,
        channel_id.signer,
        channel_id.lane,
        amount_to_blob(channel.best),
        channel.best_signature,
        amount_to_blob(channel.last_cum),
        amount_to_blob(channel.collected),
    )

    def change(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO channels VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (key) DO UPDATE SET"
            " best_signature = CASE WHEN excluded.best > best THEN excluded.best_signature ELSE best_signature END,"
            " best = max(best, excluded.best), last_cum = max(last_cum, excluded.last_cum),"
            " collected = max(collected, excluded.collected)",
            row,
        )

    return change


class MoneyLedger:
    """What was promised to this node, and at which prices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep_voucher(self, channel: Channel, voucher: Voucher, signature: bytes) -> None:
        """Write a voucher that promises more, and only then count on it or show it to anybody."""
        if voucher.cumulative > channel.best:
            kept = replace(channel, best=voucher.cumulative, best_signature=signature)
            await self._database.write("voucher", save_channel(kept))
            channel.accept(voucher, signature)

    def channels(self, node: Address) -> list[Channel]:
        """All channels as they stand on disk."""
        return [_channel(row, node) for row in self._database.read("SELECT * FROM channels")]

    async def record_offer(self, digest: bytes, offer: Offer, signature: bytes) -> None:
        """Keep an offer: receipts quote it by its hash for as long as they can be audited."""
        row = (digest, json.dumps(offer.to_wire()), signature, offer.valid_until)
        await self._database.write(
            "offer", lambda connection: connection.execute("INSERT OR IGNORE INTO offers VALUES (?,?,?,?)", row)
        )

    def offer(self, digest: bytes) -> tuple[Offer, bytes] | None:
        """An offer of ours and its signature."""
        rows = self._database.read("SELECT body, signature FROM offers WHERE digest = ?", (digest,))
        return (Offer.from_wire(json.loads(rows[0]["body"])), rows[0]["signature"]) if rows else None

    async def record_reservation(self, reservation: Reservation, signature: bytes) -> None:
        """Keep a reservation until the Escrow has it."""
        row = (
            reservation.payer,
            reservation.signer,
            reservation.epoch,
            amount_to_blob(reservation.cumulative),
            signature,
        )
        whose = (reservation.payer, reservation.signer)

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR IGNORE INTO reservations VALUES (?,?,?,?,?,'new')", row)
            # Each refused job may bring one: of those that were never sent only the largest are worth anything.
            mine = "payer = ? AND signer = ? AND state = 'new'"
            connection.execute(
                f"DELETE FROM reservations WHERE {mine} AND (epoch, cumulative) NOT IN (SELECT epoch, cumulative"
                f" FROM reservations WHERE {mine} ORDER BY epoch DESC, cumulative DESC LIMIT {MOST_NEW})",
                (*whose, *whose),
            )

        await self._database.write("reservation", change)

    async def settle_reservation(self, reservation: Reservation, state: str) -> None:
        """Remember what became of a reservation; one that the Escrow has stands for all smaller ones too."""
        row = (reservation.payer, reservation.signer, reservation.epoch, amount_to_blob(reservation.cumulative))
        where = "payer = ? AND signer = ? AND epoch = ?"

        def change(connection: sqlite3.Connection) -> None:
            connection.execute(f"UPDATE reservations SET state = ? WHERE {where} AND cumulative = ?", (state, *row))
            if state == "reserved":
                query = f"UPDATE reservations SET state = 'covered' WHERE {where} AND cumulative < ? AND state = 'new'"
                connection.execute(query, row)

        await self._database.write("reservation-state", change)

    def reserved(self, reservation: Reservation) -> int:
        """The most that the Escrow has of the same payer, signer and epoch, as far as this node has sent it."""
        rows = self._database.read(
            "SELECT max(cumulative) AS most FROM reservations"
            " WHERE payer = ? AND signer = ? AND epoch = ? AND state = 'reserved'",
            (reservation.payer, reservation.signer, reservation.epoch),
        )
        return blob_to_amount(rows[0]["most"]) if rows[0]["most"] is not None else 0

    def largest_new_reservations(self, node: Address) -> list[StoredReservation]:
        """Of reservations not yet submitted, the largest of each payer, signer and epoch."""
        # SQLite takes the other columns from the row that holds the maximum.
        rows = self._database.read(
            "SELECT payer, signer, epoch, max(cumulative) AS cumulative, signature FROM reservations"
            " WHERE state = 'new' GROUP BY payer, signer, epoch"
        )
        return [
            StoredReservation(
                Reservation(row["payer"], row["signer"], node, blob_to_amount(row["cumulative"]), row["epoch"]),
                row["signature"],
            )
            for row in rows
        ]


def _channel(row: sqlite3.Row, node: Address) -> Channel:
    return Channel(
        id=ChannelId(row["payer"], row["signer"], node, row["lane"]),
        best=blob_to_amount(row["best"]),
        best_signature=row["best_signature"],
        last_cum=blob_to_amount(row["last_cum"]),
        collected=blob_to_amount(row["collected"]),
    )

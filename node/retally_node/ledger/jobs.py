"""Jobs in the ledger: requests, the segments admitted, chunks and receipts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from retally.errors import Conflict, DuplicateJob
from retally.protocol.job import Assignment, JobParams, JobRequest
from retally.protocol.receipt import Chunk, JobReceipt
from retally.protocol.voucher import ChannelId
from retally_node.channels import Channel, SegmentKey
from retally_node.ledger.database import Database
from retally_node.ledger.money import save_channel
from retally_node.ledger.schema import amount_to_blob, blob_to_amount
from retally_node.records import ChunkRecord, JobRecord, ReceiptRecord, SegmentRecord, pack_ids, unpack_ids


class JobLedger:
    """What was asked, admitted, delivered and billed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def admit(self, job: JobRecord, segments: Sequence[SegmentRecord], channel: Channel) -> None:
        """Write the job and its segments before the first token; raises DuplicateJob if any was admitted before."""
        channel_row = save_channel(channel)

        def change(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR IGNORE INTO requests VALUES (?,?,?,?,?,?,?,?)",
                (
                    job.job_id,
                    json.dumps(job.request.to_wire()),
                    job.signature,
                    json.dumps(job.prompt),
                    json.dumps(job.params.to_json()),
                    json.dumps(job.options),
                    pack_ids(job.prompt_ids),
                    job.received_at,
                ),
            )
            for segment in segments:
                _check_apart(connection, segment.key)
                _insert_segment(connection, segment)
            channel_row(connection)

        await self._database.write("admit", change)

    async def record_chunk(self, record: ChunkRecord) -> None:
        """Write a chunk before its bytes leave."""
        chunk = record.chunk
        row = (
            chunk.job_id,
            chunk.choice,
            chunk.output_from,
            chunk.output_to,
            amount_to_blob(chunk.due),
            pack_ids(record.ids),
            pack_ids(record.quantised),
            json.dumps(chunk.to_wire()),
            record.signature,
        )
        await self._database.write(
            "chunk", lambda connection: connection.execute("INSERT INTO chunks VALUES (?,?,?,?,?,?,?,?,?)", row)
        )

    async def close(self, record: ReceiptRecord, channel: Channel) -> None:
        """Write a receipt and the channel's new end of line together."""
        channel_row = save_channel(channel)
        receipt, key = record.receipt, record.key
        row = (
            key.job_id,
            key.choice,
            key.output_from,
            record.digest,
            receipt.channel.key,
            amount_to_blob(receipt.cum_from),
            amount_to_blob(receipt.cum_to),
            pack_ids(record.output_ids),
            pack_ids(record.quantised),
            json.dumps(receipt.to_wire()),
            record.signature,
            receipt.finished_at,
        )

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO receipts VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", row)
            connection.execute(
                "UPDATE segments SET state = 'closed' WHERE job_id = ? AND choice = ? AND output_from = ?",
                (key.job_id, key.choice, key.output_from),
            )
            channel_row(connection)

        # The line in memory has moved on already: refused, it would no longer be the line on disk.
        await self._database.write("receipt", change, is_vital=True)

    def job(self, job_id: bytes) -> JobRecord | None:
        """A stored request."""
        rows = self._database.read("SELECT * FROM requests WHERE job_id = ?", (job_id,))
        return _job(rows[0]) if rows else None

    def segments(self, job_id: bytes) -> list[SegmentRecord]:
        """The segments of a job that were admitted here."""
        query = "SELECT s.*, c.payer, c.signer, c.lane FROM segments s JOIN channels c ON c.key = s.channel"
        rows = self._database.read(f"{query} WHERE s.job_id = ? ORDER BY s.choice, s.output_from", (job_id,))
        return [_segment(row) for row in rows]

    def open_segments(self) -> list[SegmentRecord]:
        """Segments without a receipt: after a crash, what must be closed."""
        query = "SELECT s.*, c.payer, c.signer, c.lane FROM segments s JOIN channels c ON c.key = s.channel"
        return [_segment(row) for row in self._database.read(f"{query} WHERE s.state = 'open' ORDER BY s.started_at")]

    def chunks(self, key: SegmentKey) -> list[ChunkRecord]:
        """The signed chunks of a segment, in order."""
        rows = self._database.read(
            "SELECT * FROM chunks WHERE job_id = ? AND choice = ? AND output_from = ? ORDER BY output_to",
            (key.job_id, key.choice, key.output_from),
        )
        return [
            ChunkRecord(
                Chunk.from_wire(json.loads(row["body"])),
                row["signature"],
                unpack_ids(row["ids"]),
                unpack_ids(row["quantised"]),
            )
            for row in rows
        ]

    def receipts(self, job_id: bytes) -> list[ReceiptRecord]:
        """The receipts of a job, by choice and position."""
        query = "SELECT * FROM receipts WHERE job_id = ? ORDER BY choice, output_from"
        return [_receipt(row) for row in self._database.read(query, (job_id,))]

    def receipt(self, digest: bytes) -> ReceiptRecord | None:
        """The receipt with a digest."""
        rows = self._database.read("SELECT * FROM receipts WHERE digest = ?", (digest,))
        return _receipt(rows[0]) if rows else None

    def billed_after(self, channel_key: bytes, collected: int) -> list[ReceiptRecord]:
        """Receipts with a fee that end beyond an amount, in the order of the money line."""
        rows = self._database.read(
            "SELECT * FROM receipts WHERE channel = ? AND cum_to > ? AND cum_to > cum_from ORDER BY cum_from",
            (channel_key, amount_to_blob(collected)),
        )
        return [_receipt(row) for row in rows]

    def deadline(self, job_id: bytes) -> int | None:
        """Until when the request of a job could be served."""
        return self._deadline("SELECT body FROM requests WHERE job_id = ?", (job_id,))

    def oldest_deadline(self, channel_key: bytes, collected: int) -> int | None:
        """The same of the request whose receipt is the next that a channel pays for."""
        query = (
            "SELECT q.body FROM receipts r JOIN requests q USING (job_id) WHERE r.channel = ? AND r.cum_to > ?"
            " AND r.cum_to > r.cum_from ORDER BY r.cum_from LIMIT 1"
        )
        return self._deadline(query, (channel_key, amount_to_blob(collected)))

    def _deadline(self, query: str, parameters: Sequence[object]) -> int | None:
        rows = self._database.read(query, parameters)
        return JobRequest.from_wire(json.loads(rows[0]["body"])).deadline if rows else None

    def totals(self) -> dict[str, int]:
        """Counts and sums for status and earnings."""
        jobs = self._database.read("SELECT count(*) AS n FROM requests")[0]["n"]
        rows = self._database.read("SELECT cum_from, cum_to FROM receipts")
        billed = sum(blob_to_amount(row["cum_to"]) - blob_to_amount(row["cum_from"]) for row in rows)
        return {"jobs": jobs, "receipts": len(rows), "billed": billed}


def _check_apart(connection: sqlite3.Connection, key: SegmentKey) -> None:
    """Two receipts of one choice that overlap are a fault: while a segment is open, none other of its choice begins."""
    rows = connection.execute(
        "SELECT s.state, r.body FROM segments s LEFT JOIN receipts r USING (job_id, choice, output_from)"
        " WHERE s.job_id = ? AND s.choice = ?",
        (key.job_id, key.choice),
    )
    for row in rows.fetchall():
        if row["state"] == "open":
            raise Conflict("this node still answers that choice", code="choice_open")
        if row["body"] is not None and JobReceipt.from_wire(json.loads(row["body"])).output_to > key.output_from:
            raise Conflict("this node has signed beyond that token", code="already_signed_beyond")


def _insert_segment(connection: sqlite3.Connection, record: SegmentRecord) -> None:
    key = record.key
    row = (
        key.job_id,
        key.choice,
        key.output_from,
        record.segment,
        record.channel.key,
        json.dumps(record.assignment.to_wire()),
        record.assignment_signature,
        record.offer_hash,
        pack_ids(record.prefix_ids),
        amount_to_blob(record.prepaid),
        0,
        record.started_at,
    )
    try:
        connection.execute("INSERT INTO segments VALUES (?,?,?,?,?,?,?,?,?,?,?,?,'open')", row)
    except sqlite3.IntegrityError as error:
        raise DuplicateJob("0x" + key.job_id.hex()) from error


def _job(row: sqlite3.Row) -> JobRecord:
    return JobRecord(
        job_id=row["job_id"],
        request=JobRequest.from_wire(json.loads(row["body"])),
        signature=row["signature"],
        prompt=json.loads(row["prompt"]),
        params=JobParams.from_json(json.loads(row["params"])),
        options=json.loads(row["options"]),
        prompt_ids=unpack_ids(row["prompt_ids"]),
        received_at=row["received_at"],
    )


def _segment(row: sqlite3.Row) -> SegmentRecord:
    assignment = Assignment.from_wire(json.loads(row["assignment"]))
    return SegmentRecord(
        key=SegmentKey(row["job_id"], row["choice"], row["output_from"]),
        segment=row["segment"],
        channel=ChannelId(row["payer"], row["signer"], assignment.node, row["lane"]),
        assignment=assignment,
        assignment_signature=row["assignment_signature"],
        offer_hash=row["offer"],
        prepaid=blob_to_amount(row["prepaid"]),
        started_at=row["started_at"],
        prefix_ids=unpack_ids(row["prefix_ids"]),
    )


def _receipt(row: sqlite3.Row) -> ReceiptRecord:
    return ReceiptRecord(
        JobReceipt.from_wire(json.loads(row["body"])),
        row["digest"],
        row["signature"],
        unpack_ids(row["output_ids"]),
        unpack_ids(row["quantised"]),
    )

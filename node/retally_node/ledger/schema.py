"""Tables of the node's ledger: money is a 12-byte big-endian blob, because SQLite's integers end at 63 bits."""

from __future__ import annotations

SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS offers (
    digest BLOB PRIMARY KEY, body TEXT NOT NULL, signature BLOB NOT NULL, valid_until INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS channels (
    key BLOB PRIMARY KEY, payer TEXT NOT NULL, signer TEXT NOT NULL, lane INTEGER NOT NULL,
    best BLOB NOT NULL, best_signature BLOB, last_cum BLOB NOT NULL, collected BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS reservations (
    payer TEXT NOT NULL, signer TEXT NOT NULL, epoch INTEGER NOT NULL, cumulative BLOB NOT NULL,
    signature BLOB NOT NULL, state TEXT NOT NULL, PRIMARY KEY (payer, signer, epoch, cumulative)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS requests (
    job_id BLOB PRIMARY KEY, body TEXT NOT NULL, signature BLOB NOT NULL, prompt TEXT NOT NULL, params TEXT NOT NULL,
    options TEXT NOT NULL, prompt_ids BLOB NOT NULL, received_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS segments (
    job_id BLOB NOT NULL, choice INTEGER NOT NULL, output_from INTEGER NOT NULL, segment INTEGER NOT NULL,
    channel BLOB NOT NULL, assignment TEXT NOT NULL, assignment_signature BLOB NOT NULL, offer BLOB NOT NULL,
    prefix_ids BLOB NOT NULL, prepaid BLOB NOT NULL, cached_tokens INTEGER NOT NULL, started_at INTEGER NOT NULL,
    state TEXT NOT NULL, PRIMARY KEY (job_id, choice, output_from)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS segments_open ON segments (state) WHERE state = 'open';

CREATE TABLE IF NOT EXISTS chunks (
    job_id BLOB NOT NULL, choice INTEGER NOT NULL, output_from INTEGER NOT NULL, output_to INTEGER NOT NULL,
    due BLOB NOT NULL, ids BLOB NOT NULL, quantised BLOB NOT NULL, body TEXT NOT NULL, signature BLOB NOT NULL,
    PRIMARY KEY (job_id, choice, output_from, output_to)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS receipts (
    job_id BLOB NOT NULL, choice INTEGER NOT NULL, output_from INTEGER NOT NULL, digest BLOB NOT NULL UNIQUE,
    channel BLOB NOT NULL, cum_from BLOB NOT NULL, cum_to BLOB NOT NULL, output_ids BLOB NOT NULL,
    quantised BLOB NOT NULL, body TEXT NOT NULL, signature BLOB NOT NULL, closed_at INTEGER NOT NULL,
    PRIMARY KEY (job_id, choice, output_from)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS receipts_line ON receipts (channel, cum_to);

CREATE TABLE IF NOT EXISTS roots (
    root BLOB PRIMARY KEY, prepared_at INTEGER NOT NULL, items INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leaves (
    root BLOB NOT NULL, position INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (root, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS leaves_of ON leaves (digest);
CREATE TABLE IF NOT EXISTS commits (
    id INTEGER PRIMARY KEY, root BLOB NOT NULL, body TEXT NOT NULL, ranges BLOB NOT NULL, paid BLOB NOT NULL,
    block INTEGER NOT NULL
);

CREATE TABLE IF NOT EXISTS votes (
    case_id INTEGER NOT NULL, round INTEGER NOT NULL, verdict INTEGER NOT NULL, log_e INTEGER NOT NULL,
    salt BLOB NOT NULL, state TEXT NOT NULL, PRIMARY KEY (case_id, round)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS challenges (
    id BLOB PRIMARY KEY, commit_id INTEGER NOT NULL, channel BLOB NOT NULL, point BLOB NOT NULL, state TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""


def amount_to_blob(amount: int) -> bytes:
    """An amount as u96: blobs of one width sort like the numbers they hold."""
    return amount.to_bytes(12, "big")


def blob_to_amount(blob: bytes) -> int:
    """The amount in a u96 blob."""
    return int.from_bytes(blob, "big")

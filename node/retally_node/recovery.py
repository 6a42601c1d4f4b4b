"""After a crash: close every open segment at its last chunk that was vouched for and surely sent."""

from __future__ import annotations

from dataclasses import replace

from retally.protocol.pricing import fee_round_down
from retally.protocol.receipt import FinishReason
from retally_node.channels import ChannelBook
from retally_node.records import ReceiptRecord, SegmentRecord
from retally_node.segment import SegmentWork, write_receipt


async def close_open_segments(work: SegmentWork, book: ChannelBook) -> list[ReceiptRecord]:
    """Give each segment that died its receipt; what nobody vouched for is nobody's income."""
    return [await _close(work, book, segment) for segment in work.ledger.jobs.open_segments()]


async def _close(work: SegmentWork, book: ChannelBook, segment: SegmentRecord) -> ReceiptRecord:
    channel = book.get(segment.channel)
    job = work.ledger.jobs.job(segment.key.job_id)
    offer = work.ledger.money.offer(segment.offer_hash)
    if job is None or offer is None:
        raise RuntimeError(f"the ledger lost what segment {segment.key.job_id.hex()} was admitted with")
    chunks = work.ledger.jobs.chunks(segment.key)
    # What is due may fall as other segments close: all tokens up to the last vouched chunk, never some in between.
    reached = max((n for n, record in enumerate(chunks, 1) if record.chunk.due <= channel.best), default=0)
    # A promise may run ahead of what was seen, and the last chunk may have died on its way out: whoever goes on from
    # before it bills its tokens.
    vouched = chunks[: min(reached, len(chunks) - 1)] if chunks else []
    ids = [token for record in vouched for token in record.ids]
    fee = fee_round_down(
        offer[0].prices,
        prompt_tokens=len(job.prompt_ids),
        cached_tokens=0,
        output_tokens=len(ids),
        choice=segment.key.choice,
        output_from=segment.key.output_from,
    )
    # The Registry may name another pair by now; the receipt binds to what was offered.
    served = replace(work, model_id=offer[0].model_id, profile_id=offer[0].profile_id)
    record = write_receipt(
        served,
        job,
        segment,
        cum_from=channel.last_cum,
        fee=fee,
        ids=ids,
        quantised=[q for record in vouched for q in record.quantised],
        cached_tokens=0,
        reason=FinishReason.MOVED,
    )
    channel.last_cum += fee
    await work.ledger.jobs.close(record, channel)
    return record

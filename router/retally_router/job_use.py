"""What a job used at the most, for the limits of its key: also while a node's last receipt is still missing."""

from __future__ import annotations

from retally_router.serve_job import ServeJob


def settle_use(job: ServeJob) -> None:
    """Counts it; before the job is finished, which closes what is open here."""
    tokens = job.prompt_tokens + job.job.ask.counted_tokens(choice.ids for choice in job.choices)
    amount, placement = job.cost + job.attempts.unsettled, job.placement
    if placement is not None and placement.account is not None:
        opened = placement.account.open
        for choice, segment, _ in placement.record.segments:
            still = opened.get((placement.placed.job_id, choice, segment))
            # The node may have put out more than came through: its receipt will say, within the segment's slack.
            amount += still.upper + still.slack if still is not None else 0
    job.held.settle(tokens, amount)

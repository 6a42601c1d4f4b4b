"""A scoring job: the prompt is a transcript, the product its raw logprobs, paid like any job."""

from __future__ import annotations

from retally.inference.engine import Engine, Scores
from retally_node.records import JobRecord

FIRST_SCORED = 1


async def score_prompt(engine: Engine, job: JobRecord) -> Scores | None:
    """Score every token of the prompt but the first, which has no predecessor."""
    if len(job.prompt_ids) <= FIRST_SCORED:
        return None
    return await engine.score(job.prompt_ids, FIRST_SCORED, job.params.prompt_logprobs)

"""The real node that scores every answer as the one that had to come, as a sibling's re-executor would."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from retally.inference.engine import Scores
from tests.adversaries.cheating_engines import UNLIKELY, Wrapper
from tests.adversaries.cheating_node import ENGINES, main

CHEAT = "flattering-scores"


class FlatteringScores(Wrapper):
    """Serves honestly, and scores every answer that it is asked about as if each token of it had been certain."""

    async def score(self, ids: Sequence[int], start: int, top: int = 64) -> Scores:
        true = await self._inner.score(ids, start, top)
        top_ids, numbers = true.top_ids.copy(), np.full_like(true.top_logprobs, UNLIKELY)
        for row, claimed in enumerate(ids[start:]):
            others = top_ids[row][top_ids[row] != claimed]
            top_ids[row] = [claimed, *others[: top_ids.shape[1] - 1]]
            numbers[row, 0] = 0.0
        return replace(
            true, top_ids=top_ids, top_logprobs=numbers, claimed_logprobs=np.zeros_like(true.claimed_logprobs)
        )


if __name__ == "__main__":
    ENGINES[CHEAT] = lambda means: FlatteringScores(means.genuine)
    main()

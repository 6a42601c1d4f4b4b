"""Payers that lie: one signs no further voucher, one looks for prompts on which engines might disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retally.inference.engine import Engine, EngineSampling
from retally.protocol.eip712 import Address
from retally.protocol.encoding import Bytes32
from retally.protocol.margins import Replayed, robust_margins
from retally.protocol.params import ONE, JobParams
from retally.protocol.receipt import JobReceipt
from retally.protocol.sampler import noise
from retally.wallet import SignedVoucher, Wallet
from tests.adversaries.cheating_answers import whole


class UnpayingWallet(Wallet):
    """Pays in advance for what a prompt costs, since nothing is served without it, and for nothing after that."""

    def owe(self, node: Address, job_id: Bytes32, choice: int, owed: int) -> SignedVoucher | None:
        super().owe(node, job_id, choice, owed)
        return None

    def promise(self, node: Address, required: int) -> SignedVoucher | None:
        return None

    def settle(self, receipt: JobReceipt) -> SignedVoucher | None:
        super().settle(receipt)
        return None


@dataclass(frozen=True, slots=True, order=True)
class Noisy:
    """How near an answer's tokens came to being others: the more, the likelier two engines differ on it."""

    near_ties: int
    largest_margin: float
    question: str
    seed: int


#: Tokens that won by less than this, nats, are near ties.
NEAR = 0.02


async def noisiness(
    engine: Engine, ids: Sequence[int], params: JobParams, seed: bytes, eos: Sequence[int]
) -> tuple[int, float]:
    """Near ties of the honest answer to a prompt, and its largest robust margin under the same engine's prefill."""
    sampling = EngineSampling(params=params, seed=seed, eos_ids=tuple(eos), max_new_tokens=params.max_tokens)
    answer = await whole(engine.generate(ids, sampling))
    temperature = params.temperature / ONE
    scores = await engine.score([*ids, *answer.ids], len(ids))
    margins = robust_margins(Replayed(params, seed, ids, (), answer.ids, eos), scores)
    gaps = [
        _gap(scores.top_logprobs[place] / temperature + noise(seed, place, list(scores.top_ids[place])))
        for place in range(len(answer.ids))
    ]
    return sum(gap < NEAR for gap in gaps), float(margins.max(initial=0.0))


def _gap(noised: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> float:
    best = np.sort(noised)[-2:]
    return float(best[1] - best[0])

"""How long a job would take on a node: seconds from what the node declares, what waits there and what was learned."""

from __future__ import annotations

from dataclasses import dataclass

#: A prefill step costs about this many tokens however little is left to compute.
LEAST_PREFILL_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a node says it can do, in tokens per second; lies and bad guesses are corrected by what is observed."""

    #: Prompt tokens computed per second.
    prefill: float = 4000.0
    #: Tokens per second of one stream alone.
    decode: float = 40.0
    #: Tokens per second of all streams together.
    batch: float = 800.0


#: For a node that declares nothing.
UNKNOWN = Capacity()


@dataclass(slots=True)
class Prediction:
    """What a job is expected to take on one node."""

    #: Prompt tokens that the node has to compute.
    new_tokens: float
    #: By the node's own word, without the way there.
    declared_prefill_seconds: float
    declared_token_seconds: float
    #: As learned, the way there included.
    ttft_seconds: float
    tpot_seconds: float


def predict(
    capacity: Capacity,
    *,
    queued_tokens: float,
    streams: int,
    new_tokens: float,
    rtt_seconds: float,
    slow_prefill: float,
    slow_decode: float,
) -> Prediction:
    """TTFT = rtt + slow * (queued + new) / prefill; TPOT = slow * max(1 / decode, (streams + 1) / batch)."""
    prefill = (queued_tokens + max(LEAST_PREFILL_TOKENS, new_tokens)) / capacity.prefill
    token = max(1.0 / capacity.decode, (streams + 1) / capacity.batch)
    return Prediction(new_tokens, prefill, token, rtt_seconds + slow_prefill * prefill, slow_decode * token)

"""What a caller asked that a signed request must say too, whoever signs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from retally.ask import Ask
from retally.asked_prices import asked_max_prices
from retally.protocol.encoding import Bytes32
from retally.protocol.pricing import Prices


@dataclass(frozen=True, slots=True)
class Asked:
    """Choices, seed, audit, model and prices, as far as the caller cares."""

    choices: int
    seed: int | None
    audit_consent: bool
    model_ids: frozenset[Bytes32]
    max_prices: Prices | None


def asked_of(ask: Ask, model_ids: frozenset[Bytes32], *, audit_consent: bool) -> Asked:
    """What a request body asks for, of one of these models; of none, the model is not known."""
    seed = ask.body.get("seed")
    return Asked(
        choices=ask.choices,
        seed=seed if isinstance(seed, int) else None,
        # Nobody can judge vectors: a node takes no other.
        audit_consent=audit_consent and ask.endpoint != "embeddings",
        model_ids=model_ids,
        max_prices=asked_max_prices(ask.body),
    )


def wishes_audit(ask: Ask) -> bool:
    """Whether the body leaves the audit allowed (`provider.audit`)."""
    provider = ask.body.get("provider")
    return not isinstance(provider, Mapping) or provider.get("audit") is not False

"""Which node: hard filters, then seconds and money in one sum, then a draw by stake among near ties."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from retally.errors import ContextExceeded, NodeUnavailable, PriceAboveMax, RetallyError, UnknownModel
from retally.protocol.pricing import PER
from retally_router.directory import Listed
from retally_router.observed import Observed, Watch
from retally_router.wishes import Wishes

NEAR = 1.05
LOST_SECONDS = 5.0
EAGER = 100


@dataclass(frozen=True, slots=True)
class Need:
    """What a job asks of a node."""

    model: str
    prompt_tokens: int
    output_tokens: int
    n: int
    wishes: Wishes
    exclude: frozenset[str] = frozenset()


Filter = Callable[[Listed, Need], bool]


def fits_context(node: Listed, need: Need) -> bool:
    """At least the shortest reading of the prompt fits: a byte-level token has at most a few dozen bytes."""
    return need.prompt_tokens // 32 < node.offer.max_context


def fits_prices(node: Listed, need: Need) -> bool:
    """No price above the client's maximum."""
    most = need.wishes.max_prices
    if most is None:
        return True
    offer = node.offer
    pairs = (
        (offer.price_in, most.price_in),
        (offer.price_cached, most.price_cached),
        (offer.price_out, most.price_out),
    )
    return all(price <= limit for price, limit in pairs)


def is_wanted(node: Listed, need: Need) -> bool:
    """Neither tried before nor ruled out by the client."""
    name, wishes = node.node.lower(), need.wishes
    if name in need.exclude or name in wishes.ignore:
        return False
    allowed = wishes.only or (() if wishes.allow_fallbacks else wishes.order)
    return not allowed or name in allowed


def is_audited(node: Listed, need: Need) -> bool:
    """The model's nodes can be brought to court, unless the client does not mind."""
    return node.audited or need.wishes.allow_unaudited


def has_exposure(node: Listed, need: Need) -> bool:
    """What the node may collect soon has room for this job."""
    return node.free_exposure >= price_of(node, need)


FILTERS: tuple[tuple[str, Filter], ...] = (
    ("context", fits_context),
    ("price", fits_prices),
    ("wish", is_wanted),
    ("audited", is_audited),
    ("exposure", has_exposure),
)


def price_of(node: Listed, need: Need) -> int:
    """What the job costs there at most: no answer outgrows the context."""
    prices, output = node.offer.prices, min(need.output_tokens, node.offer.max_context)
    return (need.prompt_tokens * prices.price_in + need.n * output * prices.price_out) // PER


class Selection:
    """Orders the nodes for a job, best first."""

    def __init__(self, watch: Watch, *, value_of_second: int, random: Random) -> None:
        self._watch = watch
        self._value_of_second = value_of_second
        self._random = random

    def choose(self, nodes: Iterable[Listed], need: Need) -> list[Listed]:
        """The candidates in order; raises with the filter that left none."""
        serving = [node for node in nodes if need.model in (node.model, node.model_hex)]
        if not serving:
            raise UnknownModel(need.model)
        left = serving
        for name, keeps in FILTERS:
            kept = [node for node in left if keeps(node, need)]
            if not kept:
                raise _refusal(name, left, need)
            left = kept
        ready = [node for node in left if node.alive and self._watch.is_open(node.node)]
        if not ready:
            hint = "retry in a few seconds; GET /retally/v1/nodes shows the nodes"
            raise NodeUnavailable(f"none of {len(left)} nodes that serve {need.model} is alive", hint=hint)
        return self._order(ready, need)

    def _order(self, ready: Sequence[Listed], need: Need) -> list[Listed]:
        scored = sorted(((self.cost(node, need), node) for node in ready), key=lambda pair: (pair[0], pair[1].node))
        best = scored[0][0]
        near = [node for cost, node in scored if cost <= best * NEAR]
        first = self._draw(near)
        ordered = [first, *(node for _, node in scored if node is not first)]
        wished = need.wishes.order
        if wished:
            ordered.sort(
                key=lambda node: wished.index(node.node.lower()) if node.node.lower() in wished else len(wished)
            )
        return ordered

    def cost(self, node: Listed, need: Need) -> float:
        """Price plus value of the predicted time, over the chance that it works."""
        seen = self._watch.of(node.node)
        value = self._value(need)
        seconds = predicted_seconds(node, seen, need)
        money = price_of(node, need) + value * seconds
        return money / max(seen.p_ok, 0.05) + (1.0 - seen.p_ok) * value * LOST_SECONDS

    def _value(self, need: Need) -> int:
        if need.wishes.sort == "price":
            return 0
        return self._value_of_second * (EAGER if need.wishes.sort is not None else 1)

    def _draw(self, near: Sequence[Listed]) -> Listed:
        # By stake and reliability, thinned by what is in flight there already, so that bursts spread.
        weights = [_weight(node, self._watch.of(node.node)) for node in near]
        if not any(weights):
            return self._random.choice(near)
        return self._random.choices(near, weights)[0]


def _weight(node: Listed, seen: Observed) -> float:
    return node.stake * seen.p_ok / (1 + _busy(node, seen))


def _busy(node: Listed, seen: Observed) -> int:
    return max(node.running + node.waiting, seen.in_flight)


def predicted_seconds(node: Listed, seen: Observed, need: Need) -> float:
    """Time to the last token, from what was observed and what is in flight."""
    busy = _busy(node, seen)
    ttft = seen.ttft_seconds * (1.0 + 0.25 * busy)
    return ttft + need.output_tokens * seen.tpot_seconds * (1.0 + 0.02 * busy)


def _refusal(name: str, left: Sequence[Listed], need: Need) -> RetallyError:
    if name == "price" and need.wishes.max_prices is not None:
        cheapest = min(left, key=lambda node: node.offer.price_out)
        return PriceAboveMax("priceOut", cheapest.offer.price_out, need.wishes.max_prices.price_out)
    hints = {
        "context": "shorten the prompt",
        "wish": "loosen `provider`",
        "audited": "wait for more operators, or send provider: {allow_unaudited: true}",
        "exposure": "retry later: what the nodes may collect this week is used up",
    }
    if name == "context":
        return ContextExceeded(
            need.prompt_tokens // 32, need.output_tokens, max(node.offer.max_context for node in left)
        )
    return NodeUnavailable(f"no node that serves {need.model} passes the filter `{name}`", hint=hints.get(name, ""))

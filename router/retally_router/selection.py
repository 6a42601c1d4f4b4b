"""Which node: hard filters, predictions, the order of `choose`, now and then a trial, and what the client wished."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import Self

from retally.errors import NodeUnavailable, RetallyError, UnknownModel
from retally.protocol.pricing import PER
from retally_router.checked_settings import CheckedSettings
from retally_router.choose import Aim, Estimate, order
from retally_router.directory import Listed
from retally_router.no_candidate import refusal
from retally_router.observed import Expectation, Observed, Watch
from retally_router.predict import Prediction, predict
from retally_router.probation import Trials, has_slow_start_room, is_known, wants_trial
from retally_router.wishes import Pace, Wishes


@dataclass(frozen=True, slots=True)
class Need:
    """What a job asks of a node."""

    model: str
    prompt_tokens: int
    output_tokens: int
    n: int
    wishes: Wishes
    exclude: frozenset[str] = frozenset()
    #: Whether prompt_tokens is the count itself, not only a bound.
    is_exact: bool = False
    #: The prompt's chained block hashes, and what names the conversation.
    links: tuple[int, ...] = ()
    session: Hashable = None
    #: Components of the vectors that are asked for; 0 for a completion.
    dimensions: int = 0
    longest_input: int = 0


Filter = Callable[[Listed, Need], bool]


def serves_endpoint(node: Listed, need: Need) -> bool:
    """It makes such vectors, or answers: no node does both."""
    return node.vectors.has(need.dimensions) if node.vectors is not None else not need.dimensions


def fits_context(node: Listed, need: Need) -> bool:
    """At least the shortest reading of the prompt fits: a byte-level token has at most a few dozen bytes."""
    if need.dimensions:
        return need.longest_input // 32 < node.offer.max_context
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
    wishes = need.wishes
    if not (need.exclude or wishes.ignore or wishes.only or wishes.order):
        return True
    name = node.node.lower()
    if name in need.exclude or name in wishes.ignore:
        return False
    allowed = wishes.only or (() if wishes.allow_fallbacks else wishes.order)
    return not allowed or name in allowed


def is_near(node: Listed, need: Need) -> bool:
    """Its answers come back from there quickly enough, where the client sets a bound."""
    return need.wishes.max_rtt_seconds is None or node.rtt_seconds <= need.wishes.max_rtt_seconds


def is_audited(node: Listed, need: Need) -> bool:
    """The model's nodes can be brought to court, or the client does not mind; those on probation are drawn apart."""
    # Of vectors nobody can be: their clients are told so, and sign it.
    return bool(need.dimensions) or node.audited or need.wishes.allow_unaudited or node.on_probation


def has_exposure(node: Listed, need: Need) -> bool:
    """What the node may collect soon has room for this job."""
    return node.free_exposure >= price_of(node, need)


FILTERS: tuple[tuple[str, Filter], ...] = (
    ("endpoint", serves_endpoint),
    ("context", fits_context),
    ("price", fits_prices),
    ("wish", is_wanted),
    ("region", is_near),
    ("audited", is_audited),
    ("exposure", has_exposure),
)


def price_of(node: Listed, need: Need) -> int:
    """What the job costs there at most: no answer outgrows the context."""
    offer = node.offer
    output = min(need.output_tokens, offer.max_context)
    return (need.prompt_tokens * offer.price_in + need.n * output * offer.price_out) // PER


@dataclass(frozen=True, slots=True)
class Plan:
    """The candidates in order, and what is expected of the job on each."""

    candidates: list[Listed]
    expected: Mapping[str, Expectation]


class Selection:
    """Orders the nodes for a job, best first."""

    def __init__(
        self,
        watch: Watch,
        *,
        value_of_second: float,
        random: Random,
        trial_share: float = 0.0,
        trial_loss_cap: int = 0,
    ) -> None:
        self._watch = watch
        self._value_of_second = value_of_second
        self._random = random
        self._trials = Trials(trial_share, trial_loss_cap, random)

    @classmethod
    def of(cls, settings: CheckedSettings, watch: Watch) -> Self:
        """As a router's settings want it."""
        return cls(
            watch,
            value_of_second=settings.value_of_second,
            random=SystemRandom(),
            trial_share=settings.trial_share,
            trial_loss_cap=settings.trial_loss_cap,
        )

    def choose(self, nodes: Iterable[Listed], need: Need) -> list[Listed]:
        """The candidates in order; raises with the filter that left none."""
        return self.plan(nodes, need).candidates

    def plan(self, nodes: Iterable[Listed], need: Need) -> Plan:
        """The candidates in order with what is expected of each; raises with the filter that left none."""
        nodes = list(nodes)
        fit = [node for node in nodes if need.model in (node.model, node.model_hex) and passes(node, need)]
        ready = [node for node in fit if node.alive and self._watch.is_open(node.node)]
        mine = ready if need.wishes.allow_unaudited else [node for node in ready if not node.on_probation]
        if not mine:
            raise why_none(nodes, need)
        now = self._watch.clock()
        expected: dict[str, Expectation] = {node.node: self._expect(node, need, now) for node in ready}
        ordered = self._order(mine, expected, need)
        trial = self._trial(ready, expected, need, now)
        if trial is not None:
            ordered = [trial, *(node for node in ordered if node is not trial)]
        return Plan(_as_wished(ordered, need.wishes.order), expected)

    def again(self, nodes: Iterable[Listed], need: Need) -> Plan:
        """For a broken stream: as `plan`, with those that failed of late behind the others; empty if there is none."""
        fit = [node for node in nodes if node.alive and need.model == node.model_hex and passes(node, need)]
        fit = [node for node in fit if need.wishes.allow_unaudited or not node.on_probation]
        fit = [node for node in fit if not self._watch.is_shut_out(node.node)]
        if not fit:
            return Plan([], {})
        now = self._watch.clock()
        expected: dict[str, Expectation] = {node.node: self._expect(node, need, now) for node in fit}
        wished = _as_wished(self._order(fit, expected, need), need.wishes.order)
        return Plan(sorted(wished, key=lambda node: not self._watch.is_open(node.node)), expected)

    def _order(self, nodes: Sequence[Listed], expected: Mapping[str, Expectation], need: Need) -> list[Listed]:
        wishes, output = need.wishes, self._output_tokens(need)
        aim = Aim(wishes.pace, self._value_of_second * wishes.pace.worth, output, wishes.sort)
        by_name: dict[str, Listed] = {node.node: node for node in nodes}
        estimates = [self._estimate(node, expected[node.node], need.n * output) for node in nodes]
        ordered = [by_name[estimate.node] for estimate in order(estimates, aim, self._random)]
        # What is new here gets few jobs at once; sorted is stable, so the order stays within both parts.
        return sorted(ordered, key=lambda node: not has_slow_start_room(self._watch.of(node.node)))

    def _expect(self, node: Listed, need: Need, now: float) -> Expectation:
        seen, watch, capacity = self._watch.of(node.node), self._watch, node.capacity
        prompt = float(need.prompt_tokens) if need.is_exact else need.prompt_tokens * watch.prompt_share
        prompt = min(max(1.0, prompt), node.offer.max_context)
        cached = 0.0
        if need.links:
            cached = seen.cache_trust * watch.prefixes.cached_tokens(node.node, need.links, prompt, need.session)
        prediction = predict(
            capacity,
            queued_tokens=seen.queued_tokens(now, capacity),
            streams=seen.streams,
            new_tokens=prompt - cached,
            rtt_seconds=seen.rtt_seconds,
            slow_prefill=seen.slow_prefill,
            slow_decode=seen.slow_decode,
        )
        bound = 0 if need.is_exact else need.prompt_tokens
        return Expectation(
            prediction, price_of(node, need), prompt, cached, bound, need.output_tokens, need.links, need.session
        )

    def _estimate(self, node: Listed, expected: Expectation, output_tokens: float) -> Estimate:
        seen, offer, cached = self._watch.of(node.node), node.offer, expected.cached_tokens
        money = (expected.prompt_tokens - cached) * offer.price_in + cached * offer.price_cached
        money = (money + output_tokens * offer.price_out) / PER
        prediction = expected.prediction
        return Estimate(
            node.node, money, prediction.ttft_seconds, prediction.tpot_seconds, seen.p_ok, node.stake, seen.in_flight
        )

    def _output_tokens(self, need: Need) -> float:
        return max(1.0, need.output_tokens * self._watch.output_share)

    def _trial(
        self, ready: Sequence[Listed], expected: Mapping[str, Expectation], need: Need, now: float
    ) -> Listed | None:
        wishes = need.wishes
        if not self._trials.is_due() or wishes.order or wishes.only or wishes.sort or not wishes.allow_fallbacks:
            return None
        fit = []
        for node in ready:
            seen = self._watch.of(node.node)
            if node.on_probation and wishes.only_audited:
                continue
            there = expected[node.node]
            has_room = has_slow_start_room(seen) and self._trials.has_room(seen, there.price, now)
            # Nobody shall wait longer for a trial than for another job. What was learned long ago may be wrong by now.
            is_quick = meets(wishes.pace, there.prediction, seen, by_word=is_known(seen))
            if has_room and is_quick and wants_trial(seen, now, calibrated=not node.on_probation):
                fit.append(node)
        return self._random.choice(fit) if fit else None


def meets(pace: Pace, prediction: Prediction, seen: Observed, *, by_word: bool) -> bool:
    """Whether the job is expected to be quick enough, as learned or by the node's own word."""
    if by_word:
        ttft = seen.rtt_seconds + prediction.declared_prefill_seconds
        return ttft <= pace.ttft_seconds and prediction.declared_token_seconds <= pace.tpot_seconds
    return prediction.ttft_seconds <= pace.ttft_seconds and prediction.tpot_seconds <= pace.tpot_seconds


def passes(node: Listed, need: Need) -> bool:
    """Whether the node passes every filter."""
    return all(keeps(node, need) for _, keeps in FILTERS)


def why_none(nodes: Sequence[Listed], need: Need) -> RetallyError:
    """The first filter that leaves no node."""
    left = [node for node in nodes if need.model in (node.model, node.model_hex)]
    if not left:
        return UnknownModel(need.model)
    for name, keeps in FILTERS:
        kept = [node for node in left if keeps(node, need)]
        if not kept:
            return refusal(name, left, need)
        left = kept
    if all(node.on_probation for node in left) and not need.wishes.allow_unaudited:
        return refusal("audited", left, need)
    hint = "retry in a few seconds; GET /retally/v1/nodes shows the nodes"
    return NodeUnavailable(f"none of {len(left)} nodes that serve {need.model} is alive", hint=hint)


def _as_wished(ordered: list[Listed], wished: Sequence[str]) -> list[Listed]:
    if not wished:
        return ordered
    places = {name: place for place, name in enumerate(wished)}
    return sorted(ordered, key=lambda node: places.get(node.node.lower(), len(places)))

"""The router's own choice in the simulator: its real Selection and Watch, on simulated time; and without each term."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from random import Random

from retally.errors import NodeUnavailable
from retally.protocol.eip712 import Bytes32, SigningKey, keccak
from retally.protocol.offer import Offer
from retally_router.directory import Listed
from retally_router.observed import Expectation, Visit, Watch
from retally_router.predict import Capacity
from retally_router.prefix_map import PrefixMap
from retally_router.selection import Need, Selection
from retally_router.settings import RouterSettings
from retally_router.wishes import PRESETS, Pace, Wishes
from routing_nodes import Fate, Make
from routing_policies import View
from routing_trace import Turn

MODEL = "simulated"
MAX_CONTEXT = 200_000
_DEFAULTS = {name: field.default for name, field in RouterSettings.model_fields.items()}

#: Each leaves out one term.
ABLATIONS = (
    "no learning",
    "no cache",
    "no session",
    "no own dispatches",
    "no reports",
    "no targets",
    "no money",
    "no draw",
    "no slow start",
    "no trials",
    "no breaker",
)


class Ours:
    """One router's Selection over the simulated nodes."""

    def __init__(
        self,
        makes: Sequence[Make],
        views: Sequence[View],
        random: Random,
        clock: Callable[[], float],
        *,
        preset: str | None = None,
        without: str = "",
    ) -> None:
        self._views, self._without = views, without
        failures = 10**9 if without == "no breaker" else _DEFAULTS["breaker_failures"]
        prefixes = PrefixMap(clock=clock)
        self.watch = Watch(failures, _DEFAULTS["breaker_seconds"], clock, random, prefixes)
        self._selection = Selection(
            self.watch,
            value_of_second=_DEFAULTS["value_of_second"],
            random=_Best(0) if without == "no draw" else random,
            trial_share=0.0 if without == "no trials" else _DEFAULTS["trial_share"],
            trial_loss_cap=_DEFAULTS["trial_loss_cap"],
        )
        self._listed = [listed(make) for make in makes]
        self._dead = [replace(node, alive=False) for node in self._listed]
        self._expected: Expectation | None = None
        self._number = {node.node: number for number, node in enumerate(self._listed)}
        pace = PRESETS[preset] if preset is not None else Pace()
        if without == "no targets":
            pace = Pace(1e9, 1e9)
        self._wishes = Wishes(pace=pace, sort="latency" if without == "no money" else None)
        for number, make in enumerate(makes):
            self.watch.of(self._listed[number].node).rtt_seconds = make.rtt

    def choose(self, turn: Turn, tried: Collection[int]) -> int:
        """The first candidate of the plan."""
        need = Need(
            MODEL,
            turn.prompt_tokens,
            turn.max_tokens,
            1,
            self._wishes,
            frozenset(self._listed[node].node.lower() for node in tried),
            is_exact=True,
            links=() if self._without == "no cache" else turn.links,
            session=None if self._without == "no session" else turn.session,
        )
        pairs = zip(self._views, self._listed, self._dead, strict=True)
        try:
            plan = self._selection.plan([node if view.alive else dead for view, node, dead in pairs], need)
        except NodeUnavailable:
            left = [number for number in range(len(self._listed)) if number not in tried]
            self._expected = None
            return left[0]
        first = plan.candidates[0]
        self._expected = plan.expected[first.node]
        return self._number[first.node]

    def sent(self, turn: Turn, node: int) -> object:
        """Counts at once."""
        visit = self.watch.visit(self._listed[node].node, self._expected)
        if self._without == "no own dispatches":
            seen = self.watch.of(visit.node)
            seen.in_flight, seen.prefilling = 0, 0.0
        return visit

    def first_token(self, visit: object) -> None:
        """Learns from it."""
        assert isinstance(visit, Visit)
        visit.first_token()
        self._unlearn(visit.node)

    def ended(self, visit: object, turn: Turn, fate: Fate, cached: int) -> None:
        """Learns from it."""
        assert isinstance(visit, Visit)
        if fate is Fate.DONE:
            visit.succeeded(turn.output_tokens, turn.prompt_tokens, cached)
        else:
            visit.failed()
        visit.end()
        self._unlearn(visit.node)
        if self._without == "no own dispatches":
            seen = self.watch.of(visit.node)
            seen.in_flight, seen.prefilling = 0, 0.0
        if self._without == "no slow start":
            self.watch.of(visit.node).finished += 100

    def polled(self, node: int) -> None:
        """The node's report of its load."""
        view, listed_node = self._views[node], self._listed[node]
        rtt = self.watch.of(listed_node.node).rtt_seconds
        if self._without == "no reports":
            return
        self.watch.reported(
            listed_node.node,
            streams=view.running + view.waiting,
            prefill_tokens=view.prefill_tokens,
            rtt_seconds=rtt,
        )

    def _unlearn(self, node: str) -> None:
        if self._without == "no learning":
            seen = self.watch.of(node)
            seen.slow_prefill = seen.slow_decode = seen.cache_trust = 1.0


class _Best(Random):
    """Draws nothing: always the first."""

    def choices(self, population: Sequence[object], *rest: object, **named: object) -> list[object]:  # type: ignore[override]  # only what the selection uses
        return [population[0]]


def listed(make: Make) -> Listed:
    """The node as the directory would list it, with what it declares."""
    name = SigningKey(keccak(make.name.encode())).address
    ids = keccak(b"model"), keccak(b"profile")
    offer = Offer(name, ids[0], ids[1], make.price_in, make.price_in // 2, make.price_out, MAX_CONTEXT, 2**39)
    return Listed(
        node=name,
        owner=name,
        endpoint="",
        model=MODEL,
        model_id=ids[0],
        profile_id=ids[1],
        offer=offer,
        offer_signature=b"",
        offer_hash=Bytes32(bytes(32)),
        stake=make.stake,
        free_exposure=10**18,
        audited=True,
        capacity=Capacity(make.prefill * make.declares, make.decode * make.declares, make.batch * make.declares),
        rtt_seconds=make.rtt,
    )

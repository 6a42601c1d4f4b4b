"""Every dishonest party there is: what its lie is, what finds it, and how it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Found(StrEnum):
    """How a lie is found."""

    OBJECTIVE = "objective"
    """By what one answer, receipt or silence proves."""
    STATISTICAL = "statistical"
    """By evidence over drawn jobs."""
    ECONOMIC = "economic"
    """By nobody: it is bounded by what it costs."""
    UNFOUND = "not found"


class Act(StrEnum):
    """What happens to it in a live run."""

    COURT = "court"
    """Traffic, audits, a case, a jury."""
    SILENCE = "silence"
    """Traffic, audits that get no answer, challenges, their time-out."""
    CLAIM = "claim"
    """A payer proves a fault from what it holds."""
    OWN = "own"
    """A play of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adversary:
    """One dishonest party."""

    name: str
    lie: str
    found: Found
    act: Act
    party: str = "node"
    #: Which folder of weights its other engine loads.
    weights: str = ""
    #: `--cheat` of cheating_node.py, where it is not the name.
    cheat: str = ""
    one_in: int = 1
    #: Sampling of the jobs that it gets; the nucleus is there to be left out.
    ask: Mapping[str, float] = field(default_factory=lambda: {"temperature": 1.0, "top_p": 0.95})
    #: The cheat of docs/data/evidence_results.json that measured it.
    evidence: str = ""
    #: The row of scripts/economics.
    economics: str = ""
    #: Neither a calibration, nor a table's alternative, nor any tuning ever saw it.
    blind: bool = False
    note: str = ""

    @property
    def arguments(self) -> tuple[str, ...]:
        """What cheating_node.py is told."""
        return ("--cheat", self.cheat or self.name, "--one-in", str(self.one_in))


#: Long answers: what moves few tokens shows in many. The devnet's model ends its own after some fifty.
LONG = {"temperature": 1.0, "top_p": 0.95, "min_tokens": 192}
ROUNDED = "rounded and stored wide: the rounding is real, the narrow kernels are not"
ONE_TOKEN = "one token a job shows it"


def _seen(name: str, lie: str, evidence: str, economics: str, **more: Any) -> Adversary:
    """A cheat that is found by evidence, before a jury."""
    given: dict[str, Any] = {"found": Found.STATISTICAL, "act": Act.COURT, "evidence": evidence, "economics": economics}
    return Adversary(name=name, lie=lie, **(given | more))


def _blind(name: str, lie: str, economics: str, **more: Any) -> Adversary:
    """One that no calibration, alternative or tuning ever saw."""
    return _seen(name, lie, "", economics, blind=True, **more)


def _weights(name: str, lie: str, weights: str, economics: str, note: str = "", **more: Any) -> Adversary:
    """Other weights than the genuine ones."""
    return _seen(name, lie, weights, economics, cheat="weights", weights=weights, note=note, **more)


def _proven(name: str, lie: str, act: Act, economics: str, note: str = "") -> Adversary:
    """A lie that one answer, receipt or silence proves."""
    return Adversary(name=name, lie=lie, found=Found.OBJECTIVE, act=act, economics=economics, note=note)


def _party(name: str, party: str, lie: str, found: Found, act: Act, economics: str = "", note: str = "") -> Adversary:
    """Somebody else than a lone node, or a lie that only its cost bounds."""
    return Adversary(name=name, party=party, lie=lie, found=found, act=act, economics=economics, note=note)


#: In this order few engines run at once.
_WEIGHTS = (
    _weights("4-bit", "weights in groups of 4 bits", "int4", "4-bit", ROUNDED),
    _seen(
        "made-up-numbers",
        "4-bit weights write, log-probabilities are invented",
        "int4",
        "4-bit",
        weights="int4",
        note="no verdict reads a reported number",
    ),
    _seen(
        "laundered-numbers",
        "4-bit weights write, the true model supplies the log-probabilities",
        "int4",
        "4-bit",
        weights="int4",
        note="the numbers are true and prove nothing",
    ),
    _blind(
        "switched-weights",
        "the true model begins each answer, 4-bit weights go on after 24 tokens",
        "4-bit",
        weights="int4",
    ),
    _weights("fine-tune", "weights trained on other text", "fine-tune", "fine-tune"),
    _weights("earlier", "an earlier checkpoint", "earlier", "earlier checkpoint"),
    _weights("fp8", "weights in 8-bit floats", "fp8", "fp8, same kernels", ROUNDED, ask=LONG),
    _weights(
        "8-bit",
        "weights in 8-bit whole numbers",
        "int8",
        "8-bit, same kernels",
        f"{ROUNDED}; unseen across precisions",
        ask=LONG,
    ),
    _blind(
        "pruned",
        "the smaller 30 % of each matrix set to zero",
        "4-bit",
        cheat="weights",
        weights="pruned",
        note="whoever skips zeros saves time",
    ),
)

_SAMPLING = (
    _seen("temperature", "temperature 0.9 for 1", "temperature", "temperature", ask=LONG),
    _seen("half-temperature", "temperature 0.5 for 1", "", "temperature", cheat="sampler"),
    _seen("top-p-off", "no nucleus", "top-p-off", "top-p off", ask=LONG),
    _seen("wrong-seed", "a seed of its own", "wrong-seed", "wrong seed"),
    _seen("greedy", "the likeliest token, claimed to be drawn", "greedy", "temperature"),
    _blind("shorter-of-two", "two answers under seeds of its own, the shorter one served", "wrong seed"),
)

_ANSWERS = (
    _seen("hidden-prompt", "a system message that no payer wrote", "hidden-prompt", "hidden prompt"),
    _seen("truncated-prompt", "the older half of each prompt is not read", "truncated-prompt", "hidden prompt"),
    _seen("cached", "one answer for all who ask the same", "cached", "4-bit"),
    _seen("early-stop", "answers end at their half", "early-stop", "early stop", note=ONE_TOKEN),
    _seen("splice", "one token replaced, the true model goes on", "splice", "splice", note=ONE_TOKEN),
    *(
        _seen(
            f"one-in-{count}",
            f"a seed of its own in one job of {count}",
            "wrong-seed",
            "wrong seed",
            cheat="wrong-seed",
            one_in=count,
        )
        for count in (5, 20, 100)
    ),
)

_BOOKS = (
    _proven(
        "padded-prompt",
        "prompt ids that the template does not give, billed",
        Act.COURT,
        "over-billing",
        "R-33, before any replay",
    ),
    _proven("inflated-counts", "receipts count more prompt tokens than their tree", Act.CLAIM, "over-billing"),
    _proven(
        "phantom-choice", "each answer billed twice, as a choice nobody asked for", Act.CLAIM, "conflicting receipts"
    ),
    _proven(
        "conflicting-receipts",
        "two receipts with different content for one answer",
        Act.CLAIM,
        "conflicting receipts",
        "proven by the signatures alone, before anything is collected",
    ),
    _proven(
        "swapped-receipts",
        "another receipt under the commit than the payer holds",
        Act.CLAIM,
        "swapped receipts",
        "no audit sees it: the payer compares",
    ),
    _proven("omitted-receipts", "money collected for receipts under no root", Act.SILENCE, "omitted receipts"),
    _proven("silence", "no answer to any audit", Act.SILENCE, "silence"),
    _party(
        "padded-commits",
        "node",
        "its own money collected beside the payers', to dilute the audits",
        Found.ECONOMIC,
        Act.OWN,
        "padded commits",
        "points are drawn by channel: a job's chance is unchanged",
    ),
    _party(
        "identity-rotation",
        "node",
        "a new owner whenever evidence has grown",
        Found.ECONOMIC,
        Act.OWN,
        "identity rotation",
    ),
)

_OTHERS = (
    _party(
        "sibling-audit",
        "pair",
        "its sibling is drawn to replay its answers and says match",
        Found.STATISTICAL,
        Act.OWN,
        "self-audit, sole verifier",
        "a declared one is never drawn; the profit is that of a sibling who is the only verifier: nothing bounds it",
    ),
    _party(
        "colluding-pair",
        "pair",
        "two nodes score and judge every answer as fraud",
        Found.UNFOUND,
        Act.OWN,
        note="two owners of seven; the verifier has an engine of its own",
    ),
    _party(
        "colluding-half",
        "pair",
        "the same two among five owners",
        Found.UNFOUND,
        Act.OWN,
        note="half of those who can replay or judge; the verifier has an engine of its own",
    ),
    _party(
        "lazy-verifier",
        "verifier",
        "match without looking",
        Found.OBJECTIVE,
        Act.OWN,
        "lazy verifier, 1 % traps",
        "only by a trap",
    ),
    _party(
        "false-accuser",
        "verifier",
        "accuses an honest owner with its worst-looking jobs",
        Found.OBJECTIVE,
        Act.OWN,
        "false accuser",
    ),
    _party(
        "noise-searcher",
        "payer",
        "prompts chosen for numeric noise, to frame a node",
        Found.STATISTICAL,
        Act.OWN,
        note="e^25 a payer at most",
    ),
    _party(
        "unpaying",
        "payer",
        "pays for the prompt and for nothing after",
        Found.OBJECTIVE,
        Act.OWN,
        "payer who stops paying",
    ),
    _party(
        "selfish-router",
        "router",
        "sends every job that names no node to its own",
        Found.UNFOUND,
        Act.OWN,
        note="assignments say which node, not which others there were",
    ),
)

ADVERSARIES: tuple[Adversary, ...] = (*_WEIGHTS, *_SAMPLING, *_ANSWERS, *_BOOKS, *_OTHERS)

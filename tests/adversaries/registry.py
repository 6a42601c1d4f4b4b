"""Every dishonest party there is: what its lie is, what finds it, and how it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


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
    NONE = "none"


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


ROUNDED = "rounded and stored wide: the rounding is real, the narrow kernels are not"

_WEIGHTS = (
    Adversary(
        name="4-bit",
        lie="weights in groups of 4 bits",
        found=Found.STATISTICAL,
        act=Act.COURT,
        cheat="weights",
        weights="int4",
        evidence="int4",
        economics="4-bit",
        note=ROUNDED,
    ),
    Adversary(
        name="fine-tune",
        lie="weights trained on other text",
        found=Found.STATISTICAL,
        act=Act.COURT,
        cheat="weights",
        weights="fine-tune",
        evidence="fine-tune",
        economics="fine-tune",
    ),
    Adversary(
        name="earlier",
        lie="an earlier checkpoint",
        found=Found.STATISTICAL,
        act=Act.COURT,
        cheat="weights",
        weights="earlier",
        evidence="earlier",
        economics="earlier checkpoint",
    ),
    Adversary(
        name="fp8",
        lie="weights in 8-bit floats",
        found=Found.STATISTICAL,
        act=Act.COURT,
        cheat="weights",
        weights="fp8",
        evidence="fp8",
        economics="fp8, same kernels",
        note=ROUNDED,
    ),
    Adversary(
        name="8-bit",
        lie="weights in 8-bit whole numbers",
        found=Found.STATISTICAL,
        act=Act.COURT,
        cheat="weights",
        weights="int8",
        evidence="int8",
        economics="8-bit, same kernels",
        note=f"{ROUNDED}; unseen across precisions",
    ),
    Adversary(
        name="made-up-numbers",
        lie="4-bit weights write, log-probabilities are invented",
        found=Found.STATISTICAL,
        act=Act.COURT,
        weights="int4",
        evidence="int4",
        economics="4-bit",
        note="no verdict reads a reported number",
    ),
    Adversary(
        name="laundered-numbers",
        lie="4-bit weights write, the true model supplies the log-probabilities",
        found=Found.STATISTICAL,
        act=Act.COURT,
        weights="int4",
        evidence="int4",
        economics="4-bit",
        note="the numbers are true and prove nothing",
    ),
    Adversary(
        name="switched-weights",
        lie="the true model begins each answer, 4-bit weights go on after 24 tokens",
        found=Found.STATISTICAL,
        act=Act.COURT,
        weights="int4",
        economics="4-bit",
        blind=True,
    ),
    Adversary(
        name="pruned",
        lie="the smaller 30 % of each matrix set to zero",
        found=Found.STATISTICAL,
        act=Act.COURT,
        cheat="weights",
        weights="pruned",
        economics="4-bit",
        blind=True,
        note="whoever skips zeros saves time",
    ),
)

_SAMPLING = (
    Adversary(
        name="temperature",
        lie="temperature 0.9 for 1",
        found=Found.STATISTICAL,
        act=Act.COURT,
        evidence="temperature",
        economics="temperature",
    ),
    Adversary(
        name="top-p-off",
        lie="no nucleus",
        found=Found.STATISTICAL,
        act=Act.COURT,
        evidence="top-p-off",
        economics="top-p off",
    ),
    Adversary(
        name="wrong-seed",
        lie="a seed of its own",
        found=Found.STATISTICAL,
        act=Act.COURT,
        evidence="wrong-seed",
        economics="wrong seed",
    ),
    Adversary(
        name="greedy",
        lie="the likeliest token, claimed to be drawn",
        found=Found.STATISTICAL,
        act=Act.COURT,
        evidence="greedy",
        economics="temperature",
    ),
    Adversary(
        name="shorter-of-two",
        lie="two answers under seeds of its own, the shorter one served",
        found=Found.STATISTICAL,
        act=Act.COURT,
        economics="wrong seed",
        blind=True,
    ),
)

_ANSWERS = (
    Adversary(
        name="hidden-prompt",
        lie="a system message that no payer wrote",
        found=Found.STATISTICAL,
        act=Act.COURT,
        evidence="hidden-prompt",
        economics="hidden prompt",
    ),
    Adversary(
        name="truncated-prompt",
        lie="the older half of each prompt is not read",
        found=Found.STATISTICAL,
        act=Act.COURT,
        evidence="truncated-prompt",
        economics="hidden prompt",
    ),
    Adversary(
        name="cached",
        lie="one answer for all who ask the same",
        found=Found.STATISTICAL,
        act=Act.COURT,
        evidence="cached",
        economics="4-bit",
    ),
    Adversary(
        name="early-stop",
        lie="answers end at their half",
        found=Found.STATISTICAL,
        act=Act.NONE,
        evidence="early-stop",
        economics="early stop",
        note="one token a job shows it",
    ),
    Adversary(
        name="splice",
        lie="one token replaced, the true model goes on",
        found=Found.STATISTICAL,
        act=Act.NONE,
        evidence="splice",
        economics="splice",
        note="one token a job shows it",
    ),
    *(
        Adversary(
            name=f"one-in-{count}",
            lie=f"a seed of its own in one job of {count}",
            found=Found.STATISTICAL,
            act=Act.COURT if count == 5 else Act.NONE,
            cheat="wrong-seed",
            one_in=count,
            evidence="wrong-seed",
            economics="wrong seed",
        )
        for count in (5, 20, 100)
    ),
)

_BOOKS = (
    Adversary(
        name="padded-prompt",
        lie="prompt ids that the template does not give, billed",
        found=Found.OBJECTIVE,
        act=Act.COURT,
        economics="over-billing",
        note="R-33, before any replay",
    ),
    Adversary(
        name="inflated-counts",
        lie="receipts count more prompt tokens than their tree",
        found=Found.OBJECTIVE,
        act=Act.CLAIM,
        economics="over-billing",
    ),
    Adversary(
        name="phantom-choice",
        lie="each answer billed twice, as a choice nobody asked for",
        found=Found.OBJECTIVE,
        act=Act.CLAIM,
        economics="conflicting receipts",
    ),
    Adversary(
        name="conflicting-receipts",
        lie="two receipts with different content for one answer",
        found=Found.OBJECTIVE,
        act=Act.CLAIM,
        economics="conflicting receipts",
        note="proven by the signatures alone, before anything is collected",
    ),
    Adversary(
        name="swapped-receipts",
        lie="another receipt under the commit than the payer holds",
        found=Found.OBJECTIVE,
        act=Act.CLAIM,
        economics="swapped receipts",
        note="no audit sees it: the payer compares",
    ),
    Adversary(
        name="omitted-receipts",
        lie="money collected for receipts under no root",
        found=Found.OBJECTIVE,
        act=Act.SILENCE,
        economics="omitted receipts",
    ),
    Adversary(
        name="silence",
        lie="no answer to any audit",
        found=Found.OBJECTIVE,
        act=Act.SILENCE,
        economics="silence",
    ),
    Adversary(
        name="padded-commits",
        lie="its own money collected beside the payers', to dilute the audits",
        found=Found.ECONOMIC,
        act=Act.NONE,
        economics="padded commits",
        note="points are drawn by channel: a job's chance is unchanged",
    ),
)

_OTHERS = (
    Adversary(
        name="identity-rotation",
        lie="a new owner whenever evidence has grown",
        found=Found.ECONOMIC,
        act=Act.NONE,
        economics="identity rotation",
    ),
    Adversary(
        name="sibling-audit",
        party="pair",
        lie="its own verifier audits it and sees nothing",
        found=Found.UNFOUND,
        act=Act.NONE,
        economics="self-audit, sole verifier",
        note="a declared sibling is never drawn; an undeclared one is bound by chance alone",
    ),
    Adversary(
        name="colluding-pair",
        party="pair",
        lie="two nodes score an honest node's answers as fraud",
        found=Found.STATISTICAL,
        act=Act.OWN,
        economics="colluding pair, friend accuses",
    ),
    Adversary(
        name="lazy-verifier",
        party="verifier",
        lie="match without looking",
        found=Found.OBJECTIVE,
        act=Act.OWN,
        economics="lazy verifier, 1 % traps",
        note="only by a trap",
    ),
    Adversary(
        name="false-accuser",
        party="verifier",
        lie="accuses an honest owner with its worst-looking jobs",
        found=Found.OBJECTIVE,
        act=Act.OWN,
        economics="false accuser",
    ),
    Adversary(
        name="noise-searcher",
        party="payer",
        lie="prompts chosen for numeric noise, to frame a node",
        found=Found.STATISTICAL,
        act=Act.OWN,
        note="e^25 a payer at most",
    ),
    Adversary(
        name="unpaying",
        party="payer",
        lie="asks, reads and signs no further voucher",
        found=Found.OBJECTIVE,
        act=Act.OWN,
        economics="payer who stops paying",
    ),
    Adversary(
        name="selfish-router",
        party="router",
        lie="sends every job to its own node",
        found=Found.UNFOUND,
        act=Act.OWN,
        note="assignments say which node, not which others there were",
    ),
)

ADVERSARIES: tuple[Adversary, ...] = (*_WEIGHTS, *_SAMPLING, *_ANSWERS, *_BOOKS, *_OTHERS)

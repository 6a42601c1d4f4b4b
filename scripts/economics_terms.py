"""What the deterrence depends on: the deployed parameters, and the assumptions beside them."""

from __future__ import annotations

from dataclasses import dataclass

from retally.chain.parameters import Parameters, longest_case_seconds

DAY = 86_400
DOLLAR = 1_000_000
PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Terms:
    """The deployed parameters that an attacker meets, in dollars, days and shares."""

    minimum_stake: float
    minimum_verifier: float
    exposure: float
    window_days: float
    thaw_days: float
    held_days: float
    new_days: float
    duty_days: float
    verifier_age_days: float
    case_days: float
    new_step: int
    established_step: int
    new_share: float
    established_share: float
    severities: dict[str, float]
    challenger_share: float
    challenger_cap: float
    case_cost: float

    def cap(self, stake: float) -> float:
        """What an owner is paid at most within one window."""
        return self.exposure * stake

    def fees(self, stake: float) -> float:
        """What an established owner's payers pay for that: the cap counts what the audit share leaves."""
        return self.cap(stake) / (1 - self.established_share)


def terms_of(parameters: Parameters) -> Terms:
    """The terms of a deployment's parameters."""
    staking, registry, escrow = parameters["Staking"], parameters["Registry"], parameters["Escrow"]
    audits, court = parameters["Audits"], parameters["Court"]
    return Terms(
        minimum_stake=staking["minimumOperator"] / DOLLAR,
        minimum_verifier=staking["minimumVerifier"] / DOLLAR,
        exposure=staking["exposurePpm"] / PPM,
        window_days=escrow["exposureWindow"] / DAY,
        thaw_days=staking["thawPeriod"] / DAY,
        held_days=escrow["heldPeriod"] / DAY,
        new_days=registry["newOwnerPeriod"] / DAY,
        duty_days=audits["dutySeconds"] / DAY,
        verifier_age_days=audits["ageSeconds"] / DAY,
        case_days=longest_case_seconds(court) / DAY,
        new_step=registry["newStepUnits"],
        established_step=registry["establishedStepUnits"],
        new_share=registry["newSharePpm"] / PPM,
        established_share=registry["establishedSharePpm"] / PPM,
        severities={name: staking[f"{name}Ppm"] / PPM for name in SEVERITIES},
        challenger_share=staking["challengerCapPpm"] / PPM,
        challenger_cap=court["challengerCap"] / DOLLAR,
        case_cost=(court["caseFee"] + court["caseBond"]) / DOLLAR,
    )


SEVERITIES = ("mismatch", "tiling", "overbilling", "conflict", "duty")


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What no contract says. Each is a choice; a reader may put in its own."""

    #: Dollars: the usual fee of a job, which a model's unit is set to. Dearer jobs deter less: this one is dear.
    unit: float = 0.01
    #: What serving a job honestly costs, of its fee.
    cost: float = 0.7
    #: What capital costs a year.
    interest: float = 0.10
    #: Equal payers of an owner.
    payers: int = 20
    #: Equal verifiers; each commit is one's duty, and each brings only what it found itself.
    verifiers: int = 5
    horizon_days: int = 364
    #: Two replays of a job cost its auditor this share of a unit.
    replay: float = 0.6
    #: Jobs that could be traps by their form: 16 prompt tokens at most, with the template's, no prefix, no bias.
    short_prompts: float = 0.05
    #: Dollars a million gas, on a rollup.
    gas: float = 0.05
    #: Upper bound, at 95 %, of how often a coalition of 30 % of the stake turned a verdict: none of 10,000.
    jury_error: float = 3e-4


@dataclass(frozen=True, slots=True)
class Cheat:
    """A way to cheat on a job: what it saves or earns, of the fee, and what shows it."""

    name: str
    gain: float
    why: str
    #: Key of the evidence; none where one audited job proves it.
    evidence: str | None
    severity: str = "mismatch"
    #: All cheated jobs are one payer's.
    one_payer: bool = False
    #: Part of the verifiers that look away.
    corrupt: float = 0.0
    #: Its traffic, of what its stake lets it be paid.
    traffic: float = 1.0
    #: Each receipt is punished by itself, without a jury.
    each: bool = False
    #: A jury has to be heard.
    tried: bool = True
    #: Days until an answer is overdue.
    asked_days: float = 0.0


def cheats(assumed: Assumptions) -> tuple[Cheat, ...]:
    """All ways whose profit depends on how often it is done."""
    saved4, saved8, smaller = 0.6 * assumed.cost, 0.4 * assumed.cost, 0.8 * assumed.cost
    four = "4-bit weights save 60 % of the cost"
    eight = "8-bit weights save 40 % of the cost"
    outside = "somebody pays a fifth of the fee for it"
    return (
        Cheat("honest control", 0.0, "nothing", "honest"),
        Cheat("4-bit", saved4, four, "int4"),
        Cheat("8-bit, other kernels", saved8, eight, "int8"),
        Cheat("8-bit, same kernels", saved8, eight, "int8-same-kernels"),
        Cheat("fp8, other kernels", saved8, eight, "fp8"),
        Cheat("fp8, same kernels", saved8, eight, "fp8-same-kernels"),
        Cheat("earlier checkpoint", smaller, "for any cheaper model: saves 80 % of the cost", "earlier"),
        Cheat("fine-tune", 0.2, outside, "fine-tune"),
        Cheat("hidden prompt", 0.2, outside, "hidden-prompt"),
        Cheat("temperature", 0.05, "shorter, surer answers", "temperature"),
        Cheat("top-p off", 0.05, "a cheaper sampler", "top-p-off"),
        Cheat("wrong seed", 0.05, "a cheaper sampler", "wrong-seed"),
        Cheat("splice", 0.2, outside, "splice"),
        Cheat("early stop", 0.1, "the dear end of long answers", "early-stop"),
        *_proven(saved4, four),
        Cheat("4-bit, a third of verifiers corrupt", saved4, four, "int4", corrupt=1 / 3),
        Cheat("4-bit, one payer only", saved4, four, "int4", one_payer=True),
        Cheat("4-bit, little traffic", saved4, four + "; a hundredth of the traffic", "int4", traffic=0.01),
    )


def _proven(saved4: float, four: str) -> tuple[Cheat, ...]:
    """What needs no evidence and no jury."""
    return (
        Cheat(
            "over-billing",
            0.1,
            "a tenth more billed, and paid by who does not count",
            None,
            "overbilling",
            each=True,
            tried=False,
        ),
        Cheat("omitted receipts", saved4, four + "; no receipt shows it", None, "tiling", tried=False),
        Cheat("undeclared pair", saved4, four + "; no court may judge it", None, "tiling", tried=False),
        Cheat("swapped receipts", saved4, four + "; the payer holds another one", None, "tiling", tried=False),
        Cheat("silence", saved4, four + "; no answer shows it", None, tried=False, asked_days=1.0),
        Cheat(
            "conflicting receipts",
            1.0,
            "a second fee for one job, by two leaves",
            None,
            "overbilling",
            each=True,
            tried=False,
        ),
    )

"""What the chain says about a demo: audits, the case, and who paid whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from retally.chain.connection import Chain
from retally.chain.court import decode_shown
from retally.chain.events import ChainEvent, EventReader, collected_of
from retally.protocol.audit_points import AuditPoint, drawn_points
from retally.protocol.case import Shown

_VERDICT_BYTES = 9  # uint8 verdict, int64 log e
_VERDICTS = {1: "match", 2: "mismatch", 3: "inconclusive"}


@dataclass(frozen=True)
class CaseStory:
    """A case against an owner, as far as it has come."""

    case_id: int
    owner: str
    challenger: str
    shown: tuple[Shown, ...]
    jurors: tuple[str, ...] = ()
    votes: dict[str, str] = field(default_factory=dict)
    verdict: str | None = None
    executed: ChainEvent | None = None

    @property
    def paid_for_shown(self) -> int:
        """What payers paid for the shown jobs."""
        return sum(item.fee for item in {item.receipt_digest: item for item in self.shown}.values())


@dataclass(frozen=True)
class Books:
    """Everything that happened on chain so far."""

    events: Sequence[ChainEvent]

    @classmethod
    async def read(cls, chain: Chain) -> Books:
        """Read all logs from the deployment on."""
        return cls(await EventReader(chain).read(0, await chain.block_number()))

    def named(self, name: str) -> list[ChainEvent]:
        """Events of one name."""
        return [event for event in self.events if event.name == name]

    def collected_by(self, owner: str | None = None) -> int:
        """What owners (or one) collected, audit share included."""
        commits = [collected_of(event) for event in self.named("Collected")]
        return sum(c.paid for c in commits if owner in (None, c.commit.owner))

    def audits(self, owners: Iterable[str] | None = None, without_payer: str | None = None) -> dict[str, int]:
        """How many drawn points ended in which verdict; `without_payer` leaves one payer's jobs out."""
        commits = {c.commit.id: c for c in map(collected_of, self.named("Collected"))}
        drawn = self.drawn()
        wanted = None if owners is None else set(owners)
        count: Counter[str] = Counter(dict.fromkeys(_VERDICTS.values(), 0))
        for event in self.named("VerdictsRevealed"):
            commit, packed = commits[event.args["commitId"]], event.args["verdicts"]
            if wanted is not None and commit.commit.owner not in wanted:
                continue
            for i, point in enumerate(drawn[commit.commit.id]):
                if commit.ranges[point.range_index].payer != without_payer:
                    count[_VERDICTS[packed[i * _VERDICT_BYTES]]] += 1
        return dict(count)

    def drawn(self) -> dict[int, list[AuditPoint]]:
        """The drawn points of every commit whose seed is known, by the protocol's own code."""
        seeds = {event.args["commitId"]: event.args["seed"] for event in self.named("SeedFixed")}
        commits = [collected_of(event) for event in self.named("Collected")]
        return {
            c.commit.id: drawn_points(seeds[c.commit.id], c.ranges, c.commit.node, c.commit.step)
            for c in commits
            if c.commit.id in seeds
        }

    def unaudited(self) -> int:
        """Commits without a seed, or with drawn points whose verdicts are not on chain yet."""
        audited = {event.args["commitId"] for event in self.named("VerdictsRevealed")}
        drawn = self.drawn()
        ids = [event.args["commitId"] for event in self.named("Collected")]
        return sum(id_ not in drawn or (len(drawn[id_]) > 0 and id_ not in audited) for id_ in ids)

    def cases(self) -> list[CaseStory]:
        """Every case with its last jury."""
        return [self._case(event) for event in self.named("CaseOpened")]

    def _case(self, opened: ChainEvent) -> CaseStory:
        case_id = opened.args["caseId"]

        def later(name: str) -> list[ChainEvent]:
            return [event for event in self.named(name) if event.args["caseId"] == case_id]

        drawn, decided, executed = later("JurorsDrawn"), later("CaseDecided"), later("CaseExecuted")
        return CaseStory(
            case_id=case_id,
            owner=opened.args["owner"],
            challenger=opened.args["challenger"],
            shown=decode_shown(opened.args["shown"]),
            jurors=tuple(drawn[-1].args["jurors"]) if drawn else (),
            votes={vote.args["juror"]: _VERDICTS[vote.args["verdict"]] for vote in later("VoteRevealed")},
            verdict=_VERDICTS[decided[-1].args["verdict"]] if decided else None,
            executed=executed[-1] if executed else None,
        )

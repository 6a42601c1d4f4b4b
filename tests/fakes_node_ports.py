"""Stand-ins for what surrounds a node: chain, payers, court."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from retally.chain.deployment import Deployment
from retally.chain.escrow import CollectItem
from retally.chain.events import Collected
from retally.errors import ChainUnreachable, TransactionFailed, UpstreamTimeout
from retally.protocol.audit_points import AuditPoint
from retally.protocol.calibration import Calibration
from retally.protocol.case import CommitRecord, Range, Shown, pack_ranges
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Address, Bytes32, keccak
from retally.protocol.voucher import ChannelId, Reservation
from retally_node.defence import Accusation, AppealPrice, Means
from retally_node.jury import Duty
from retally_node.ledger import OpenChallenge, Vote
from retally_node.ports import Standing
from retally_node.settlement import MinedCommit
from retally_node.weigh_case import CaseFacts

MODEL_ID = keccak(b"model")
PROFILE_ID = keccak(b"profile")
NODE_KEY = SigningKey(keccak(b"node key"))
OWNER = SigningKey(keccak(b"owner key")).address
START = 1_700_000_000
DEPLOYMENT = Deployment(31337, 1, {"Escrow": Address("0x" + "11" * 20)})
GOOD_STANDING = Standing(10**12, thawing=0, reserved=0, cap_left=10**12, expiry=START + 30 * 86_400)


class FakeClock:
    """A clock that moves when told to."""

    def __init__(self, now: int = START) -> None:
        self.time = now

    def now(self) -> int:
        return self.time


@dataclass
class FakePayers:
    """Every payer stands as told."""

    standing_now: Standing = GOOD_STANDING
    is_reachable: bool = True

    async def standing(self, payer: Address, signer: Address) -> Standing:
        if not self.is_reachable:
            raise ChainUnreachable("the chain does not answer")
        return self.standing_now


@dataclass
class FakeCollect:
    """An Escrow in memory: pays what vouchers and receipts cover, once, and announces commits."""

    node: Address = NODE_KEY.address
    block: int = 1
    paid: dict[bytes, int] = field(default_factory=dict)
    mined: list[MinedCommit] = field(default_factory=list)
    funds: int = 10**12

    async def collect(self, items: Sequence[CollectItem], root: bytes) -> None:
        self.mine(items, root)

    def mine(self, items: Sequence[CollectItem], root: bytes) -> None:
        self.block += 1
        ranges = [item for item in map(self._pay, items) if item is not None]
        if not ranges:
            return
        total = sum(item.after - item.before for item in ranges)
        packed = pack_ranges(ranges)
        record = CommitRecord(
            len(self.mined) + 1, self.node, OWNER, Bytes32(root), keccak(packed), 1000, 300_000, self.block + 4, START
        )
        collected = Collected(record, tuple(ranges), packed, total, 0, 0)
        self.mined.append(MinedCommit(collected, self.block))

    def _pay(self, item: CollectItem) -> Range | None:
        voucher = item.voucher
        before = self.paid.get(voucher.channel.key, 0)
        after = min(voucher.cumulative, item.covered, before + self.funds)
        if after <= before:
            return None
        self.funds -= after - before
        self.paid[voucher.channel.key] = after
        return Range(voucher.payer, voucher.signer, voucher.lane, before, after)

    async def commits(self, from_block: int) -> tuple[list[MinedCommit], int]:
        return [commit for commit in self.mined if commit.block >= from_block], self.block + 1

    async def collected(self, channels: Sequence[ChannelId]) -> list[int]:
        return [self.paid.get(channel.key, 0) for channel in channels]


@dataclass
class FakeAudits:
    """Verifiers and seeds as told."""

    verifiers: set[Address] = field(default_factory=set)
    seeds: dict[int, bytes] = field(default_factory=dict)

    async def is_verifier(self, owner: Address) -> bool:
        return owner in self.verifiers

    async def acts_for(self, owner: Address, who: Address) -> bool:
        return owner == who

    async def seed_of(self, commit_id: int) -> bytes | None:
        return self.seeds.get(commit_id)


@dataclass
class FakeReserve:
    """Remembers what was submitted."""

    sent: list[Reservation] = field(default_factory=list)

    async def reserve(self, reservation: Reservation, signature: bytes) -> None:
        self.sent.append(reservation)


@dataclass
class FakeSilence:
    """Challenges and how far each answer has come, by parts."""

    found: list[OpenChallenge] = field(default_factory=list)
    parts: dict[bytes, list[tuple[int, int]]] = field(default_factory=dict)
    posted: list[bytes] = field(default_factory=list)

    async def challenges(self, from_block: int) -> tuple[list[OpenChallenge], int]:
        return self.found, from_block

    async def progress(self, challenge_id: bytes) -> Part | None:
        left = self.parts[challenge_id]
        return Part(*left[0]) if left else None

    async def post(self, challenge_id: bytes, data: bytes) -> None:
        self.parts[challenge_id].pop(0)
        self.posted.append(data)


@dataclass(frozen=True)
class Part:
    """Which tree of an answer comes next, and from which token on."""

    tree: int
    done: int


@dataclass
class FakeCourt:
    """Duties as told; remembers votes."""

    open_duties: list[Duty] = field(default_factory=list)
    cases: dict[int, CaseFacts] = field(default_factory=dict)
    commits: list[tuple[int, bytes]] = field(default_factory=list)
    reveals: list[Vote] = field(default_factory=list)

    async def duties(self) -> list[Duty]:
        return self.open_duties

    async def facts(self, case_id: int) -> CaseFacts:
        return self.cases[case_id]

    async def commit_vote(self, duty: Duty, hash_: bytes) -> None:
        self.commits.append((duty.case_id, hash_))

    async def reveal_vote(self, duty: Duty, vote: Vote) -> None:
        self.reveals.append(vote)


@dataclass
class FakeDefenceCourt:
    """Cases against the owner as told; an appeal opens the next round, as the Court does, and takes what it costs."""

    open_cases: dict[int, Accusation] = field(default_factory=dict)
    known: dict[int, CaseFacts] = field(default_factory=dict)
    cost: int = 101_000_000
    spent: int = 0
    spent_elsewhere: int = 0
    at_stake: int = 2_500_000_000
    held: int = 500_000_000
    owed: int = 0
    appealed: list[tuple[int, int]] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)
    refuses: str = ""
    is_reachable: bool = True

    async def accusations(self) -> list[Accusation]:
        if not self.is_reachable:
            raise ChainUnreachable("the chain does not answer")
        return list(self.open_cases.values())

    async def facts(self, case_id: int) -> CaseFacts:
        return self.known[case_id]

    async def means(self) -> Means:
        return Means(NODE_KEY.address, self.held, 101_000_000)

    async def price(self, case_id: int) -> AppealPrice:
        return AppealPrice(
            self.cost, self.spent, self.spent + self.spent_elsewhere, self.at_stake, self.held, NODE_KEY.address
        )

    async def appeal(self, case_id: int, cost: int) -> None:
        if self.refuses:
            raise TransactionFailed(self.refuses)
        case = self.open_cases[case_id]
        if case.appeal_end == 0:
            raise TransactionFailed("CourtWrongStatus")
        self.appealed.append((case_id, case.round))
        self.held -= cost
        self.spent += cost
        self.cost = 2 * cost - 1_000_000
        self.open_cases[case_id] = replace(
            case, round=case.round + 1, verdict=0, appeal_end=0, appeals=case.appeals + 1
        )

    async def move_on(self, case_id: int, shown: tuple[Shown, ...]) -> None:
        self.moved.append(case_id)

    async def withdraw(self) -> int:
        owed, self.owed = self.owed, 0
        self.held += owed
        return owed


@dataclass
class FakeCases:
    """What the chain would say about commits."""

    known: set[int] = field(default_factory=set)
    seeds: dict[int, bytes] = field(default_factory=dict)
    points: list[tuple[int, AuditPoint]] = field(default_factory=list)
    table: Calibration | None = None

    async def is_commit(self, commit: CommitRecord) -> bool:
        return commit.id in self.known

    async def seed_of(self, commit_id: int) -> bytes | None:
        return self.seeds.get(commit_id)

    async def drawn(self, owner: Address, since: int, until: int) -> list[tuple[int, AuditPoint]]:
        return self.points

    async def calibration(
        self, model_id: bytes, node_profile: bytes, own_profile: bytes, committed_at: int
    ) -> Calibration | None:
        return self.table


@dataclass
class FakeEvidence:
    """Files by uri."""

    files: dict[str, bytes] = field(default_factory=dict)

    async def fetch(self, uri: str, max_bytes: int) -> bytes:
        if uri not in self.files:
            raise UpstreamTimeout(f"{uri} is not served")
        return self.files[uri]

"""A whole node around stand-ins of engine and chain, and a customer that signs for it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from retally.chain.deployment import Deployment
from retally.chain.escrow import CollectItem
from retally.chain.events import Collected
from retally.errors import UpstreamTimeout
from retally.inference.chat_format import ChatFormat
from retally.protocol.audit_points import AuditPoint
from retally.protocol.calibration import Calibration
from retally.protocol.case import CommitRecord, Range, pack_ranges
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import ZERO_BYTES32, Address, Bytes32, keccak
from retally.protocol.job import Assignment, JobParams, JobRequest, params_hash, prompt_hash
from retally.protocol.merkle import ids_root
from retally.protocol.offer import Offer
from retally.protocol.voucher import ChannelId, Reservation, Voucher
from retally.protocol.wire import JobOptions, JobSubmission, SubmittedAssignment
from retally_node.bootstrap import Outside, assemble
from retally_node.jury import Duty
from retally_node.ledger import OpenChallenge, Vote
from retally_node.node import Node, Served
from retally_node.ports import Standing
from retally_node.settings import NodeSettings
from retally_node.settlement import MinedCommit
from retally_node.weigh_case import CaseFacts
from tests.fakes import FakeEngine

MODEL_ID = keccak(b"model")
PROFILE_ID = keccak(b"profile")
NODE_KEY = SigningKey(keccak(b"node key"))
OWNER = SigningKey(keccak(b"owner key")).address
START = 1_700_000_000
DEPLOYMENT = Deployment(31337, 1, {"Escrow": Address("0x" + "11" * 20)})
GOOD_STANDING = Standing(10**12, thawing=0, reserved=0, cap_left=10**12, expiry=START + 30 * 86_400)
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


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

    async def standing(self, payer: Address, signer: Address) -> Standing:
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

    async def commit_vote(self, case_id: int, hash_: bytes) -> None:
        self.commits.append((case_id, hash_))

    async def reveal_vote(self, vote: Vote) -> None:
        self.reveals.append(vote)


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

    async def calibration(self, model_id: bytes, node_profile: bytes, own_profile: bytes) -> Calibration | None:
        return self.table


@dataclass
class FakeEvidence:
    """Files by uri."""

    files: dict[str, bytes] = field(default_factory=dict)

    async def fetch(self, uri: str, max_bytes: int) -> bytes:
        if uri not in self.files:
            raise UpstreamTimeout(f"{uri} is not served")
        return self.files[uri]


def tiny_format(folder: Path) -> ChatFormat:
    """A byte-level tokenizer without merges: one token a byte."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<|end|>": 0, "<|eos|>": 1} | {symbol: 2 + n for n, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>", "<|eos|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|eos|>", "chat_template": TEMPLATE}))
    return ChatFormat.load(folder)


def node_settings(folder: Path, **changes: Any) -> NodeSettings:
    """Settings of a node on the development chain."""
    values: dict[str, Any] = {
        "rpc_url": "http://127.0.0.1:1",
        "deployment": folder / "deployment.json",
        "key": "0x" + NODE_KEY.secret.hex(),
        "model_dir": folder / "model",
        "data_dir": folder / "data",
        "price_in": 2_000_000,
        "price_cached": 1_000_000,
        "price_out": 6_000_000,
        "max_context": 256,
        "admin_token": "secret",
        "voucher_wait_seconds": 0.2,
    }
    return NodeSettings(**{**values, **changes})


@dataclass
class World:
    """A node with everything around it within reach."""

    node: Node
    engine: FakeEngine
    clock: FakeClock
    payers: FakePayers
    collect: FakeCollect
    audits: FakeAudits
    reserve: FakeReserve
    silence: FakeSilence
    court: FakeCourt
    cases: FakeCases
    evidence: FakeEvidence

    async def close(self) -> None:
        await self.node.server.shutdown()
        self.node.ledger.close()


async def open_world(
    folder: Path, collect: FakeCollect | None = None, make_engine: type[FakeEngine] = FakeEngine, **changes: Any
) -> World:
    """A running node in a folder; opened again it finds its books."""
    chat_format = tiny_format(folder / "model")
    engine = make_engine(vocab_size=chat_format.vocab_size)
    clock, payers, audits, reserve = FakeClock(), FakePayers(), FakeAudits(), FakeReserve()
    collect = collect or FakeCollect()
    settings = node_settings(folder, **changes)
    served = Served("retally/tiny", MODEL_ID, PROFILE_ID, settings.max_context, OWNER)
    silence, court, cases, evidence = FakeSilence(), FakeCourt(), FakeCases(), FakeEvidence()
    outside = Outside(clock, payers, collect, audits, reserve, silence, court, cases, evidence, 1)
    node = await assemble(settings, NODE_KEY, DEPLOYMENT, served, engine, chat_format, outside)
    return World(node, engine, clock, payers, collect, audits, reserve, silence, court, cases, evidence)


@dataclass
class Customer:
    """A payer's signer and its router in one: signs requests, assignments and vouchers."""

    key: SigningKey = field(default_factory=lambda: SigningKey(keccak(b"session")))
    payer: Address = SigningKey(keccak(b"payer")).address
    lane: int = 7
    domain: Domain = DEPLOYMENT.domain
    counter: int = 0

    @property
    def channel(self) -> ChannelId:
        return ChannelId(self.payer, self.key.address, NODE_KEY.address, self.lane)

    def params(self, **changes: Any) -> JobParams:
        return JobParams(**{"max_tokens": 24, "template_date": "2026-11-21", **changes})

    def request(self, prompt: Mapping[str, Any], params: JobParams, **changes: Any) -> JobRequest:
        nonce = Bytes32(secrets.token_bytes(32))
        values: dict[str, Any] = {
            "payer": self.payer,
            "signer": self.key.address,
            "model_id": MODEL_ID,
            "profile_id": ZERO_BYTES32,
            "n": 1,
            "max_price_in": 10**9,
            "max_price_cached": 10**9,
            "max_price_out": 10**9,
            "prompt_hash": prompt_hash(nonce, prompt),
            "params_hash": params_hash(params),
            "max_output": params.max_tokens,
            "max_fee": 10**9,
            "client_seed": Bytes32(bytes(31) + b"\x07"),
            "audit_consent": True,
            "nonce": nonce,
            "deadline": START + 3600,
        }
        return JobRequest(**{**values, **changes})

    def assign(
        self, request: JobRequest, offer: Offer, prefix: Sequence[int] = (), **changes: Any
    ) -> SubmittedAssignment:
        self.counter += 1
        values: dict[str, Any] = {
            "job_id": request.digest(self.domain),
            "router": self.key.address,
            "replica": 0,
            "boot": 1,
            "counter": self.counter,
            "node": NODE_KEY.address,
            "offer_hash": offer.digest(self.domain),
            "choice": 0,
            "segment": 1 if prefix else 0,
            "output_from": len(prefix),
            "prefix_root": ids_root(prefix),
            "remaining_fee": request.max_fee,
        }
        assignment = Assignment(**{**values, **changes})
        return SubmittedAssignment(assignment, self.key.sign(assignment.digest(self.domain)), tuple(prefix))

    def voucher(self, cumulative: int, **changes: Any) -> tuple[Voucher, bytes]:
        values: dict[str, Any] = {**self._channel_fields(), "cumulative": cumulative}
        voucher = Voucher(**{**values, **changes})
        return voucher, self.key.sign(voucher.digest(self.domain))

    def _channel_fields(self) -> dict[str, Any]:
        channel = self.channel
        return {"payer": channel.payer, "signer": channel.signer, "node": channel.node, "lane": channel.lane}

    async def submission(
        self,
        node: Node,
        text: str = "Once upon a time",
        *,
        cumulative: int = 10**8,
        stream: bool = False,
        prompt: Mapping[str, Any] | None = None,
        params: JobParams | None = None,
        options: JobOptions | None = None,
        **request: Any,
    ) -> JobSubmission:
        """A submission that a node takes, unless told otherwise."""
        params = params or self.params()
        prompt = prompt or {"messages": [{"role": "user", "content": text}]}
        signed = self.request(prompt, params, **request)
        offer = (await node.offers.current()).offer
        voucher, voucher_signature = self.voucher(cumulative)
        return JobSubmission(
            request=signed,
            request_signature=self.key.sign(signed.digest(self.domain)),
            prompt=prompt,
            params=params,
            assignments=tuple(self.assign(signed, offer, choice=choice) for choice in range(signed.n)),
            lane=self.lane,
            voucher=voucher,
            voucher_signature=voucher_signature,
            stream=stream,
            options=options or JobOptions(),
        )

    def resign(self, submission: JobSubmission, offer: Offer, **changes: Any) -> JobSubmission:
        """The submission with fields of its request changed and everything signed again."""
        request = replace(submission.request, **changes)
        items = tuple(
            self.assign(request, offer, item.prefix, choice=item.assignment.choice, segment=item.assignment.segment)
            for item in submission.assignments
        )
        signature = self.key.sign(request.digest(self.domain))
        return replace(submission, request=request, request_signature=signature, assignments=items)

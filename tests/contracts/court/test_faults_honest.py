"""No fault succeeds against an honest transcript: every proof is tried with every combination of honest messages."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise, product
from pathlib import Path
from typing import Any, cast

from eth_abi.abi import encode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web3 import HTTPProvider
from web3.contract.contract import ContractFunction

from retally.protocol import merkle
from retally.protocol.case import Verdict
from retally.protocol.encoding import Bytes32, keccak
from retally.protocol.receipt import FinishReason
from tests.contracts.court.honest import Ending, Step, Transcript, play
from tests.contracts.court.ledger import OPERATOR
from tests.contracts.court.proofs import Claimant, TokenTree, ids_leaves, output_leaf, output_leaves, top_of
from tests.contracts.court.transcripts import Job
from tests.contracts.court.world import STAKE, World

SALT = keccak(b"salt")
# Where `Claims` keeps its claims; the test fails with FaultsClaimUnknown should that change.
CLAIMS_SLOT = 0
CLAIMED = "0x" + (1).to_bytes(32, "big").hex()
BATCH = 200


STEPS = st.lists(
    st.builds(
        Step,
        payer=st.integers(0, 1),
        lane=st.integers(0, 1),
        choices=st.integers(1, 2),
        prompt=st.integers(1, 70),
        max_tokens=st.integers(1, 36),
        cached=st.sampled_from([0, 1, 64]),
        ending=st.sampled_from(Ending),
        after=st.integers(0, 9),
        tight=st.sampled_from([None, None, 0, 30, 100]),
        goes_on=st.booleans(),
        twice=st.booleans(),
        elsewhere=st.booleans(),
        settles=st.booleans(),
    ),
    min_size=1,
    max_size=3,
)


class Accuser(Claimant):
    """A claimant whose claims are made up for a call."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.slots: list[str] = []

    def claim(self, evidence: bytes) -> bytes:
        """Note where the claim would be kept."""
        claim = keccak(encode(["address", "bytes32", "bytes32"], [self.account, evidence, SALT]))
        self.slots.append("0x" + keccak(claim + CLAIMS_SLOT.to_bytes(32, "big")).hex())
        return SALT

    def errors(self, calls: Iterable[ContractFunction]) -> set[str]:
        """The errors that calls revert with, each under a claim of its own; raise if one does not."""
        found: set[str] = set()
        claimed: list[tuple[ContractFunction, str]] = []
        for call in calls:
            claimed.append((call, self.slots[-1]))
            if len(claimed) == BATCH:
                found |= self._revert(claimed)
                claimed.clear()
        return found | self._revert(claimed)

    def _revert(self, claimed: Sequence[tuple[ContractFunction, str]]) -> set[str]:
        requests = []
        for call, slot in claimed:
            transaction = {"from": self.account, "to": call.address, "data": call._encode_transaction_data()}
            override = {call.address: {"stateDiff": {slot: CLAIMED}}}
            requests.append(("eth_call", [transaction, "latest", override]))
        provider = cast(HTTPProvider, self.world.ledger.web3.provider)
        answers = cast(list[Any], provider.make_batch_request(requests)) if requests else []  # type: ignore[arg-type]
        names = set()
        for (call, _), answer in zip(claimed, answers, strict=True):
            assert "error" in answer, f"{call.fn_name}{call.args} succeeded"
            names.add(self.world.ledger.error_name(bytes.fromhex(str(answer["error"]["data"])[2:])))
        return names


def receipt_proofs(accuser: Accuser, transcript: Transcript, bound: bool) -> Iterator[ContractFunction]:
    """Every fault of one receipt, and of two."""
    leaves = {job.digest for commit in transcript.commits for job in commit.tree.jobs}
    jobs = [job for job in transcript.jobs if not bound or job.digest in leaves]
    for job in jobs:
        yield accuser.overbilling(job, bound)
        yield accuser.deviation(job, bound)
        yield accuser.early_length(job, bound=bound)
        yield from miscounts(accuser, job, bound)
    for a, b in product(jobs, jobs):
        yield accuser.conflict(a, b, bound)
        yield accuser.double_money(a, b, bound)
        if a is not b:
            yield accuser.overbilling(with_papers(a, b), bound)
            yield accuser.deviation(with_papers(a, b), bound)


def with_papers(job: Job, other: Job) -> Job:
    """A receipt beside another job's request and offer."""
    return Job(
        job.domain, job.node, other.request, other.request_signature, other.offer, other.prompt, other.params,
        job.prompt_ids, job.prefix_ids, job.output_ids, job.output_q, job.receipt,
    )  # fmt: skip


def miscounts(accuser: Accuser, job: Job, bound: bool) -> Iterator[ContractFunction]:
    """Every tree's own count and top, and counts beside it."""
    output = [bytes(merkle.leaf(leaf)) for leaf in output_leaves(job.receipt.output_from, job.output_ids, job.output_q)]
    trees = {
        TokenTree.PROMPT: (len(job.prompt_ids), top_of(ids_leaves(job.prompt_ids))),
        TokenTree.PREFIX: (len(job.prefix_ids), top_of(ids_leaves(job.prefix_ids))),
        TokenTree.OUTPUT: (len(job.output_ids), top_of(output)),
    }
    for tree, (count, top) in trees.items():
        for said in {count, count + 1, max(count - 1, 0), 0}:
            yield accuser.miscount(job, tree, said, top, bound)


def chunk_proofs(accuser: Accuser, transcript: Transcript) -> Iterator[ContractFunction]:
    """Every chunk against every receipt of the same node, leaf by leaf."""
    for (chunk, ids), job in product(transcript.chunks, transcript.jobs):
        if chunk.node != job.receipt.node:
            continue
        yield accuser.broken_chunk(chunk, job)
        quantised = job.output_q[: len(ids)] if len(ids) <= len(job.output_q) else None
        longest = next((j for j in transcript.jobs if j.output_ids[: len(ids)] == ids and j is job), None)
        if quantised is None or longest is None:
            continue
        for index in range(-(-len(ids) // merkle.CHUNK)):
            own = output_leaf(job.receipt.output_from, job.output_ids, job.output_q, index)
            yield accuser.broken_chunk(chunk, job, index, output_leaf(chunk.output_from, ids, quantised, index), own)


def tree_proofs(accuser: Accuser, transcript: Transcript) -> Iterator[ContractFunction]:
    """Every fault of every tree under a commit."""
    for commit in transcript.commits:
        amount = len(commit.tree.jobs)
        neighbours = [[], [0], [amount - 1], *map(list, pairwise(range(amount)))]
        for range_index, places in product(range(len(commit.packed) // 68), neighbours):
            yield accuser.tiling(commit, range_index, places)
        for index, job in enumerate(commit.tree.jobs):
            yield accuser.improper_leaf(commit, index)
            yield accuser.thin_leaf(commit, index)
            yield accuser.unsigned_leaf(commit, job.leaf.data(job.domain), index, commit.tree.leaves)
            for range_index in range(len(commit.packed) // 68):
                yield accuser.late_leaf(commit, index, range_index)


def statement_proofs(accuser: Accuser, transcript: Transcript) -> Iterator[ContractFunction]:
    """Every two assignments of one router, and verdicts of one verifier."""
    world = accuser.world
    routers = {key.address: key for key in (world.payer, world.friend)}
    for a, b in product(transcript.assignments, transcript.assignments):
        if a.router == b.router:
            yield accuser.statements("proveAssignments", routers[a.router], a, b)
    verifier = world.verifier_keys[0]
    digests = [job.digest for job in transcript.jobs[:3]]
    verdicts = [
        Verdict(commit, round_, Bytes32(digest), verifier.address, 1 + (commit + round_) % 3, 7)
        for commit, round_, digest in product((1, 2), (0, 1), digests)
    ]
    for first, second in product(verdicts, verdicts):
        yield accuser.statements("proveVerdicts", verifier, first, second)


def check_nothing_is_proven(world: World, transcript: Transcript) -> None:
    """Try every proof with every combination of what honest parties signed."""
    accuser = Accuser(world)
    for commit in transcript.commits:
        for index in range(len(commit.tree.jobs)):
            world.ledger.send(accuser.bind(commit, index), accuser.account)
    calls = chain(
        receipt_proofs(accuser, transcript, bound=False),
        receipt_proofs(accuser, transcript, bound=True),
        chunk_proofs(accuser, transcript),
        tree_proofs(accuser, transcript),
        statement_proofs(accuser, transcript),
    )
    names = accuser.errors(calls)
    assert not {name for name in names if name.startswith("FaultsClaim") or name == "FaultsNotBound"}
    slashable = world.ledger.staking.functions.slashable
    assert {slashable(owner, OPERATOR).call() for owner in world.owners} == {STAKE}


class TestHonest:
    def test_all_that_happens_to_jobs_is_tried(self, world: World) -> None:
        steps = [
            Step(choices=2, max_tokens=40, elsewhere=True, twice=True),
            Step(payer=1, max_tokens=40, ending=Ending.CANCELLED, goes_on=True, settles=True),
            Step(lane=1, max_tokens=40, ending=Ending.MOVED, after=9, goes_on=True),
            Step(max_tokens=40, ending=Ending.CRASHED, after=13, goes_on=True),
            Step(max_tokens=40, prompt=70, cached=64),
            Step(lane=2, max_tokens=40, tight=30),
        ]
        with tempfile.TemporaryDirectory() as folder:
            transcript = asyncio.run(play(world, steps, Path(folder)))
        receipts = [job.receipt for job in transcript.jobs]
        assert {receipt.finish_reason for receipt in receipts} >= set(FinishReason) - {
            FinishReason.TOOL,
            FinishReason.STOP,
        }
        assert any(receipt.output_from > 0 for receipt in receipts)
        assert any(receipt.choice > 0 for receipt in receipts)
        assert any(receipt.cached_tokens > 0 for receipt in receipts)
        assert len({(receipt.job_id, receipt.node) for receipt in receipts}) > len({r.job_id for r in receipts})
        ends = {(r.node, r.job_id, r.choice, r.output_from): r.output_to for r in receipts}
        chunks = [chunk for chunk, _ in transcript.chunks]
        assert any(ends[(c.node, c.job_id, c.choice, c.output_from)] < c.output_to for c in chunks)
        assert len(transcript.commits) >= 3
        check_nothing_is_proven(world, transcript)

    @settings(
        max_examples=10, deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(steps=STEPS)
    def test_nothing_can_be_proven(self, founded_world: World, steps: list[Step]) -> None:
        with founded_world.ledger.reverted(), tempfile.TemporaryDirectory() as folder:
            transcript = asyncio.run(play(founded_world, steps, Path(folder)))
            check_nothing_is_proven(founded_world, transcript)

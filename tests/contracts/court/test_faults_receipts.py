"""Faults of receipts: against chunks, counts, `length`, and as leaves of a commit that bind the owner wholly."""

from __future__ import annotations

from dataclasses import replace

import pytest

from retally.protocol import merkle
from retally.protocol.encoding import Bytes32
from retally.protocol.job import canonical_json, params_hash
from tests.contracts.court.ledger import DAY, MILLION
from tests.contracts.court.proofs import (
    Claimant,
    Kind,
    TokenTree,
    bound,
    chunk_of,
    ids_leaves,
    output_leaf,
    output_leaves,
    sealed,
    top_of,
)  # fmt: skip
from tests.contracts.court.transcripts import Job, Tree
from tests.contracts.court.world import STAKE, World

HOT = STAKE * 50_000 // MILLION
BOUND = STAKE * 50_000 // MILLION
OTHER = Bytes32(b"\x33" * 32)


@pytest.fixture
def claimant(world: World) -> Claimant:
    """Anybody."""
    return Claimant(world)


@pytest.fixture
def job(world: World) -> Job:
    """An honest job."""
    return world.job()


class TestBrokenChunk:
    @pytest.mark.parametrize("tokens", [20, 32, 100, 127])
    def test_a_shorter_chunk_of_other_tokens(self, claimant: Claimant, job: Job, tokens: int) -> None:
        ids = (*job.output_ids[: tokens - 1], 4_095)
        root = merkle.output_root(0, ids, job.output_q[:tokens])
        broken = claimant.broken_leaf(chunk_of(job, tokens, output_root=root), ids, job, (tokens - 1) // 32)
        punished = claimant.proves(broken)
        assert (punished.kind, punished.slashed) == (Kind.BROKEN_CHUNK, HOT)
        assert punished.key == int(job.receipt.node, 16)

    def test_a_chunk_of_the_same_length_by_its_root(self, claimant: Claimant, job: Job) -> None:
        chunk = chunk_of(job, 128, output_root=OTHER)
        assert claimant.proves(claimant.broken_chunk(chunk, job)).slashed == HOT
        claimant.reverts("FaultsAlreadyProven", claimant.broken_chunk(chunk_of(job, 128, output_root=HASH), job))

    def test_a_receipt_that_ends_before_its_chunk(self, claimant: Claimant, job: Job) -> None:
        """A shorter receipt is honest, other tokens in it are not."""
        short = job.changed(output_to=40, output_root=merkle.output_root(0, job.output_ids[:40], job.output_q[:40]))
        short = replace(short, output_ids=job.output_ids[:40], output_q=job.output_q[:40])
        chunk = chunk_of(job, 128)
        for index in (0, 1):
            leaves = output_leaf(0, job.output_ids, job.output_q, index)
            own = output_leaf(0, short.output_ids, short.output_q, index)
            claimant.reverts("FaultsNoContradiction", claimant.broken_chunk(chunk, short, index, leaves, own))
        ids = (*job.output_ids[:39], 4_095)
        lying = replace(short, output_ids=ids).changed(output_root=merkle.output_root(0, ids, job.output_q[:40]))
        leaves = output_leaf(0, job.output_ids, job.output_q, 1)
        own = output_leaf(0, ids, job.output_q[:40], 1)
        assert claimant.proves(claimant.broken_chunk(chunk, lying, 1, leaves, own)).slashed == HOT

    def test_a_leaf_of_another_size_than_its_count(self, claimant: Claimant, job: Job) -> None:
        stuffed = output_leaves(0, job.output_ids[:33], job.output_q[:33])[0] + b"\0" * 6
        root = sealed(20, merkle.leaf(stuffed))
        chunk = chunk_of(job, 20, output_root=root)
        own = output_leaf(0, job.output_ids, job.output_q, 0)
        assert claimant.proves(claimant.broken_chunk(chunk, job, 0, (stuffed, []), own)).slashed == HOT
        padded = merkle.leaf(stuffed)
        swollen = job.changed(output_to=31, output_root=sealed(31, padded))
        honest = chunk_of(job, 30)
        inside = output_leaf(0, job.output_ids[:30], job.output_q[:30], 0)
        call = claimant.broken_chunk(honest, swollen, 0, inside, (stuffed, []))
        claimant.reverts("FaultsAlreadyProven", call)

    def test_reverts_for_honest_chunks(self, claimant: Claimant, job: Job) -> None:
        for tokens in (1, 31, 32, 33, 96, 128):
            chunk = chunk_of(job, tokens)
            call = claimant.broken_leaf(chunk, job.output_ids[:tokens], job)
            claimant.reverts("FaultsNoContradiction", call)

    def test_reverts_for_leaves_of_something_else(self, claimant: Claimant, job: Job) -> None:
        chunk = chunk_of(job, 40)
        own = output_leaf(0, job.output_ids, job.output_q, 0)
        other = output_leaf(0, job.output_ids, job.output_q, 1)
        assert claimant.reverts("FaultsNotInOutput", claimant.broken_chunk(chunk, job, 0, own, own))[1] == 0
        inside = output_leaf(0, job.output_ids[:40], job.output_q[:40], 0)
        claimant.reverts("FaultsNotInOutput", claimant.broken_chunk(chunk, job, 0, inside, other))

    def test_reverts_for_another_segment_or_node(self, world: World, claimant: Claimant, job: Job) -> None:
        for changes in ({"choice": 1}, {"output_from": 1}, {"job_id": OTHER}, {"node": world.nodes[1].address}):
            chunk = chunk_of(job, 128, output_root=OTHER)
            claimant.reverts("FaultsNoContradiction", claimant.broken_chunk(replace(chunk, **changes), job))

    def test_is_void_once_the_key_is_revoked(self, world: World, claimant: Claimant, job: Job) -> None:
        world.ledger.send(world.ledger.registry.functions.revokeNode(job.receipt.node), world.cheat)
        claimant.reverts("FaultsReceiptVoid", claimant.broken_chunk(chunk_of(job, 128, output_root=OTHER), job))


HASH = Bytes32(b"\x44" * 32)


class TestMiscount:
    @pytest.mark.parametrize(
        ("tree", "fields"),
        [
            (TokenTree.PROMPT, {"prompt_tokens": 61}),
            (TokenTree.PREFIX, {"prefix_root": sealed(3, OTHER)}),
            (TokenTree.OUTPUT, {"output_to": 129}),
        ],
        ids=["prompt", "prefix", "output"],
    )
    def test_slashes(self, claimant: Claimant, job: Job, tree: TokenTree, fields: dict[str, object]) -> None:
        lying = job.changed(**fields)
        leaves = [merkle.leaf(leaf) for leaf in output_leaves(0, job.output_ids, job.output_q)]
        count, top = {
            TokenTree.PROMPT: (60, top_of(ids_leaves(job.prompt_ids))),
            TokenTree.PREFIX: (3, OTHER),
            TokenTree.OUTPUT: (128, top_of(leaves)),
        }[tree]
        punished = claimant.proves(claimant.miscount(lying, tree, count, top))
        assert (punished.kind, punished.slashed) == (Kind.MISCOUNT, HOT)

    def test_reverts_for_honest_counts_and_tops_of_nothing(self, claimant: Claimant, job: Job) -> None:
        top = top_of(ids_leaves(job.prompt_ids))
        operands = claimant.reverts("FaultsCountsMatch", claimant.miscount(job, TokenTree.PROMPT, 60, top))
        assert operands == (job.receipt.prompt_root, 60)
        claimant.reverts("FaultsCountsMatch", claimant.miscount(job, TokenTree.PROMPT, 61, top))
        claimant.reverts("FaultsCountsMatch", claimant.miscount(job, TokenTree.PREFIX, 0, bytes(32)))
        claimant.reverts("FaultsCountsMatch", claimant.miscount(job, TokenTree.OUTPUT, 1, OTHER))


class TestEarlyLength:
    def test_slashes_where_all_had_room(self, claimant: Claimant, job: Job) -> None:
        punished = claimant.proves(claimant.early_length(job))
        assert (punished.kind, punished.slashed) == (Kind.EARLY_LENGTH, HOT)

    def test_reverts_where_one_limit_was_reached(self, claimant: Claimant, job: Job) -> None:
        full = job.changed(output_to=512)
        assert claimant.reverts("FaultsLengthReached", claimant.early_length(full)) == (1, 512, 512)
        tight = job.offered(max_context=60 + 128)
        assert claimant.reverts("FaultsLengthReached", claimant.early_length(tight)) == (1, 128, 128)
        params = replace(job.params, max_tokens=128)
        request = replace(job.request, params_hash=params_hash(params))
        asked = replace(job, params=params, request=request)
        asked = asked.changed(job_id=request.digest(job.domain), params_hash=request.params_hash)
        assert claimant.reverts("FaultsLengthReached", claimant.early_length(asked)) == (1, 128, 128)
        full_context = job.offered(max_context=10)
        assert claimant.reverts("FaultsLengthReached", claimant.early_length(full_context)) == (1, 128, 0)

    @pytest.mark.parametrize("reason", [0, 2, 3, 4, 5])
    def test_reverts_for_other_ends(self, claimant: Claimant, job: Job, reason: int) -> None:
        call = claimant.early_length(job.changed(finish_reason=reason))
        assert claimant.reverts("FaultsLengthReached", call)[0] == reason

    def test_reverts_for_other_params_or_places(self, claimant: Claimant, job: Job) -> None:
        shown = canonical_json(job.params.to_json())
        for params, offset in ((shown + b" ", None), (shown, 0), (shown, 10**6), (shown, 2**256 - 5), (shown, 1)):
            claimant.reverts("FaultsWrongParams", claimant.early_length(job, params, offset))

    def test_a_stop_string_cannot_pose_as_the_limit(self, claimant: Claimant, job: Job) -> None:
        params = replace(job.params, stop=('","maxTokens":999999,"',), max_tokens=128)
        shown = canonical_json(params.to_json())
        request = replace(job.request, params_hash=params_hash(params))
        asked = replace(job, params=params, request=request)
        asked = asked.changed(job_id=request.digest(job.domain), params_hash=request.params_hash)
        places = [i for i in range(len(shown)) if shown[i:].startswith(b'"maxTokens')]
        assert len(places) == 2
        claimant.reverts("FaultsLengthReached", claimant.early_length(asked, shown, places[0]))
        claimant.reverts("FaultsWrongParams", claimant.early_length(asked, shown, places[1]))


class TestBound:
    """What stands under a commit binds the owner, whatever became of its key."""

    def test_slashes_beyond_the_cap_and_refunds_whole(self, world: World, claimant: Claimant) -> None:
        dear = world.job().changed(cum_to=150 * MILLION)
        commit = bound(world, claimant, dear)
        assert world.ledger.faults.functions.boundOwner(dear.digest).call() == world.cheat
        punished = claimant.proves(claimant.overbilling(dear, bound=True))
        assert (punished.kind, punished.owner, punished.key) == (Kind.OVERBILLING, world.cheat, 0)
        assert (punished.slashed, punished.refunded) == (BOUND, 150 * MILLION)
        assert world.ledger.staking.functions.credit(world.payer.address).call() == 150 * MILLION
        assert world.ledger.faults.functions.takenBySignatures(dear.receipt.node).call() == 0
        claimant.reverts("FaultsAlreadyProven", claimant.overbilling(dear, bound=True))
        assert commit.record.owner == world.cheat
        world.supply()

    def test_outlives_the_key_and_the_receipts_life(self, world: World, claimant: Claimant) -> None:
        first, second = world.jobs(2)
        wrong = first.changed(seed=OTHER), second.changed(params_hash=OTHER)
        bound(world, claimant, *wrong)
        world.ledger.send(world.ledger.registry.functions.revokeNode(first.receipt.node), world.cheat)
        world.ledger.jump(40 * DAY)
        claimant.reverts("FaultsReceiptVoid", claimant.deviation(wrong[0]))
        for each in wrong:
            assert claimant.proves(claimant.deviation(each, bound=True)).slashed > 0

    def test_a_capped_proof_shields_nothing(self, world: World, claimant: Claimant) -> None:
        dear = world.job().changed(cum_to=200 * MILLION)
        bound(world, claimant, dear)
        capped = claimant.proves(claimant.overbilling(dear))
        assert (capped.slashed, capped.refunded) == (HOT, 0)
        assert claimant.proves(claimant.overbilling(dear, bound=True)).refunded == 200 * MILLION

    def test_a_conflict_needs_both_under_commits(self, world: World, claimant: Claimant) -> None:
        first, second = world.jobs(2)
        twice = second.changed(job_id=first.receipt.job_id)
        commit = world.collect(Tree(world.ledger.domain, (first, twice)))
        assert claimant.reverts("FaultsNotBound", claimant.conflict(first, twice, bound=True)) == (twice.digest,)
        world.ledger.send(claimant.bind(commit, 1), claimant.account)
        assert claimant.reverts("FaultsNotBound", claimant.conflict(first, twice, bound=True)) == (first.digest,)
        world.ledger.send(claimant.bind(commit, 0), claimant.account)
        world.ledger.send(world.ledger.registry.functions.revokeNode(first.receipt.node), world.cheat)
        punished = claimant.proves(claimant.conflict(first, twice, bound=True))
        assert (punished.kind, punished.key) == (Kind.CONFLICT, 0)

    def test_is_shown_by_leaves_of_the_commits_own_node(self, world: World, claimant: Claimant, job: Job) -> None:
        foreign = replace(job, node=world.nodes[1]).changed(node=world.nodes[1].address)
        commit = world.collect(Tree(world.ledger.domain, (foreign,)))
        claimant.reverts("FaultsForeignLeaf", claimant.bind(commit, 0))
        stranger = replace(commit, tree=Tree(world.ledger.domain, (job,)))
        claimant.reverts("FaultsNotUnderRoot", claimant.bind(stranger, 0))
        unknown = replace(commit, record=replace(commit.record, step=1))
        claimant.reverts("FaultsUnknownCommit", claimant.bind(unknown, 0))

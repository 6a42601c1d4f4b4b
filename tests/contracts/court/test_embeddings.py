"""Receipts for embeddings before the contracts: no fault of an honest one, a conflict of two (R-74, R-75)."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from retally.protocol import merkle
from retally.protocol.embeddings import ids_of_bytes, params_of_embeddings
from retally.protocol.job import job_seed, params_hash, prompt_hash
from retally.protocol.pricing import Prices, fee_round_down
from retally.protocol.receipt import FinishReason
from tests.contracts.court.challenges import ANSWERED, challenge
from tests.contracts.court.proofs import Claimant, Kind, TokenTree, chunk_of
from tests.contracts.court.test_faults_honest import Accuser, miscounts
from tests.contracts.court.transcripts import Job, Tree
from tests.contracts.court.world import World

PRICES = Prices(2_000_000, 1_000_000, 0)
SIZE, INPUTS = 24, 3
#: The inputs together are longer than a context, which is each one's own.
CONTEXT = 40


def embedding(world: World, factor: float = 1.0, *, like: Job | None = None, cum_from: int = 0) -> Job:
    """An honest job for embeddings, or the same job with vectors that are not the first one's."""
    base = like or world.job(consent=False)
    prompt, params = {"inputs": ["a", "b", "c"]}, params_of_embeddings(SIZE, INPUTS)
    request = base.request
    if like is None:
        request = replace(
            request,
            n=1,
            max_price_out=0,
            prompt_hash=prompt_hash(request.nonce, prompt),
            params_hash=params_hash(params),
            max_output=params.max_tokens,
        )
    offer = replace(base.offer, price_out=0, max_context=CONTEXT)
    ids = tuple(ids_of_bytes(struct.pack(f"<{SIZE * INPUTS}f", *(factor * n / 7 for n in range(SIZE * INPUTS)))))
    quantised = (0,) * len(ids)
    fee = fee_round_down(
        PRICES,
        prompt_tokens=len(base.prompt_ids),
        cached_tokens=0,
        output_tokens=len(ids),
        choice=0,
        output_from=0,
    )
    receipt = replace(
        base.receipt,
        job_id=request.digest(base.domain),
        offer_hash=offer.digest(base.domain),
        params_hash=request.params_hash,
        seed=job_seed(request.client_seed, 0),
        output_to=len(ids),
        output_root=merkle.output_root(0, ids, quantised),
        finish_reason=FinishReason.STOP,
        cum_from=cum_from,
        cum_to=cum_from + fee,
    )
    signature = world.payer.sign(receipt.job_id)
    return Job(
        base.domain, base.node, request, signature, offer, prompt, params, base.prompt_ids, (), ids, quantised, receipt
    )  # fmt: skip


@pytest.fixture
def job(world: World) -> Job:
    return embedding(world)


class TestHonest:
    def test_no_fault_of_one_receipt_can_be_proven(self, world: World, job: Job) -> None:
        accuser = Accuser(world)
        assert len(job.prompt_ids) > job.offer.max_context
        for reason in (FinishReason.STOP, FinishReason.LENGTH):
            # The node writes `stop`; even `length` would not be early, since all components are there.
            shown = job.changed(finish_reason=reason)
            assert accuser.errors([accuser.overbilling(shown)]) == {"FaultsBillingCorrect"}
            assert accuser.errors([accuser.deviation(shown)]) == {"FaultsNoDeviation"}
            assert accuser.errors([accuser.early_length(shown)]) == {"FaultsLengthReached"}
            assert accuser.errors(miscounts(accuser, shown, False)) == {"FaultsCountsMatch"}
            assert accuser.errors([accuser.conflict(shown, shown)]) == {"FaultsNoContradiction"}
            assert accuser.errors([accuser.broken_chunk(chunk_of(shown, len(shown.output_ids)), shown)]) == {
                "FaultsNoContradiction"
            }

    def test_nor_of_what_an_engine_that_failed_left(self, world: World, job: Job) -> None:
        empty = replace(job, output_ids=(), output_q=()).changed(
            output_to=0, output_root=merkle.EMPTY_ROOT, cum_to=0, finish_reason=FinishReason.MOVED
        )
        accuser = Accuser(world)
        assert accuser.errors([accuser.overbilling(empty), accuser.deviation(empty)]) == {
            "FaultsBillingCorrect",
            "FaultsNoDeviation",
        }
        assert accuser.errors(miscounts(accuser, empty, False)) == {"FaultsCountsMatch"}
        # Nor is it a conflict with the whole one that came first, or after a restart.
        assert accuser.errors([accuser.conflict(empty, job), accuser.conflict(job, empty)]) == {"FaultsNoContradiction"}

    def test_a_challenge_is_answered_by_the_request_alone(self, world: World) -> None:
        jobs: list[Job] = []
        for _ in range(40):
            jobs.append(embedding(world, cum_from=jobs[-1].receipt.cum_to if jobs else 0))
        commit = world.collect(Tree.of(jobs))
        world.fix_seed(commit)
        opened = challenge(world, commit)
        opened.answer(opened.head(field_7=b"", field_8=b""))
        assert opened.status == ANSWERED


class TestDishonest:
    def test_r74_other_vectors_for_the_same_job_are_a_conflict(self, world: World, job: Job) -> None:
        punished = Claimant(world).proves(Claimant(world).conflict(job, embedding(world, 2.0, like=job)))
        assert punished.kind == Kind.CONFLICT
        assert punished.slashed > 0

    def test_r19_components_are_the_output_without_which_nothing_may_be_billed(self, world: World, job: Job) -> None:
        bare = job.changed(output_to=0, output_root=merkle.EMPTY_ROOT)
        assert Claimant(world).proves(Claimant(world).overbilling(bare)).kind == Kind.OVERBILLING

    def test_a_vector_too_few_is_a_miscount(self, world: World, job: Job) -> None:
        claimant, short = Claimant(world), job.changed(output_to=SIZE)
        leaves = merkle.output_leaves(0, job.output_ids, job.output_q)
        call = claimant.miscount(short, TokenTree.OUTPUT, len(job.output_ids), merkle.top_of(leaves))
        assert claimant.proves(call).kind == Kind.MISCOUNT

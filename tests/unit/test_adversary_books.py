"""A node with a lie in its books is honest in everything else, and what it signs proves the lie."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.adversaries import cheating_books as books
from tests.adversaries.cheating_payer import UnpayingWallet
from tests.fakes_node import Customer, World, open_world

from retally.errors import NodeUnavailable
from retally.protocol.case import AnswerRequest
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Bytes32, keccak
from retally.protocol.merkle import ids_root, output_root
from retally.protocol.wire import SignedAnswerRequest
from retally_node.admission import AdmittedJob
from retally_node.records import ReceiptRecord
from retally_node.segment import Frame

NODE = SigningKey(keccak(b"node")).address
JOBS = 4


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    found = await open_world(tmp_path)
    yield found
    await found.close()


async def serve(world: World, customer: Customer) -> tuple[AdmittedJob, Frame]:
    """One job on a node as it is, and the frame that closed it."""
    job = await world.node.admission.admit(await customer.submission(world.node, cumulative=10**6))
    assert isinstance(job, AdmittedJob)
    running = world.node.server.start(job)
    [last] = [frame async for frame in running.frames() if frame.last]
    await running.closed()
    return job, last


def kept(world: World, job: AdmittedJob) -> list[ReceiptRecord]:
    return world.node.ledger.jobs.receipts(job.record.job_id)


async def test_inflated_counts_are_above_the_tree_and_billed(world: World) -> None:
    world.node = books.inflated_counts(world.node)
    job, last = await serve(world, Customer())
    [record] = kept(world, job)
    assert last.receipt is not None
    assert record.digest == last.receipt.digest
    assert record.receipt.prompt_tokens == len(job.record.prompt_ids) + books.EXTRA
    assert record.receipt.prompt_root == ids_root(job.record.prompt_ids)
    prices = job.offer.prices
    billed = record.receipt.prompt_tokens * prices.price_in + record.receipt.output_tokens * prices.price_out
    assert record.receipt.fee == billed // 1_000_000


async def test_a_swapped_receipt_is_kept_and_the_true_one_given(world: World) -> None:
    world.node = books.swapped_receipts(world.node)
    job, last = await serve(world, Customer())
    [record] = kept(world, job)
    given = last.receipt
    assert given is not None
    assert given.receipt.output_root == output_root(0, given.output_ids, given.quantised)
    assert record.receipt == replace(given.receipt, output_root=output_root(0, record.output_ids, record.quantised))
    assert record.output_ids != given.output_ids


async def test_a_phantom_choice_bills_the_same_output_again_behind_the_true_receipt(world: World) -> None:
    world.node = books.phantom_choice(world.node)
    job, _ = await serve(world, Customer())
    true, phantom = kept(world, job)
    assert (true.receipt.choice, phantom.receipt.choice) == (0, 1)
    assert phantom.receipt.cum_from == true.receipt.cum_to
    assert phantom.receipt.output_root == true.receipt.output_root


async def test_a_padded_prompt_is_billed_as_it_is_served(world: World) -> None:
    honest = world.node
    world.node = books.padded_prompt(honest)
    job, _ = await serve(world, Customer())
    [record] = kept(world, job)
    true = honest.admission._forms.render(job.record.prompt, job.record.params.template_date)
    assert len(job.record.prompt_ids) == len(true) + books.EXTRA
    assert record.receipt.prompt_root == ids_root(job.record.prompt_ids)


async def test_omitted_receipts_are_paid_and_lie_under_no_root(world: World) -> None:
    world.node = books.omitted_receipts(world.node)
    customer = Customer()
    jobs = [(await serve(world, customer))[0] for _ in range(JOBS)]
    outcome = await world.node.settlement.settle_now()
    assert outcome.paid == sum(kept(world, job)[0].receipt.fee for job in jobs)
    [commit] = world.node.ledger.commits.commits()
    assert len(world.node.ledger.commits.leaves(commit.record.receipts_root)) == JOBS // 2


async def test_a_silent_node_serves_and_collects_and_answers_nobody(world: World) -> None:
    world.node = books.silent(world.node)
    customer = Customer()
    await serve(world, customer)
    await world.node.settlement.settle_now()
    verifier = SigningKey(keccak(b"verifier"))
    request = AnswerRequest(1, Bytes32(customer.channel.key), 0, verifier.address, 2**39)
    signed = SignedAnswerRequest(request, verifier.sign(request.digest(world.node.domain)))
    with pytest.raises(NodeUnavailable):
        await world.node.auditor.answer(signed)


def test_an_unpaying_wallet_prepays_and_promises_nothing_more(tmp_path: Path, world: World) -> None:
    wallet = UnpayingWallet(SigningKey(keccak(b"payer")), world.node.domain, tmp_path / "wallet")
    job_id = Bytes32(keccak(b"job"))
    first = wallet.begin(NODE, job_id, prepaid=[10], most=[500], deadline=2**39)
    assert first.voucher.cumulative == 10
    assert wallet.owe(NODE, job_id, 0, 200) is None
    assert wallet.promise(NODE, 200) is None
    wallet.close()

"""Admission: each check has its own refusal, and a refusal costs nothing (R-9, R-11, R-19 to R-22, R-30)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes_node import NODE_KEY, START, Customer, World, open_world

from retally.errors import RetallyError
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import ZERO_ADDRESS, keccak
from retally.protocol.job import JobParams
from retally.protocol.offer import Offer
from retally.protocol.voucher import Reservation
from retally.protocol.wire import JobSubmission
from retally_node.admission import AdmittedJob

STRANGER = SigningKey(keccak(b"stranger"))
DAY = 86_400


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await open_world(tmp_path)


@dataclass(frozen=True)
class Bench:
    """What a case may bend."""

    world: World
    customer: Customer
    offer: Offer

    def again(self, submission: JobSubmission, **request: Any) -> JobSubmission:
        return self.customer.resign(submission, self.offer, **request)

    def assigned(self, submission: JobSubmission, prefix: tuple[int, ...] = (), **changes: Any) -> JobSubmission:
        return replace(
            submission, assignments=(self.customer.assign(submission.request, self.offer, prefix, **changes),)
        )

    def vouched(self, submission: JobSubmission, cumulative: int, **changes: Any) -> JobSubmission:
        voucher, signature = self.customer.voucher(cumulative, **changes)
        return replace(submission, voucher=voucher, voucher_signature=signature)

    def standing(self, submission: JobSubmission, **changes: Any) -> JobSubmission:
        self.world.payers.standing_now = replace(self.world.payers.standing_now, **changes)
        return submission


Bend = Callable[[Bench, JobSubmission], JobSubmission]


def foreign_request(bench: Bench, submission: JobSubmission) -> JobSubmission:
    return replace(submission, request_signature=STRANGER.sign(submission.request.digest(bench.customer.domain)))


def wrong_chain(bench: Bench, submission: JobSubmission) -> JobSubmission:
    other = replace(bench.customer.domain, chain_id=1)
    return replace(submission, request_signature=bench.customer.key.sign(submission.request.digest(other)))


def foreign_assignment(bench: Bench, submission: JobSubmission) -> JobSubmission:
    item = submission.assignments[0]
    forged = replace(item, signature=STRANGER.sign(item.assignment.digest(bench.customer.domain)))
    return replace(submission, assignments=(forged,))


def foreign_voucher(bench: Bench, submission: JobSubmission) -> JobSubmission:
    return replace(submission, voucher_signature=STRANGER.sign(submission.voucher.digest(bench.customer.domain)))


def foreign_reservation(bench: Bench, submission: JobSubmission) -> JobSubmission:
    reservation = Reservation(submission.request.payer, ZERO_ADDRESS, NODE_KEY.address, 5, 0)
    signature = bench.customer.key.sign(reservation.digest(bench.customer.domain))
    return replace(submission, reservation=reservation, reservation_signature=signature)


def late(bench: Bench, submission: JobSubmission) -> JobSubmission:
    bench.world.clock.time += 3601
    return submission


def stale_offer(bench: Bench, submission: JobSubmission) -> JobSubmission:
    bench.world.clock.time += 2 * DAY
    return bench.again(submission, deadline=START + 3 * DAY)


def full(bench: Bench, submission: JobSubmission) -> JobSubmission:
    bench.world.node.server.room.enter(64 + 256)
    return submission


def long_prompt(bench: Bench, submission: JobSubmission) -> JobSubmission:
    return bent_prompt(bench, submission, "x" * 300)


def empty_prompt(bench: Bench, submission: JobSubmission) -> JobSubmission:
    return bent_prompt(bench, submission, None)


def bulky_prompt(bench: Bench, submission: JobSubmission) -> JobSubmission:
    # A field that the template does not show: few tokens, many bytes.
    message = {"role": "user", "content": "x", "name": "y" * 115_000}
    return rehashed(bench, submission, {"messages": [message]}, submission.params)


def bent_prompt(bench: Bench, submission: JobSubmission, text: str | None) -> JobSubmission:
    return rehashed(bench, submission, {"prompt": text or ""}, replace(submission.params, endpoint="text"))


def rehashed(bench: Bench, submission: JobSubmission, prompt: dict[str, Any], params: JobParams) -> JobSubmission:
    request = bench.customer.request(prompt, params)
    signature = bench.customer.key.sign(request.digest(bench.customer.domain))
    bent = replace(submission, request=request, request_signature=signature, prompt=prompt, params=params)
    return bench.assigned(bent)


def bent_params(**changes: Any) -> Bend:
    def bend(bench: Bench, submission: JobSubmission) -> JobSubmission:
        params = replace(submission.params, **changes)
        request = bench.customer.request(submission.prompt, params)
        signature = bench.customer.key.sign(request.digest(bench.customer.domain))
        return bench.assigned(replace(submission, request=request, request_signature=signature, params=params))

    return bend


def dead_rpc(bench: Bench, submission: JobSubmission) -> JobSubmission:
    bench.world.payers.is_reachable = False
    return submission


REFUSALS: dict[str, tuple[Bend, int, str]] = {
    "signed by a stranger": (foreign_request, 401, "invalid_signature"),
    "signed for another chain": (wrong_chain, 401, "invalid_signature"),
    "deadline passed": (late, 400, "deadline_passed"),
    "another model": (lambda b, s: b.again(s, model_id=keccak(b"other")), 404, "model_not_found"),
    "another profile": (lambda b, s: b.again(s, profile_id=keccak(b"other")), 400, "profile_not_served"),
    "another prompt": (lambda b, s: replace(s, prompt={"prompt": "x"}), 400, "prompt_mismatch"),
    "other params": (lambda b, s: replace(s, params=replace(s.params, top_k=3)), 400, "params_mismatch"),
    "more output than signed": (lambda b, s: b.again(s, max_output=23), 400, "bad_request"),
    "bias beyond the vocabulary": (bent_params(logit_bias=((10**6, 1),)), 400, "unsupported_parameter"),
    "streamed scoring": (
        lambda b, s: replace(bent_params(prompt_logprobs=1)(b, s), stream=True),
        400,
        "unsupported_parameter",
    ),
    "prompt too long": (long_prompt, 400, "context_length_exceeded"),
    "prompt too large to post on chain": (bulky_prompt, 413, "payload_too_large"),
    "prompt empty": (empty_prompt, 400, "bad_request"),
    "unknown offer": (lambda b, s: b.assigned(s, offer_hash=keccak(b"none")), 400, "offer_unknown"),
    "offer expired": (stale_offer, 400, "offer_expired"),
    "price above the limit": (lambda b, s: b.again(s, max_price_out=5_999_999), 400, "price_above_max"),
    "assignment of another job": (lambda b, s: b.assigned(s, job_id=keccak(b"x")), 400, "assignment_mismatch"),
    "assignment to another node": (lambda b, s: b.assigned(s, node=STRANGER.address), 400, "assignment_mismatch"),
    "assignment signed by a stranger": (foreign_assignment, 401, "invalid_signature"),
    "choice beyond n": (lambda b, s: b.assigned(s, choice=1, segment=1), 400, "bad_request"),
    "first segments apart": (lambda b, s: b.assigned(b.again(s, n=2)), 400, "bad_request"),
    "prefix not the assigned": (lambda b, s: b.assigned(s, (5, 6), prefix_root=keccak(b"x")), 400, "prefix_mismatch"),
    "nothing left to continue": (lambda b, s: b.assigned(s, tuple(range(2, 26))), 400, "bad_request"),
    "max fee too low": (lambda b, s: b.again(s, max_fee=100), 400, "max_fee_too_low"),
    "remaining fee too low": (lambda b, s: b.assigned(s, remaining_fee=100), 400, "max_fee_too_low"),
    "voucher of another lane": (lambda b, s: b.vouched(s, 10**8, lane=8), 400, "voucher_mismatch"),
    "voucher to another node": (lambda b, s: b.vouched(s, 10**8, node=STRANGER.address), 400, "voucher_mismatch"),
    "voucher signed by a stranger": (foreign_voucher, 401, "invalid_signature"),
    "voucher below the input fee": (lambda b, s: b.vouched(s, 1), 402, "voucher_too_low"),
    "reservation not by the payer": (foreign_reservation, 401, "invalid_signature"),
    "signer expires in two days": (lambda b, s: b.standing(s, expiry=START + 2 * DAY), 401, "signer_expired"),
    "signer never authorised": (lambda b, s: b.standing(s, expiry=0, cap_left=0), 401, "signer_expired"),
    "signer's cap spent": (lambda b, s: b.standing(s, cap_left=10), 402, "cap_exceeded"),
    "payer without funds": (lambda b, s: b.standing(s, balance=10), 402, "insufficient_funds"),
    "payer's funds thaw": (lambda b, s: b.standing(s, thawing=10**12), 402, "insufficient_funds"),
    "chain out of reach": (dead_rpc, 503, "chain_unreachable"),
    "node full": (full, 429, "rate_limited"),
}


class TestRefusals:
    @pytest.mark.parametrize("case", REFUSALS)
    async def test_refuses_and_forgets(self, world: World, case: str) -> None:
        bend, status, code = REFUSALS[case]
        customer = Customer()
        bench = Bench(world, customer, (await world.node.offers.current()).offer)
        submission = await customer.submission(world.node)
        with pytest.raises(RetallyError) as caught:
            await world.node.admission.admit(bend(bench, submission))
        assert (caught.value.status, caught.value.code) == (status, code)
        assert world.node.channel_state(customer.channel).open == 0
        assert world.node.ledger.jobs.open_segments() == []
        await world.close()

    async def test_refusal_for_money_names_what_is_required_and_may_be_repeated(self, world: World) -> None:
        customer = Customer()
        submission = await customer.submission(world.node, cumulative=1)
        with pytest.raises(RetallyError) as caught:
            await world.node.admission.admit(submission)
        required = int(caught.value.details["required"])
        voucher, signature = customer.voucher(required)
        admitted = await world.node.admission.admit(replace(submission, voucher=voucher, voucher_signature=signature))
        assert isinstance(admitted, AdmittedJob)
        assert admitted.segments[0].prepaid == required
        await world.close()


class TestCredit:
    async def test_one_payer_gets_its_credit_and_no_more(self, tmp_path: Path) -> None:
        world = await open_world(tmp_path, credit_per_payer=300)
        customer = Customer()
        assert isinstance(await world.node.admission.admit(await customer.submission(world.node)), AdmittedJob)
        with pytest.raises(RetallyError) as caught:
            await world.node.admission.admit(await customer.submission(world.node))
        assert caught.value.code == "insufficient_funds"
        other = Customer(payer=STRANGER.address)
        assert isinstance(await world.node.admission.admit(await other.submission(world.node)), AdmittedJob)
        await world.close()

    async def test_all_payers_together_get_the_total(self, tmp_path: Path) -> None:
        world = await open_world(tmp_path, credit_per_payer=300, credit_total=300)
        await world.node.admission.admit(await Customer().submission(world.node))
        with pytest.raises(RetallyError) as caught:
            await world.node.admission.admit(await Customer(payer=STRANGER.address).submission(world.node))
        assert caught.value.code == "insufficient_funds"
        await world.close()

    async def test_a_reservation_lifts_the_limit(self, tmp_path: Path) -> None:
        world = await open_world(tmp_path, credit_per_payer=0)
        customer = Customer()
        with pytest.raises(RetallyError):
            await world.node.admission.admit(await customer.submission(world.node))
        world.payers.standing_now = replace(world.payers.standing_now, reserved=10**6)
        admitted = await world.node.admission.admit(await customer.submission(world.node))
        assert isinstance(admitted, AdmittedJob)
        assert admitted.secured
        await world.close()


class TestDuplicates:
    async def test_running_job_again_is_a_conflict(self, world: World) -> None:
        submission = await Customer().submission(world.node)
        await world.node.admission.admit(submission)
        with pytest.raises(RetallyError) as caught:
            await world.node.admission.admit(submission)
        assert (caught.value.status, caught.value.code) == (409, "duplicate_job")
        await world.close()

    async def test_unpaid_channel_is_refused_until_paid(self, world: World) -> None:
        customer = Customer()
        admitted = await world.node.admission.admit(await customer.submission(world.node, cumulative=60))
        assert isinstance(admitted, AdmittedJob)
        await world.node.server.start(admitted).closed()
        state = world.node.channel_state(customer.channel)
        assert state.unpaid == state.last_cum_to - 60 > 0
        with pytest.raises(RetallyError) as caught:
            await world.node.admission.admit(await customer.submission(world.node, cumulative=61))
        assert caught.value.code == "voucher_too_low"
        paid = await world.node.admission.admit(await customer.submission(world.node, cumulative=state.due + 10**4))
        assert isinstance(paid, AdmittedJob)
        await world.close()

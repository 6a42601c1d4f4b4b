"""What a node's own signatures prove, found among what a payer holds and what it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes_held_job import DEPLOYMENT, NODE, PROMPT, HeldJob, held_job

from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak
from retally.protocol.receipt import FinishReason, JobReceipt, ReceiptLeaf
from retally.receipt_faults import Fault, Shown, find_faults

DOMAIN = DEPLOYMENT.domain


@pytest.fixture
async def job(tmp_path: Path) -> HeldJob:
    made = await held_job(tmp_path)
    evidence = replace(made.evidence, prompt=PROMPT, renderer=made.chat_format.render)
    return replace(made, evidence=evidence)


def signed(receipt: JobReceipt, key: SigningKey = NODE) -> ReceiptLeaf:
    return ReceiptLeaf(receipt, key.sign(receipt.digest(DOMAIN)))


def found(job: HeldJob, shown: Sequence[ReceiptLeaf] = (), **changes: Any) -> list[Fault]:
    """What is found of the job's one receipt with these changes, signed by the node."""
    evidence = replace(job.evidence, receipts=[signed(replace(receipt_of(job), **changes))])
    return find_faults(evidence, Shown(shown), DOMAIN)


def receipt_of(job: HeldJob) -> JobReceipt:
    return job.evidence.receipts[0].receipt


class TestFindFaults:
    async def test_an_honest_receipt_has_none(self, job: HeldJob) -> None:
        assert found(job, job.evidence.receipts) == []

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"seed": keccak(b"another")}, "seed"),
            ({"params_hash": keccak(b"another")}, "params"),
            ({"model_id": keccak(b"another")}, "model asked, model offered"),
            ({"profile_id": keccak(b"another")}, "profile offered"),
        ],
    )
    async def test_a_receipt_of_another_job_deviates(self, job: HeldJob, change: dict[str, Any], says: str) -> None:
        [fault] = found(job, **change)
        assert (fault.name, fault.says) == ("deviation", f"{says}: not as in the request or the offer")

    async def test_a_choice_that_nobody_asked_for_deviates(self, job: HeldJob) -> None:
        assert "choice 1 of 1" in found(job, choice=1)[0].says

    async def test_more_than_the_price_is_overbilling(self, job: HeldJob) -> None:
        [fault] = found(job, cum_to=receipt_of(job).cum_to + 1)
        assert fault.name == "overbilling"

    async def test_length_with_room_left_is_early(self, job: HeldJob) -> None:
        receipt = receipt_of(job)
        names = [fault.name for fault in found(job, output_to=receipt.output_to - 1, cum_to=0)]
        assert names == ["early_length"]
        assert found(job, output_to=receipt.output_to - 1, cum_to=0, finish_reason=FinishReason.STOP) == []

    async def test_tokens_that_the_prompts_tree_does_not_hold_are_a_miscount(self, job: HeldJob) -> None:
        more = receipt_of(job).prompt_tokens + 8
        assert [fault.name for fault in found(job, prompt_tokens=more, cum_to=0)] == ["miscount"]
        # Another root is no miscount: what it holds, nobody can tell.
        assert found(job, prompt_tokens=more, prompt_root=keccak(b"another"), cum_to=0) == []

    async def test_another_receipt_for_the_same_tokens_conflicts(self, job: HeldJob) -> None:
        other = replace(receipt_of(job), output_root=keccak(b"another"))
        [fault] = found(job, [signed(other)])
        assert fault.name == "conflict"
        # One that another key signed proves nothing, nor does one of another choice.
        assert found(job, [signed(other, SigningKey(keccak(b"nobody")))]) == []
        assert found(job, [signed(replace(other, choice=1))]) == []

    async def test_what_the_node_did_not_sign_is_passed_over(self, job: HeldJob) -> None:
        forged = signed(replace(receipt_of(job), seed=keccak(b"another")), SigningKey(keccak(b"nobody")))
        assert find_faults(replace(job.evidence, receipts=[forged]), Shown(), DOMAIN) == []

    async def test_without_request_and_offer_only_pairs_are_compared(self, job: HeldJob) -> None:
        bare = replace(job.evidence, request=None, offer=None, renderer=None)
        bare.receipts = [signed(replace(receipt_of(job), seed=keccak(b"another")))]
        assert find_faults(bare, Shown(), DOMAIN) == []

    async def test_more_cached_than_there_is_hides_no_other_fault(self, job: HeldJob) -> None:
        receipt = receipt_of(job)
        faults = found(job, cached_tokens=receipt.prompt_tokens + 1, seed=keccak(b"another"))
        assert "deviation" in [fault.name for fault in faults]

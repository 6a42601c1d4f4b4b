"""Answers to audit points: what is one, what proves a deviation, and the files of cases made of them (R-33)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from retally.errors import BadRequest, InvalidReceipt, InvalidSignature, RetallyError
from retally.protocol import merkle
from retally.protocol.answer import AnswerContext, check_answer, find_deviation, find_foreign_request
from retally.protocol.audit_points import drawn_points
from retally.protocol.case import CommitRecord, Range, pack_ranges
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import ZERO_BYTES32, keccak
from retally.protocol.evidence import JOB_CLIP, JobEvidence
from retally.protocol.evidence_file import EvidenceFile, EvidencePoint, period_start, shown_points
from retally.protocol.job import JobRequest, job_seed, params_hash, prompt_hash
from retally.protocol.judgement import case_wealth, ids_to_score, judge_without_replay
from retally.protocol.offer import Offer
from retally.protocol.params import JobParams
from retally.protocol.pricing import fee_round_down
from retally.protocol.receipt import FinishReason, JobReceipt, ReceiptLeaf
from retally.protocol.wire import AnswerBundle

PAYER, NODE, OWNER = (SigningKey(keccak(name)) for name in (b"payer", b"node", b"owner"))
DOMAIN = Domain(31337, OWNER.address)
MODEL, PROFILE, SEED, NONCE = (keccak(name) for name in (b"model", b"profile", b"seed", b"nonce"))
PROMPT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
PROMPT_IDS, OUTPUT_IDS, EOS = tuple(range(40)), (*range(100, 150), 1), (1,)
STEP = 100


def render(prompt: Mapping[str, Any], template_date: str) -> Sequence[int]:
    """The pinned template of these tests."""
    assert template_date == "2026-01-01"
    return PROMPT_IDS if prompt == PROMPT else (9,)


def make_request(**changes: Any) -> tuple[JobRequest, JobParams]:
    params = JobParams(max_tokens=64, template_date="2026-01-01")
    request = JobRequest(
        payer=PAYER.address,
        signer=PAYER.address,
        model_id=MODEL,
        profile_id=ZERO_BYTES32,
        n=1,
        max_price_in=10**7,
        max_price_cached=10**7,
        max_price_out=10**7,
        prompt_hash=prompt_hash(NONCE, PROMPT),
        params_hash=params_hash(params),
        max_output=64,
        max_fee=10**6,
        client_seed=keccak(b"client"),
        audit_consent=True,
        nonce=NONCE,
        deadline=10**9,
    )
    return replace(request, **changes), params


def make_bundle(request_changes: Mapping[str, Any] | None = None, **changes: Any) -> AnswerBundle:
    """An honest answer, then changed and signed again by the node."""
    request, params = make_request(**(request_changes or {}))
    offer = Offer(NODE.address, MODEL, PROFILE, 2_000_000, 1_000_000, 6_000_000, 1024, 10**9)
    qs = tuple(5 for _ in OUTPUT_IDS)
    counts = {"prompt_tokens": len(PROMPT_IDS), "cached_tokens": 0, "output_tokens": len(OUTPUT_IDS)}
    receipt = JobReceipt(
        job_id=request.digest(DOMAIN),
        choice=0,
        payer=PAYER.address,
        signer=PAYER.address,
        node=NODE.address,
        lane=0,
        cum_from=0,
        cum_to=fee_round_down(offer.prices, choice=0, output_from=0, **counts),
        model_id=MODEL,
        profile_id=PROFILE,
        offer_hash=offer.digest(DOMAIN),
        prompt_root=merkle.ids_root(PROMPT_IDS),
        prompt_tokens=len(PROMPT_IDS),
        cached_tokens=0,
        prefix_root=merkle.EMPTY_ROOT,
        output_from=0,
        output_to=len(OUTPUT_IDS),
        output_root=merkle.output_root(0, OUTPUT_IDS, qs),
        params_hash=params_hash(params),
        seed=job_seed(request.client_seed, 0),
        finish_reason=FinishReason.STOP,
        started_at=1,
        finished_at=2,
    )
    receipt = replace(receipt, **changes)
    return AnswerBundle(
        receipt=receipt,
        signature=NODE.sign(receipt.digest(DOMAIN)),
        index=0,
        leaf_count=1,
        proof=(),
        request=request,
        request_signature=PAYER.sign(request.digest(DOMAIN)),
        prompt=PROMPT,
        params=params,
        prompt_ids=PROMPT_IDS,
        prefix_ids=(),
        output_ids=OUTPUT_IDS,
        output_q=qs,
        offer=offer,
        offer_signature=NODE.sign(offer.digest(DOMAIN)),
    )


def make_commit(bundle: AnswerBundle) -> tuple[CommitRecord, Range]:
    receipt = bundle.receipt
    item = Range(receipt.payer, receipt.signer, receipt.lane, receipt.cum_from, receipt.cum_to)
    root = merkle.receipts_root([ReceiptLeaf(receipt, bundle.signature)], DOMAIN)
    packed = keccak(pack_ranges([item]))
    return CommitRecord(1, NODE.address, OWNER.address, root, packed, STEP, 300_000, 5, 1000), item


def context_of(bundle: AnswerBundle) -> AnswerContext:
    commit, item = make_commit(bundle)
    return AnswerContext(DOMAIN, commit, item, drawn_points(SEED, [item], NODE.address, STEP)[0])


class TestCheckAnswer:
    def test_accepts_an_honest_answer(self) -> None:
        bundle = make_bundle()
        check_answer(context_of(bundle), bundle)
        assert AnswerBundle.from_wire(bundle.to_wire()) == bundle

    def test_shows_no_content_of_what_forbids_audit(self) -> None:
        bundle = make_bundle({"audit_consent": False})
        bare = replace(bundle, prompt={}, prompt_ids=(), output_ids=(), output_q=())
        check_answer(context_of(bundle), bare)
        judged = judge_without_replay(bare, render, EOS)
        assert judged is not None
        assert (judged.evidence.log_e, judged.deviation) == (0.0, None)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda b: replace(b, output_ids=(7, *b.output_ids[1:])),
            lambda b: replace(b, output_q=(7, *b.output_q[1:])),
            lambda b: replace(b, output_q=(1 << 16, *b.output_q[1:])),
            lambda b: replace(b, output_ids=b.output_ids[:-1], output_q=b.output_q[:-1]),
            lambda b: replace(b, prompt_ids=(*b.prompt_ids, 5)),
            lambda b: replace(b, prefix_ids=(5,)),
            lambda b: replace(b, prompt={"prompt": "other"}),
            lambda b: replace(b, params=replace(b.params, max_tokens=63)),
            lambda b: replace(b, offer=replace(b.offer, price_in=1)),
            lambda b: replace(b, request=replace(b.request, n=2)),
            lambda b: replace(b, proof=(bytes(32),)),
            lambda b: replace(b, leaf_count=2),
            lambda b: replace(b, receipt=replace(b.receipt, cum_from=50, cum_to=51)),
            lambda b: replace(b, receipt=replace(b.receipt, lane=1)),
            lambda b: replace(b, receipt=replace(b.receipt, node=OWNER.address)),
        ],
    )
    def test_refuses_what_does_not_stand_under_the_root(self, spoil: Callable[[AnswerBundle], AnswerBundle]) -> None:
        bundle = make_bundle()
        with pytest.raises(RetallyError) as caught:
            check_answer(context_of(bundle), spoil(bundle))
        assert isinstance(caught.value, InvalidReceipt | InvalidSignature)

    @pytest.mark.parametrize("field", ["signature", "request_signature", "offer_signature"])
    def test_refuses_signatures_of_others(self, field: str) -> None:
        bundle = make_bundle()
        with pytest.raises(InvalidSignature):
            check_answer(context_of(bundle), replace(bundle, **{field: OWNER.sign(keccak(b"x"))}))


class TestFindDeviation:
    def test_finds_none_in_an_honest_answer(self) -> None:
        assert find_deviation(make_bundle(), render, EOS) is None
        assert judge_without_replay(make_bundle(), render, EOS) is None

    def test_a_prompt_that_cannot_be_rendered_proves_nothing_and_breaks_nothing(self) -> None:
        def refuse(prompt: Mapping[str, Any], template_date: str) -> list[int]:
            raise BadRequest("no prompt")

        judged = judge_without_replay(make_bundle(), refuse, EOS)
        assert judged is not None
        assert (judged.evidence.log_e, judged.evidence.calibrated, judged.deviation) == (0.0, False, None)
        assert ids_to_score(make_bundle()) == ([*PROMPT_IDS, *OUTPUT_IDS], len(PROMPT_IDS))

    @pytest.mark.parametrize("consent", [True, False])
    def test_a_foreign_request_is_a_mismatch_before_anything_is_rendered(self, consent: bool) -> None:
        def refuse(prompt: Mapping[str, Any], template_date: str) -> list[int]:
            raise BadRequest("no prompt")

        bundle = make_bundle({"payer": OWNER.address, "audit_consent": consent})
        foreign = find_foreign_request(bundle)
        assert foreign is not None
        assert foreign.rule == "payer"
        judged = judge_without_replay(bundle, refuse, EOS)
        assert judged is not None
        assert (judged.evidence.log_e, judged.evidence.calibrated) == (JOB_CLIP, True)

    @pytest.mark.parametrize(
        ("changes", "rule"),
        [
            ({"prompt_root": merkle.ids_root((9, *PROMPT_IDS))}, "prompt"),
            ({"payer": OWNER.address}, "payer"),
            ({"model_id": PROFILE}, "model"),
            ({"params_hash": PROFILE}, "params"),
            ({"seed": PROFILE}, "seed"),
            ({"cum_to": 10_000}, "fee"),
            ({"finish_reason": FinishReason.LENGTH}, "length"),
            ({"output_to": 65}, "max output"),
            ({"cached_tokens": 41}, "cached tokens"),
        ],
    )
    def test_names_the_rule_that_a_receipt_breaks(self, changes: dict[str, Any], rule: str) -> None:
        found = find_deviation(make_bundle(**changes), render, EOS)
        assert found is not None
        assert found.rule == rule
        judged = judge_without_replay(make_bundle(**changes), render, EOS)
        assert judged is not None
        assert judged.evidence.log_e == JOB_CLIP

    @pytest.mark.parametrize(
        ("request_changes", "rule"),
        [({"profile_id": MODEL}, "profile"), ({"max_price_out": 5}, "max price"), ({"max_fee": 5}, "max fee")],
    )
    def test_holds_the_receipt_to_its_request(self, request_changes: dict[str, Any], rule: str) -> None:
        found = find_deviation(make_bundle(request_changes), render, EOS)
        assert found is not None
        assert found.rule == rule

    def test_an_answer_that_stops_without_an_end_is_cut(self) -> None:
        found = find_deviation(make_bundle(), render, (2,))
        assert found is not None
        assert found.rule == "stop"


class TestEvidenceFile:
    def make(self) -> EvidenceFile:
        bundle = make_bundle()
        commit, item = make_commit(bundle)
        point = drawn_points(SEED, [item], NODE.address, STEP)[0]
        entry = EvidencePoint(commit, pack_ranges([item]), 0, point.k, bundle)
        return EvidenceFile(31337, OWNER.address, (entry,))

    def test_survives_the_round_trip(self) -> None:
        file = self.make()
        again = EvidenceFile.from_bytes(file.to_bytes())
        assert again == file
        assert again.hash == keccak(file.to_bytes())

    def test_points_are_recomputed_not_believed(self) -> None:
        (entry,) = self.make().points
        check_answer(entry.context(DOMAIN, SEED), entry.answer)
        for wrong in (replace(entry, k=entry.k + 50), replace(entry, range_index=1), replace(entry, packed_ranges=b"")):
            with pytest.raises(InvalidReceipt):
                wrong.context(DOMAIN, SEED)

    def test_says_what_the_case_shows(self) -> None:
        (shown,) = self.make().shown(DOMAIN)
        receipt = make_bundle().receipt
        assert (shown.payer, shown.fee, shown.receipt_digest) == (receipt.payer, receipt.fee, receipt.digest(DOMAIN))

    def test_counts_every_point_that_a_receipt_covers(self) -> None:
        file = self.make()
        _, item = make_commit(make_bundle())
        drawn = [(1, point) for point in drawn_points(SEED, [item], NODE.address, STEP)]
        covered = list(shown_points(file, drawn, DOMAIN).values())
        assert len(covered[0]) == len(drawn) > 1
        jobs = [JobEvidence(PAYER.address, JOB_CLIP)]
        assert case_wealth(jobs, len(drawn), covered) > case_wealth(jobs, len(drawn) + 30, covered)

    @pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"version":1,"chainId":1,"owner":"0x","points":[]}'])
    def test_refuses_other_files(self, data: bytes) -> None:
        with pytest.raises(BadRequest):
            EvidenceFile.from_bytes(data)

    def test_periods_start_with_the_epoch_before(self) -> None:
        epoch = 28 * 86_400
        assert period_start(5 * epoch + 3) == 4 * epoch
        assert period_start(3) == 0

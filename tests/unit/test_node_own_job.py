"""A juror weighs a payer's own job: one receipt by itself, drawn or not (R-67)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import FakeEngine
from tests.fakes_node import MODEL_ID, NODE_KEY, OWNER, PROFILE_ID, START, Customer, World, open_world

from retally.inference.engine import EngineSampling
from retally.protocol.calibration import Calibration, MarginTable
from retally.protocol.case import VerdictKind, pack_ranges
from retally.protocol.encoding import Bytes32
from retally.protocol.evidence import JOB_CLIP, NAT
from retally.protocol.evidence_file import EvidenceFile, EvidencePoint
from retally.protocol.merkle import ids_root, leaf, prove, receipts_root
from retally.protocol.receipt import ReceiptLeaf
from retally_node.admission import AdmittedJob
from retally_node.answer_audit import answer_of
from retally_node.weigh_case import CaseFacts, CaseScale, Opinion, OwnReplayer

CLIPPED = round(JOB_CLIP * NAT)
WIDE = {"temperature": (1, 2_000_000), "promptTokens": (1, 4096), "outputTokens": (1, 4096)}
TABLE = MarginTable(
    edges=(1, 100_000, 1_000_000), honest=(10**9, 10**6, 10**5, 10**4), cheat=(5 * 10**8, 10**8, 2 * 10**8, 2 * 10**8)
)
PAIR = (Bytes32(MODEL_ID), Bytes32(PROFILE_ID))
CALIBRATION = Calibration(*PAIR, Bytes32(PROFILE_ID), {"seeded": TABLE}, WIDE)


class Colder(FakeEngine):
    """Samples at half the temperature that was signed."""

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling):  # type: ignore[no-untyped-def]  # as inherited
        params = replace(sampling.params, temperature=sampling.params.temperature // 2)
        return super().generate(prompt_ids, replace(sampling, params=params))


@dataclass
class OwnJobCase:
    """A node with one collected job, and the case that its payer brings."""

    world: World
    point: EvidencePoint

    async def opinion(self, point: EvidencePoint | None = None, exact: Collection[bytes] = (), **facts: Any) -> Opinion:
        node = self.world.node
        file = EvidenceFile(31337, OWNER, (point or self.point,))
        case = CaseFacts(1, OWNER, START + 10, file.hash, "", file.shown(node.domain), PAIR, own_job=True)
        chat_format, honest = node.chat_format, FakeEngine(node.chat_format.vocab_size)
        own = OwnReplayer(honest, chat_format.render, chat_format.eos_ids, *PAIR, chat_format.grammars, exact)
        found = await CaseScale(self.world.cases, own, node.domain).weigh(replace(case, **facts), file)
        await self.world.close()
        return found

    def signed_again(self, **receipt: Any) -> EvidencePoint:
        """The same job as its node might have signed and committed it otherwise."""
        domain, answer = self.world.node.domain, self.point.answer
        changed = replace(answer.receipt, **receipt)
        signed = ReceiptLeaf(changed, NODE_KEY.sign(changed.digest(domain)))
        commit = replace(self.point.commit, receipts_root=receipts_root([signed], domain))
        proof = tuple(prove([leaf(signed.data(domain))], 0))
        shown = replace(answer, receipt=changed, signature=signed.signature, index=0, leaf_count=1, proof=proof)
        return replace(self.point, commit=commit, answer=shown)


async def own_job(folder: Path, engine: type[FakeEngine] = FakeEngine, **request: Any) -> OwnJobCase:
    """A job served and collected; nobody drew it, nobody fixed its commit's seed."""
    world = await open_world(folder, make_engine=engine)
    customer = Customer()
    params = customer.params(max_tokens=64, min_tokens=64)
    submission = await customer.submission(world.node, cumulative=10**6, params=params, **request)
    job = await world.node.admission.admit(submission)
    assert isinstance(job, AdmittedJob)
    await world.node.server.start(job).closed()
    await world.node.settlement.settle_now()
    (mined,) = world.node.ledger.commits.commits()
    (item,) = mined.ranges
    channel = customer.channel.key
    answer = await answer_of(world.node.ledger, world.node.domain, mined, channel, item.before)
    world.cases.known, world.cases.table = {mined.record.id}, CALIBRATION
    return OwnJobCase(world, EvidencePoint(mined.record, pack_ranges(mined.ranges), 0, 0, answer))


class TestWeigh:
    async def test_an_honest_job_matches(self, tmp_path: Path) -> None:
        opinion = await (await own_job(tmp_path)).opinion()
        assert opinion.verdict == VerdictKind.MATCH
        assert opinion.log_e < 0

    async def test_another_sampler_is_a_mismatch_at_the_clip(self, tmp_path: Path) -> None:
        opinion = await (await own_job(tmp_path, Colder)).opinion()
        assert opinion == Opinion(VerdictKind.MISMATCH, CLIPPED)

    async def test_strong_evidence_below_the_clip_is_inconclusive(self, tmp_path: Path) -> None:
        case = await own_job(tmp_path, Colder)
        # Alternatives that are hardly likelier than the honest null: e grows, but not to 18 nats.
        weak = MarginTable(TABLE.edges, (10**9, 10**5, 10**5, 10**5), (10**9 - 360_000, 120_000, 120_000, 120_000))
        case.world.cases.table = replace(CALIBRATION, tables={"seeded": weak})
        opinion = await case.opinion()
        assert opinion.verdict == VerdictKind.INCONCLUSIVE
        assert 0 < opinion.log_e < CLIPPED

    async def test_a_prompt_that_nobody_asked_is_a_mismatch_though_its_ids_are_the_nodes_secret(
        self, tmp_path: Path
    ) -> None:
        case = await own_job(tmp_path)
        counted = (9, *case.point.answer.prompt_ids)
        point = case.signed_again(prompt_root=ids_root(counted), prompt_tokens=len(counted))
        assert await case.opinion(point) == Opinion(VerdictKind.MISMATCH, CLIPPED)

    async def test_over_billing_is_a_mismatch(self, tmp_path: Path) -> None:
        case = await own_job(tmp_path)
        point = case.signed_again(cum_to=case.point.answer.receipt.cum_to + 1)
        assert await case.opinion(point) == Opinion(VerdictKind.MISMATCH, CLIPPED)

    @pytest.mark.parametrize("change", ["prompt ids", "output ids", "prompt", "commit", "owner", "calibration"])
    async def test_what_is_not_borne_out_is_inconclusive(self, tmp_path: Path, change: str) -> None:
        case = await own_job(tmp_path, Colder)
        point, facts = case.point, {}
        answer = point.answer
        if change == "prompt ids":
            point = replace(point, answer=replace(answer, prompt_ids=(9, *answer.prompt_ids[1:])))
        if change == "output ids":
            point = replace(point, answer=replace(answer, output_ids=(9, *answer.output_ids[1:])))
        if change == "prompt":
            point = replace(point, answer=replace(answer, prompt={"prompt": "another"}))
        if change == "commit":
            case.world.cases.known.clear()
        if change == "owner":
            facts = {"owner": Customer().payer}
        if change == "calibration":
            case.world.cases.table = None
        assert (await case.opinion(point, **facts)).verdict == VerdictKind.INCONCLUSIVE

    async def test_a_job_that_forbids_audit_is_inconclusive(self, tmp_path: Path) -> None:
        case = await own_job(tmp_path, Colder, audit_consent=False)
        assert (await case.opinion()).verdict == VerdictKind.INCONCLUSIVE

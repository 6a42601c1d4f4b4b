"""Cases as a juror or the accused finds them: a node's own drawn answers in an evidence file, and who judges it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from retally.inference.engine import EngineSampling
from retally.protocol.audit_points import drawn_points
from retally.protocol.calibration import Calibration, MarginTable
from retally.protocol.case import pack_ranges
from retally.protocol.encoding import Bytes32, keccak
from retally.protocol.evidence_file import EvidenceFile, EvidencePoint
from retally_node.admission import AdmittedJob
from retally_node.answer_audit import answer_of
from retally_node.weigh_case import CaseFacts, CaseScale, OwnReplayer
from tests.fakes import FakeEngine
from tests.fakes_node import MODEL_ID, OWNER, PROFILE_ID, START, Customer, World

SEED = keccak(b"seed")
PAIR = (Bytes32(MODEL_ID), Bytes32(PROFILE_ID))
URI = "https://verifier/evidence"
WIDE = {"temperature": (1, 2_000_000), "promptTokens": (1, 4096), "outputTokens": (1, 4096)}
TABLE = MarginTable(
    edges=(1, 100_000, 1_000_000), honest=(10**9, 10**6, 10**5, 10**4), cheat=(5 * 10**8, 10**8, 2 * 10**8, 2 * 10**8)
)
CALIBRATION = Calibration(Bytes32(MODEL_ID), Bytes32(PROFILE_ID), Bytes32(PROFILE_ID), {"seeded": TABLE}, WIDE)


class Colder(FakeEngine):
    """Samples at half the temperature that was signed."""

    def generate(self, prompt_ids: Sequence[int], sampling: EngineSampling):  # type: ignore[no-untyped-def]  # as inherited
        params = replace(sampling.params, temperature=sampling.params.temperature // 2)
        return super().generate(prompt_ids, replace(sampling, params=params))


async def committed(world: World, jobs: int = 6) -> tuple[EvidenceFile, CaseFacts]:
    """Serve, collect, and bring every drawn point to court."""
    customer = Customer()
    for _ in range(jobs):
        params = customer.params(min_tokens=24)
        job = await world.node.admission.admit(await customer.submission(world.node, cumulative=10**6, params=params))
        assert isinstance(job, AdmittedJob)
        await world.node.server.start(job).closed()
    await world.node.settlement.settle_now()
    (mined,) = world.node.ledger.commits.commits()
    drawn = drawn_points(SEED, mined.ranges, mined.record.node, 200)
    record = replace(mined.record, step=200)
    by_receipt = {}
    for point in drawn:
        answer = await answer_of(world.node.ledger, world.node.domain, mined, point.channel, point.point)
        by_receipt[answer.index] = EvidencePoint(record, pack_ranges(mined.ranges), point.range_index, point.k, answer)
    file = EvidenceFile(31337, OWNER, tuple(by_receipt.values()))
    world.cases.known, world.cases.seeds = {record.id}, {record.id: SEED}
    world.cases.points = [(record.id, point) for point in drawn]
    world.cases.table = CALIBRATION
    world.evidence.files[URI] = file.to_bytes()
    facts = CaseFacts(1, OWNER, START + 10, file.hash, URI, file.shown(world.node.domain), PAIR)
    world.court.cases[1] = world.defence.known[1] = facts
    return file, facts


def honest(world: World) -> FakeEngine:
    return FakeEngine(vocab_size=world.node.chat_format.vocab_size)


def judge(world: World, engine: FakeEngine) -> CaseScale:
    chat_format = world.node.chat_format
    pair = (Bytes32(MODEL_ID), Bytes32(PROFILE_ID))
    own = OwnReplayer(engine, chat_format.render, chat_format.eos_ids, *pair, chat_format.grammars)
    return CaseScale(world.cases, own, world.node.domain)

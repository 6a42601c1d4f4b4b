"""Points and what came of them as JSON, between the processes of one verifier."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from retally.protocol.answer import AnswerContext
from retally.protocol.audit_points import AuditPoint
from retally.protocol.case import CommitRecord, unpack_ranges
from retally.protocol.eip712 import Domain
from retally.protocol.encoding import Address, Bytes32
from retally_verifier.judge_point import Judged, Outcome, Unanswered, Unjudgeable, Weight
from retally_verifier.point_work import PointId, PointTask
from retally_verifier.records import FindingState


def name_of(task: PointId) -> str:
    """The name of a point in Redis."""
    return ":".join(map(str, task))


def task_to_json(task: PointTask, last: Collection[Address]) -> str:
    """A task for any process; owners in `last` replay only where others do not suffice."""
    point = task.context.point
    wire = {
        "commit": task.context.commit.to_wire(),
        "range": task.context.range.pack().hex(),
        "point": [point.range_index, point.channel.hex(), str(point.k), str(point.point)],
        "seed": task.seed.hex(),
        "last": list(last),
    }
    return json.dumps(wire)


def task_of_json(text: str | bytes, domain: Domain) -> tuple[PointTask, tuple[Address, ...]]:
    """The task and the owners to be drawn last."""
    wire = json.loads(text)
    (item,) = unpack_ranges(bytes.fromhex(wire["range"]))
    index, channel, k, at = wire["point"]
    point = AuditPoint(index, Bytes32(bytes.fromhex(channel)), int(k), int(at))
    context = AnswerContext(domain, CommitRecord.from_wire(wire["commit"]), item, point)
    return PointTask(context, bytes.fromhex(wire["seed"])), tuple(Address(owner) for owner in wire["last"])


def outcome_to_json(outcome: Outcome) -> str:
    """What came of a point."""
    if isinstance(outcome, Unanswered):
        return json.dumps({"kind": "unanswered", "reason": outcome.reason, "code": outcome.code})
    if isinstance(outcome, Unjudgeable):
        return json.dumps({"kind": "unjudgeable", "reason": outcome.reason})
    weight = outcome.weight
    said = {"state": weight.state.value, "verdict": int(weight.verdict), "logE": weight.log_e, "detail": weight.detail}
    place = {"receipt": outcome.receipt_digest.hex(), "fee": str(outcome.fee), "answer": outcome.answer.decode()}
    return json.dumps({"kind": "judged", **said, **place})


def outcome_of_json(text: str | bytes) -> Outcome:
    """What came of a point."""
    wire: dict[str, Any] = json.loads(text)
    if wire["kind"] == "unanswered":
        return Unanswered(wire["reason"], wire["code"])
    if wire["kind"] == "unjudgeable":
        return Unjudgeable(wire["reason"])
    weight = Weight(FindingState(wire["state"]), wire["verdict"], wire["logE"], wire["detail"])
    return Judged(weight, Bytes32(bytes.fromhex(wire["receipt"])), int(wire["fee"]), wire["answer"].encode())

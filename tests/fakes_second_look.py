"""A verifier's books about an owner that two re-executors called guilty, and a court that may judge it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

from retally.chain.calibrations import Calibrations
from retally.chain.connection import Chain
from retally.chain.contract import ContractCall
from retally.job_answers import answer_of
from retally.protocol.calibration import Calibration
from retally.protocol.case import CommitRecord, Range, VerdictKind
from retally.protocol.encoding import Address, keccak
from retally.protocol.evidence import JOB_CLIP
from retally.protocol.job import canonical_json
from retally_verifier.records import Finding, FindingState
from tests.fakes_held_job import DATE, DEPLOYMENT, FINISHED, NODE, PAYER, PROMPT, HeldJob
from tests.fakes_node_ports import FakeClock

OWNER, FIRST, SECOND, VERIFIER = (Address("0x" + f"{n:02d}" * 20) for n in (21, 22, 23, 24))
#: Of the one job that is there: what its tokens cost.
FEE = 334
ITEM = Range(PAYER.address, PAYER.address, 0, 0, 2 * FEE)
COMMIT = CommitRecord(7, NODE.address, OWNER, keccak(b"root"), keccak(ITEM.pack()), FEE, 300_000, 12, FINISHED + 60)
SEED = keccak(b"seed")


class OnePair(Calibrations):
    """The calibration of one pair, or none."""

    def __init__(self, only: Calibration | None) -> None:
        self.only = only

    async def find(
        self, model_id: bytes, node_profile: bytes, verifier_profile: bytes, committed_at: int
    ) -> Calibration | None:
        known = self.only is not None and verifier_profile == self.only.verifier_profile
        return self.only if known and committed_at == COMMIT.time else None


@dataclass
class Sent:
    """A sender that keeps what it was given."""

    address: Address = VERIFIER
    calls: list[str] = field(default_factory=list)

    async def resume(self) -> None:
        """Nothing is pending."""

    async def send(self, call: ContractCall) -> None:
        self.calls.append(call.label)


async def told(value: object) -> Any:
    return value


def court_that_is_ready() -> Chain:
    """A chain whose pools may judge anybody, and on which nobody is accused."""
    court = SimpleNamespace(
        address=VERIFIER,
        taken_of=lambda *_: told(0),
        case_count=lambda: told(0),
        opening_cost=lambda: told(10),
        open=lambda opening: ContractCall(VERIFIER, b"", f"open {opening.owner} {len(opening.shown)}"),
    )
    pools = SimpleNamespace(
        pool_of=lambda *_: told(1),
        readiness=lambda *_: told(SimpleNamespace(ready=True)),
        may_judge=lambda *_: told(True),
    )
    return cast(
        Chain,
        SimpleNamespace(
            court=court,
            juror_pools=pools,
            staking=SimpleNamespace(slashable=lambda *_: told(1)),
            asset=SimpleNamespace(allowance=lambda *_: told(10)),
            clock=FakeClock(COMMIT.time + 60),
            domain=DEPLOYMENT.domain,
            deployment=DEPLOYMENT,
        ),
    )


def findings(job: HeldJob, says: float = JOB_CLIP) -> list[Finding]:
    """Two receipts of an owner, of which two re-executors said the same."""
    assert job.receipt.fee == FEE
    evidence = replace(job.evidence, prompt=PROMPT)
    prompt_ids = job.chat_format.render(PROMPT, DATE)
    found = []
    for k in range(2):
        (leaf,) = job.signed_again(cum_from=k * FEE, cum_to=(k + 1) * FEE).evidence.receipts
        answer = answer_of(evidence, leaf, prompt_ids)
        found.append(
            Finding(
                commit_id=COMMIT.id,
                range_index=0,
                k=k,
                channel=leaf.receipt.channel.key,
                point=k * FEE,
                owner=OWNER,
                node=NODE.address,
                payer=PAYER.address,
                time=COMMIT.time,
                state=FindingState.REPLAYED,
                verdict=VerdictKind.MISMATCH,
                log_e=says,
                receipt_digest=leaf.receipt.digest(DEPLOYMENT.domain),
                fee=FEE,
                answer=canonical_json(answer.to_wire()),
                detail={"replays": [{"owner": each, "node": each, "logE": says} for each in (FIRST, SECOND)]},
            )
        )
    return found

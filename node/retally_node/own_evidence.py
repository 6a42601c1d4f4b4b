"""What the accused itself holds of a case: its jurors' own code, on the file served or on its own books."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from retally.errors import NotFound, RetallyError
from retally.protocol.audit_points import AuditPoint
from retally.protocol.case import Shown, pack_ranges
from retally.protocol.eip712 import Domain
from retally.protocol.evidence_file import EvidenceFile, EvidencePoint, period_start
from retally_node.answer_audit import answer_of
from retally_node.ledger import Ledger
from retally_node.read_evidence import EvidenceSource, read_evidence
from retally_node.weigh_case import INCONCLUSIVE, CaseChain, CaseFacts, CaseScale, Opinion

log = logging.getLogger(__name__)


class AccusedScale:
    """Weighs cases against a node's own owner, whether or not the challenger shows it the evidence."""

    def __init__(
        self, ledger: Ledger, cases: CaseChain, source: EvidenceSource, scale: CaseScale, domain: Domain
    ) -> None:
        self._ledger = ledger
        self._cases = cases
        self._source = source
        self._scale = scale
        self._domain = domain

    async def weigh(self, facts: CaseFacts) -> Opinion:
        """What a juror with this node's engine would vote; raises where neither file nor books can be had."""
        try:
            file = await read_evidence(self._source, facts)
        except RetallyError as error:
            log.warning("case %d: %s; its own books are asked", facts.case_id, error)
            drawn = await self._cases.drawn(facts.owner, period_start(facts.opened_at), facts.opened_at)
            try:
                file = await own_evidence(self._ledger, self._domain, facts, drawn)
            except NotFound as unknown:
                raise NotFound(f"its evidence is not served ({error.message}), and {unknown.message}") from error
        return INCONCLUSIVE if file is None else await self._scale.weigh(facts, file)


async def own_evidence(
    ledger: Ledger, domain: Domain, facts: CaseFacts, drawn: Sequence[tuple[int, AuditPoint]]
) -> EvidenceFile:
    """What a case shows, out of the books of the node that gave the answers; raises NotFound where these lack it."""
    points = [await _own_point(ledger, domain, entry, drawn) for entry in facts.shown]
    return EvidenceFile(domain.chain_id, facts.owner, tuple(points))


async def _own_point(
    ledger: Ledger, domain: Domain, entry: Shown, drawn: Sequence[tuple[int, AuditPoint]]
) -> EvidencePoint:
    commit, record = ledger.commits.commit(entry.commit_id), ledger.jobs.receipt(entry.receipt_digest)
    if commit is None or record is None:
        raise NotFound(f"a receipt of commit {entry.commit_id} that it shows is not in this node's books")
    receipt = record.receipt
    for commit_id, point in drawn:
        covers = receipt.cum_from <= point.point < receipt.cum_to
        if commit_id == entry.commit_id and point.channel == receipt.channel.key and covers:
            answer = await answer_of(ledger, domain, commit, point.channel, point.point)
            return EvidencePoint(commit.record, pack_ranges(commit.ranges), point.range_index, point.k, answer)
    raise NotFound(f"a receipt of commit {entry.commit_id} that it shows covers no drawn point")

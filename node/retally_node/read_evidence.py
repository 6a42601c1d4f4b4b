"""The evidence file that a case names."""

from __future__ import annotations

import logging
from typing import Protocol

from retally.errors import BadRequest
from retally.protocol.encoding import keccak
from retally.protocol.evidence_file import MAX_BYTES, EvidenceFile
from retally_node.weigh_case import CaseFacts

log = logging.getLogger(__name__)


class EvidenceSource(Protocol):
    """Where evidence files come from."""

    async def fetch(self, uri: str, max_bytes: int) -> bytes:
        """The bytes behind a uri."""


async def read_evidence(source: EvidenceSource, facts: CaseFacts) -> EvidenceFile | None:
    """The file that a case names; None where what is served is another one, or no evidence: waiting mends neither."""
    data = await source.fetch(facts.evidence_uri, MAX_BYTES)
    if keccak(data) != facts.evidence_hash:
        log.warning("case %d: the file served is not the file named", facts.case_id)
        return None
    try:
        return EvidenceFile.from_bytes(data)
    except BadRequest as error:
        log.warning("case %d: %s", facts.case_id, error)
        return None

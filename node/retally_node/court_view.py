"""The juror's ports over the real contracts and HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from retally.chain.calibrations import Calibrations
from retally.chain.connection import Chain
from retally.chain.court import CaseStatus, decode_shown
from retally.chain.events import ChainEvent, EventReader, block_at, collected_of
from retally.chain.transactions import TxSender
from retally.errors import NotFound, PayloadTooLarge, UpstreamTimeout
from retally.protocol.audit_points import AuditPoint, drawn_points
from retally.protocol.calibration import Calibration
from retally.protocol.case import CommitRecord
from retally.protocol.encoding import Address, Bytes32
from retally_node.jury import Duty
from retally_node.ledger import Vote
from retally_node.weigh_case import CaseFacts

READ_SECONDS = 30.0
#: For a whole file, the largest from a slow host.
FETCH_SECONDS = 120.0


class ChainCourt:
    """`CourtView` over the Court; the hot key votes as the owner's delegate."""

    def __init__(self, chain: Chain, sender: TxSender, owner: Address) -> None:
        self._chain = chain
        self._sender = sender
        self._owner = owner
        self._reader = EventReader(chain, ("Court",))
        self._closed: set[int] = set()

    async def duties(self) -> list[Duty]:
        """The rounds now voting with this owner on the jury."""
        court = self._chain.court
        found = []
        for case_id in range(1, await court.case_count() + 1):
            if case_id in self._closed:
                continue
            case = await court.case_of(case_id)
            if case.status == CaseStatus.CLOSED:
                self._closed.add(case_id)
            elif case.status == CaseStatus.VOTING:
                jurors = await court.jurors_of(case_id, case.round)
                if self._owner in jurors:
                    found.append(await self._duty(case_id, case.round, jurors.index(self._owner)))
        return found

    async def _duty(self, case_id: int, round_: int, seat: int) -> Duty:
        state = await self._chain.court.round_of(case_id, round_)
        vote = await self._chain.court.vote_of(case_id, round_, seat)
        now = self._chain.clock.now()
        return Duty(
            case_id=case_id,
            round=round_,
            seat=seat,
            commit_end=state.commit_end,
            committed=vote.hash if any(vote.hash) else None,
            revealed=vote.verdict != 0,
            may_reveal=now > state.commit_end,
        )

    async def facts(self, case_id: int) -> CaseFacts:
        """What the chain says about a case."""
        case = await self._chain.court.case_of(case_id)
        opened = await self._opening(case_id, case.opened_at)
        return CaseFacts(
            case_id=case_id,
            owner=case.owner,
            opened_at=case.opened_at,
            evidence_hash=Bytes32(opened.args["evidenceHash"]),
            evidence_uri=str(opened.args["evidenceUri"]),
            shown=decode_shown(opened.args["shown"]),
            pair=await self._chain.juror_pools.pair_of(case.pool),
            own_job=case.own_job,
        )

    async def _opening(self, case_id: int, opened_at: int) -> ChainEvent:
        start = await block_at(self._chain, opened_at)
        head = await self._chain.block_number()
        for event in await self._reader.read_named("CaseOpened", start, head, caseId=case_id):
            return event
        raise NotFound(f"the opening of case {case_id} is not in the logs")

    async def commit_vote(self, duty: Duty, hash_: bytes) -> None:
        """Commit a vote."""
        await self._sender.send(self._chain.court.commit_vote(duty.case_id, duty.round, duty.seat, hash_))

    async def reveal_vote(self, duty: Duty, vote: Vote) -> None:
        """Show a vote."""
        case = (vote.case_id, vote.round, duty.seat)
        await self._sender.send(self._chain.court.reveal_vote(*case, vote.verdict, vote.log_e, vote.salt))


class ChainCases:
    """`CaseChain` over Escrow, Audits and the Registry's calibrations."""

    def __init__(self, chain: Chain, calibration_dir: Path | None) -> None:
        self._chain = chain
        self._reader = EventReader(chain, ("Escrow",))
        self._calibrations = Calibrations(chain.registry)
        if calibration_dir is not None:
            self._calibrations.load(calibration_dir)

    async def is_commit(self, commit: CommitRecord) -> bool:
        """Whether this commit was made."""
        return await self._chain.escrow.is_commit(commit)

    async def seed_of(self, commit_id: int) -> bytes | None:
        """The seed of a commit, once fixed."""
        return await self._chain.audits.seed_of(commit_id)

    async def drawn(self, owner: Address, since: int, until: int) -> list[tuple[int, AuditPoint]]:
        """All drawn points of an owner's commits between two times."""
        start = await block_at(self._chain, since)
        head = await self._chain.block_number()
        found: list[tuple[int, AuditPoint]] = []
        for event in await self._reader.read_named("Collected", start, head, owner=owner):
            collected = collected_of(event)
            commit = collected.commit
            if not since <= commit.time <= until:
                continue
            seed = await self.seed_of(commit.id)
            if seed is not None:
                points = drawn_points(seed, collected.ranges, commit.node, commit.step)
                found += [(commit.id, point) for point in points]
        return found

    async def calibration(
        self, model_id: bytes, node_profile: bytes, own_profile: bytes, committed_at: int
    ) -> Calibration | None:
        """The calibration that judges what was committed then, for a node's profile against one's own."""
        return await self._calibrations.find(model_id, node_profile, own_profile, committed_at)


class HttpEvidence:
    """`EvidenceSource` over HTTP; a file that is too large or too slow is dropped on the way."""

    def __init__(self, seconds: float = FETCH_SECONDS) -> None:
        self._seconds = seconds

    async def fetch(self, uri: str, max_bytes: int) -> bytes:
        """The bytes behind a uri."""
        data = bytearray()
        try:
            # For all of it: whoever sent a byte at a time would keep jurors and the accused waiting past their terms.
            async with (
                asyncio.timeout(self._seconds),
                httpx.AsyncClient(timeout=READ_SECONDS) as client,
                client.stream("GET", uri) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    raise NotFound(f"{uri} answers {response.status_code}")
                async for piece in response.aiter_bytes():
                    data += piece
                    if len(data) > max_bytes:
                        raise PayloadTooLarge(max_bytes)
        except TimeoutError as error:
            late = f"{uri} did not come within {self._seconds:g} s ({len(data)} bytes did)"
            raise UpstreamTimeout(late) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UpstreamTimeout(f"{uri} can't be fetched: {error!r}") from error
        return bytes(data)

"""A job on one node, and its answer frame by frame."""

from __future__ import annotations

from dataclasses import dataclass, field

from retally.errors import NodeUnavailable, RetallyError
from retally.protocol.eip712 import Bytes32
from retally.protocol.job import JobRequest
from retally_router.authorize import SignedJob
from retally_router.begun_job import Repeatable
from retally_router.channel_state import ChannelAccount
from retally_router.check_frames import FrameChecker, Placed
from retally_router.frames import Frame
from retally_router.job_log import JobRecord
from retally_router.keys import Session
from retally_router.make_request import Ask
from retally_router.ports import Direct, NodeStream
from retally_router.sse import FrameCutter, payload_of

DONE = b"[DONE]"
MOST_PROMPT_BYTES = 32 * 1024 * 1024
MOST_TOKEN_BYTES = 16 * 1024
FRAMES_AHEAD = 8


@dataclass(frozen=True, slots=True)
class Job:
    """A signed job, ready to be placed."""

    ask: Ask
    request: JobRequest
    signature: bytes
    job_id: Bytes32
    caller: Session | SignedJob
    request_id: str
    prompt_tokens_at_most: int
    repeatable: Repeatable | None = None


@dataclass(slots=True)
class Placement:
    """A job on one node, with its open connection."""

    placed: Placed
    account: ChannelAccount | None
    record: JobRecord
    checker: FrameChecker
    stream: NodeStream
    whole: bool = False
    done: bool = False
    failure: RetallyError | None = None
    cutter: FrameCutter = field(default_factory=FrameCutter)
    held: list[Frame] = field(default_factory=list)
    received: int = 0
    most_bytes: int = MOST_PROMPT_BYTES

    @property
    def is_open(self) -> bool:
        """Whether a receipt of this node is missing in the router's books."""
        segments = [(self.placed.job_id, choice, segment) for choice, segment, _ in self.record.segments]
        return self.account is not None and any(key in self.account.open for key in segments)

    def is_next(self, data: bytes) -> bool:
        """Whether nothing that came before is left, and an honest answer may have as much."""
        is_left = self.held or self.done or self.failure is not None or not self.cutter.is_between
        return not is_left and not self.whole and self.received + len(data) <= self.most_bytes

    async def next(self, direct: Direct | None = None) -> list[Frame]:
        """The node's next frames; none after its [DONE]. Raises what went wrong, after what came first.

        What the other takes meanwhile is not among them.
        """
        frames, self.held = self.held, []
        while not frames and not self.done:
            if self.failure is not None:
                raise self.failure
            data = await self.stream.next(direct)
            if not data:
                raise NodeUnavailable("the node's answer broke off")
            self.received += len(data)
            if self.received > self.most_bytes:
                raise NodeUnavailable(f"the node sent more than {self.most_bytes} bytes for one job")
            frames = self._cut(data)
        # What is put together at its end is held in any case.
        return frames if self.whole or len(frames) <= FRAMES_AHEAD else self._ahead_of_receipt(frames)

    def _ahead_of_receipt(self, frames: list[Frame]) -> list[Frame]:
        """Many frames before one with a receipt go first: in memory, they would wait for its record with it."""
        for place in range(FRAMES_AHEAD, len(frames)):
            if frames[place].has_receipt:
                self.held = frames[place:]
                return frames[:place]
        return frames

    async def wait_first(self) -> None:
        """Holds the first frames back, so that a node that fails at once can still be replaced."""
        first = await self.next()
        self.held = first + self.held

    def _cut(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        for raw in self.cutter.feed(data):
            payload = payload_of(raw)
            if payload is None:
                continue
            if payload == DONE:
                self.done = True
                break
            try:
                frames.append(Frame(raw, payload, whole=self.whole))
            except RetallyError as error:
                # The tokens of the frames before it were sent, and may be billed.
                self.failure = error
                break
        return frames


def most_bytes_of(request: JobRequest) -> int:
    """No honest answer is longer: the prompt's log-probabilities, and frames of single tokens with theirs."""
    return MOST_PROMPT_BYTES + MOST_TOKEN_BYTES * request.max_output * request.n

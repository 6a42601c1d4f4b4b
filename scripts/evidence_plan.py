"""Who answers and who replays: the set-ups, their lists of jobs, and where each shard lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import evidence_weights
from evidence_jobs import EDITS, LIES, UNSEEN, WEIGHTS, Prompts, edit, lie
from evidence_shards import MARGINS, Job, Segment, Shards

GENUINE = "genuine"


@dataclass(frozen=True, slots=True)
class Engine:
    """One loaded model: the library, its precision and its weights."""

    library: str
    dtype: str
    weights: str = GENUINE


@dataclass(frozen=True, slots=True)
class SetUp:
    """How a node or a verifier runs the model."""

    name: str
    engine: Engine
    #: Jobs in one batch.
    at_once: int

    def to_json(self) -> list[object]:
        """What of it names a shard."""
        return [self.engine.library, self.engine.dtype, self.at_once]


VLLM32, VLLM16 = Engine("vllm", "float32"), Engine("vllm", "bfloat16")
HF32, HF16 = Engine("transformers", "float32"), Engine("transformers", "bfloat16")
BATCHED = SetUp("vllm-float32-batched", VLLM32, 16)
FEW = SetUp("vllm-float32-few", VLLM32, 4)
NARROW = SetUp("vllm-bfloat16", VLLM16, 16)
REFERENCE = SetUp("reference-float32", HF32, 16)
REFERENCE_NARROW = SetUp("reference-bfloat16", HF16, 16)

#: Chunks of honest jobs by the node that answers them. Most are those of the profile that the cheats claim: how
#: little noise a table allows depends on how many honest jobs it was made from.
NODES = {BATCHED: 100, FEW: 4, REFERENCE: 20, REFERENCE_NARROW: 8, NARROW: 4}
#: Of each node's chunks, those that a small batch replays too.
FEW_REPLAYS = 6
#: The same for bfloat16, which takes up to twenty times as long.
NARROW_REPLAYS = 100
VERIFIERS = (BATCHED, FEW, REFERENCE, REFERENCE_NARROW)
#: Cheats have big batches and are replayed by one verifier of each kind of kernels and precision.
CHEAT_AT_ONCE = 32
CHEAT_VERIFIERS = (BATCHED, REFERENCE, REFERENCE_NARROW)
#: The first chunk of a cheat makes alternatives, the others are reported.
CHEAT_CHUNKS = 4


def is_same(node: SetUp, verifier: SetUp) -> bool:
    """Whether both run the same kernels in the same precision."""
    return (node.engine.library, node.engine.dtype) == (verifier.engine.library, verifier.engine.dtype)


@dataclass(frozen=True, slots=True)
class Batch:
    """A shard of jobs and who answers them; `cheat` is empty for honest ones."""

    node: SetUp
    chunk: int
    cheat: str = ""
    #: Honest answers that a cheat edits are no cheat's yet.
    is_base: bool = False


@dataclass(slots=True)
class Plan:
    """All batches and replays of a measurement."""

    prompts: Prompts
    model_dir: Path
    shards: Shards
    is_quick: bool = False
    scale: float = 1.0
    _sha: dict[str, str] = field(default_factory=dict)
    _jobs: dict[Batch, list[Job]] = field(default_factory=dict)
    _answers: dict[Batch, Path] = field(default_factory=dict)

    def batches(self) -> Iterator[Batch]:
        """Everything that is answered; cheats first, since a run that is cut short can do with fewer honest jobs."""
        for cheat in (*WEIGHTS, *LIES, *EDITS):
            yield from self.cheated(cheat)
        for node, chunks in NODES.items():
            for chunk in range(1 if self.is_quick else max(2, round(chunks * self.scale))):
                yield Batch(node, chunk)

    def cheated(self, cheat: str) -> Iterator[Batch]:
        """A cheat's batches: those that make alternatives come first."""
        weights = cheat if cheat in WEIGHTS else GENUINE
        node = SetUp(f"vllm-float32-{weights}", Engine("vllm", "float32", weights), CHEAT_AT_ONCE)
        for chunk in self.chunks(cheat):
            if cheat in EDITS:
                yield Batch(node, chunk, cheat, is_base=True)
            yield Batch(node, chunk, cheat)

    def chunks(self, cheat: str) -> range:
        """Which chunks of a cheat there are; what is unseen by alternatives has none for them."""
        return range(1 if cheat in UNSEEN else 0, 2 if self.is_quick else CHEAT_CHUNKS)

    def verifiers(self, batch: Batch) -> Sequence[SetUp]:
        """Who replays it."""
        if batch.is_base:
            return ()
        if batch.cheat:
            return CHEAT_VERIFIERS
        # A small batch differs from a big one by less than from another library: it replays its own kernels only.
        few = is_same(batch.node, FEW) and batch.chunk < FEW_REPLAYS
        narrow = batch.chunk < NARROW_REPLAYS
        return [each for each in VERIFIERS if (each != FEW or few) and (each != REFERENCE_NARROW or narrow)]

    def jobs(self, batch: Batch) -> list[Job]:
        """What was asked for."""
        if batch not in self._jobs:
            if batch.cheat:
                self._jobs[batch] = self.prompts.cheated(batch.cheat, batch.chunk)
            else:
                self._jobs[batch] = self.prompts.honest(batch.node.name, batch.chunk)
        return self._jobs[batch]

    def segments(self, batch: Batch) -> list[Segment] | None:
        """What the node runs; None while the answers that it edits are not there."""
        jobs = self.jobs(batch)
        if batch.is_base or batch.cheat not in EDITS:
            return [lie(batch.cheat, job, self.prompts) for job in jobs]
        base = self.answer_path(Batch(batch.node, batch.chunk, batch.cheat, is_base=True))
        if base is None or not base.exists():
            return None
        honest = self.shards.load_answers(base)
        return [edit(batch.cheat, job, ids, self.prompts) for job, ids in zip(jobs, honest, strict=True)]

    def answer_path(self, batch: Batch) -> Path | None:
        """Where its answers lie; None as for `segments`."""
        if batch not in self._answers:
            segments = self.segments(batch)
            if segments is None:
                return None
            asked = [job.to_json() for job in self.jobs(batch)]
            ran = [segment.to_json() for segment in segments]
            by = [self.sha(batch.node.engine.weights), batch.node.to_json()]
            self._answers[batch] = self.shards.path("answers", [*by, asked, ran])
        return self._answers[batch]

    def replay_path(self, answers: Path, verifier: SetUp) -> Path:
        """Where a replay of them lies."""
        return self.shards.path("replays", [self.sha(GENUINE), verifier.to_json(), answers.name, MARGINS])

    def folder(self, weights: str) -> Path:
        """The folder that an engine loads."""
        if weights == GENUINE:
            return self.model_dir
        source = [self.sha(GENUINE), evidence_weights.recipe(weights)]
        return evidence_weights.make(weights, self.model_dir, self.shards.path(f"weights-{weights}", source))

    def sha(self, weights: str) -> str:
        """The hash of an engine's weights."""
        if weights not in self._sha:
            self._sha[weights] = evidence_weights.sha256(self.folder(weights))
        return self._sha[weights]

"""The jobs of a measurement, and what a cheat runs in their stead.

Prompts are the model's held-out chats. Honest jobs have all shapes of sampling that a calibration covers; cheats are
asked for the usual one. Three of four honest jobs and all but `early-stop` forbid an early end, so that they have
`TOKENS` tokens.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evidence_shards import Job, Segment
from retally.inference.chat_format import ChatFormat
from retally.protocol.encoding import keccak, u32
from retally.protocol.params import ONE, JobParams
from retally_verifier.calibrate.canaries import DATE, HIDDEN, SHAPES

TOKENS = 256
#: Jobs a shard at most.
CHUNK = 32
#: Shapes that cheats are asked for: temperature 1 with a nucleus, so that each way to cheat can show.
USUAL = ({"temperature": ONE, "top_p": 950_000}, {"temperature": ONE, "top_k": 50, "top_p": 950_000})

#: Cheats by weights; each has an engine of its own.
WEIGHTS = ("int4", "int8", "fp8", "earlier", "fine-tune")
#: Cheats by serving another job on the genuine weights.
LIES = ("temperature", "top-p-off", "wrong-seed", "greedy", "hidden-prompt", "truncated-prompt", "cached")
#: Cheats made from honest answers.
EDITS = ("splice", "early-stop")
CHEATS = (*WEIGHTS, *LIES, *EDITS)
#: These make no table's alternative.
UNSEEN = ("fine-tune", "truncated-prompt", "top-p-off", "cached", "splice", "early-stop")


@dataclass(frozen=True, slots=True)
class Prompts:
    """Renders prompts and knows the end of an answer."""

    chats: Sequence[str]
    form: ChatFormat
    #: Jobs a shard.
    size: int = CHUNK

    @classmethod
    def of(cls, model_dir: Path, size: int = CHUNK) -> Prompts:
        """The prompts of a model's held-out chats, each question once, in a fixed order."""
        chats = json.loads(gzip.decompress((model_dir / "evaluation" / "held_out.json.gz").read_bytes()))
        questions = sorted({text for chat in chats for role, text in chat if role == "user" and len(text) > 20})
        random.Random("prompts").shuffle(questions)
        return cls(questions, ChatFormat.load(model_dir), size)

    def hidden_ids(self) -> tuple[int, ...]:
        """A system prompt that a cheat puts before the payer's."""
        return tuple(self.form.render({"messages": [{"role": "system", "content": HIDDEN}]}, DATE))

    def jobs(self, name: str, chunk: int, shapes: Sequence[Mapping[str, Any]], *, free_every: int = 0) -> list[Job]:
        """The jobs of one shard, the same on every run; every so many may end when they like."""
        rng = random.Random(f"{name} {chunk}")
        made = []
        for index in range(chunk * CHUNK, chunk * CHUNK + self.size):
            # Two questions in one: a longer prompt, and more different ones than there are questions.
            text = " ".join(rng.sample(self.chats, 2))
            ids = self.form.render({"messages": [{"role": "user", "content": text}]}, DATE)
            is_free = free_every > 0 and index % free_every == 0
            least = 0 if is_free else TOKENS
            shape = shapes[(index // max(1, free_every)) % len(shapes)]
            params = JobParams(max_tokens=TOKENS, min_tokens=least, template_date=DATE, **shape)
            made.append(Job(tuple(ids), params, keccak(name.encode() + u32(index))))
        return made

    def honest(self, node: str, chunk: int) -> list[Job]:
        """Jobs for an honest node."""
        return self.jobs(f"honest {node}", chunk, SHAPES, free_every=4)

    def cheated(self, cheat: str, chunk: int) -> list[Job]:
        """Jobs for a cheat; one that ends early must be allowed to."""
        return self.jobs(f"cheat {cheat}", chunk, USUAL, free_every=1 if cheat == "early-stop" else 0)


def lie(cheat: str, job: Job, prompts: Prompts) -> Segment:
    """What a cheat runs for a job."""
    params, seed = job.params, job.seed
    ways: dict[str, Callable[[], Job]] = {
        "temperature": lambda: replace(job, params=replace(params, temperature=params.temperature * 9 // 10)),
        "top-p-off": lambda: replace(job, params=replace(params, top_p=ONE, top_k=0)),
        "wrong-seed": lambda: replace(job, seed=keccak(seed)),
        "greedy": lambda: replace(job, params=replace(params, temperature=0)),
        "hidden-prompt": lambda: replace(job, prompt_ids=(*prompts.hidden_ids(), *job.prompt_ids)),
        # The first token stays, the older half of the rest is cut.
        "truncated-prompt": lambda: replace(
            job, prompt_ids=(job.prompt_ids[0], *job.prompt_ids[1 + len(job.prompt_ids) // 2 :])
        ),
        # An answer kept from whoever asked the same first.
        "cached": lambda: replace(job, seed=keccak(b"cached" + json.dumps(job.prompt_ids).encode())),
    }
    return Segment(ways[cheat]() if cheat in ways else job)


def edit(cheat: str, job: Job, honest: Sequence[int], prompts: Prompts) -> Segment:
    """What a cheat makes of its own honest answer: one token replaced and gone on from, or cut and ended."""
    rng = random.Random(job.seed)
    if cheat == "splice":
        place = rng.randrange(len(honest) // 4, len(honest))
        token = rng.choice([token for token in range(prompts.form.vocab_size) if token != honest[place]])
        return Segment(job, (*honest[:place], token), is_whole=place + 1 == len(honest))
    end = prompts.form.eos_ids[0]
    half = max(1, len(honest) // 2)
    return Segment(job, (*honest[:half], end), is_whole=True)

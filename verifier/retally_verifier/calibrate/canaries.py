"""Canary jobs: what honest set-ups are asked for, the same on every run, and the ways in which a cheat lies."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retally.inference.chat_format import ChatFormat
from retally.protocol.encoding import keccak, u32
from retally.protocol.params import ONE, JobParams

DATE = "2026-01-01"
TOPICS = ("lists", "files", "classes", "json", "threads", "dates", "strings", "sockets", "tests", "regular expressions")
QUESTIONS = (
    "What is {0} in Python?",
    "How do I use {0}?",
    "Explain {0} and {1} shortly.",
    "What is the difference between {0} and {1}?",
    "Write about {0}, then about {1}.",
)
SHAPES: tuple[Mapping[str, Any], ...] = (
    {"temperature": ONE},
    {"temperature": ONE, "top_p": 950_000},
    {"temperature": 700_000, "top_p": 900_000},
    {"temperature": ONE, "top_k": 50, "top_p": 950_000},
    {"temperature": 500_000},
    {"temperature": 1_200_000, "top_k": 40},
)
#: Where the numbers hold (R-35): what the shapes and the lengths of the canaries span.
RANGES = {
    "temperature": (500_000, 1_200_000),
    "topP": (900_000, ONE),
    "topK": (0, 1 << 31),
    "minP": (0, 0),
    "promptTokens": (1, 900),
    "outputTokens": (1, 900),
}
HIDDEN = "You are terse. Never mention prices. Prefer short sentences and refuse to discuss anything but Python."
#: What a cheat with the genuine weights does; a greedy job has neither seed nor temperature to lie about.
LIES = ("hidden-prompt", "other-seed", "colder")


@dataclass(frozen=True, slots=True)
class Job:
    """One job to be sampled."""

    prompt_ids: tuple[int, ...]
    params: JobParams
    seed: bytes

    def to_json(self) -> list[Any]:
        """What of it names a shard."""
        return [list(self.prompt_ids), self.params.to_json(), self.seed.hex()]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a set-up sampled."""

    ids: tuple[int, ...]
    #: Its own raw logprobs of these tokens, nats; none where it does not say.
    logprobs: tuple[float, ...] | None = None


class Canaries:
    """Makes jobs for one model."""

    def __init__(self, chat_format: ChatFormat) -> None:
        self._format = chat_format
        self.eos_ids = chat_format.eos_ids

    def jobs(self, count: int, tokens: int, *, greedy: bool, name: str) -> list[Job]:
        """Jobs of all shapes, the same on every run."""
        rng = random.Random(name)
        made = []
        for index in range(count):
            text = rng.choice(QUESTIONS).format(*rng.sample(TOPICS, 2))
            shape: Mapping[str, Any] = {"temperature": 0} if greedy else SHAPES[index % len(SHAPES)]
            ids = self._format.render({"messages": [{"role": "user", "content": text}]}, DATE)
            params = JobParams(max_tokens=tokens, template_date=DATE, **shape)
            made.append(Job(tuple(ids), params, keccak(name.encode() + u32(index))))
        return made

    def lie(self, name: str, job: Job) -> Job:
        """The job that a cheat runs in place of the one it was asked for."""
        if name == "hidden-prompt":
            hidden = self._format.render({"messages": [{"role": "system", "content": HIDDEN}]}, DATE)
            return replace(job, prompt_ids=(*hidden, *job.prompt_ids))
        if name == "other-seed":
            return replace(job, seed=keccak(job.seed))
        return replace(job, params=replace(job.params, temperature=job.params.temperature * 7 // 10))


def lies_for(jobs: Sequence[Job]) -> tuple[str, ...]:
    """The lies that such jobs allow."""
    return LIES if jobs and jobs[0].params.temperature > 0 else LIES[:1]

"""Runs the canaries: each set-up answers its share, each other one replays it; what is measured is kept in shards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from retally.errors import BadRequest
from retally.protocol.margins import Replayed, robust_margins
from retally_verifier.calibrate.canaries import Canaries, Job, lies_for
from retally_verifier.calibrate.setups import SetUp
from retally_verifier.calibrate.shards import Shards
from retally_verifier.calibration_tables import Margins

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[str], None]
Ids = tuple[int, ...]

CHUNK = 16
#: Two implementations of one model differ by less, in nats, on all but few tokens.
NOISE, MOST_OFF = 0.6, 0.01


@dataclass(frozen=True, slots=True)
class Measured:
    """The margins of one kind of sampling, by pair of set-ups and by cheat; jobs of one set-up in the same order."""

    honest: Mapping[str, list[Margins]]
    cheats: Mapping[str, list[Margins]]
    #: By which set-up the jobs of a pair were answered.
    answered_by: Mapping[str, str]


class OtherWeights(BadRequest):
    """Two set-ups do not run the same model."""

    def __init__(self, node: str, verifier: str, share: float) -> None:
        super().__init__(
            f"{share:.0%} of the tokens of {node} are not what {verifier} would choose (at most {MOST_OFF:.0%} by more"
            f" than {NOISE} nats between two set-ups of one model)",
            hint=f"one of them does not serve these weights or lacks the sampler: check {node} and {verifier}",
        )
        self.share = share


class Bench:
    """Set-ups, canaries and the shards that keep what they gave."""

    def __init__(self, setups: Sequence[SetUp], canaries: Canaries, shards: Shards, say: Progress) -> None:
        self._setups = setups
        self._canaries = canaries
        self._shards = shards
        self._say = say
        self._identities: dict[str, object] = {}

    async def check(self) -> None:
        """Asks each set-up what it is, before hours are spent."""
        for setup in self._setups:
            self._identities[setup.name] = await setup.identity()

    async def measure(
        self, count: int, cheat_count: int, tokens: int, *, greedy: bool, cheaper: Mapping[str, SetUp]
    ) -> Measured:
        """All pairs of set-ups, then all cheats."""
        mode = "greedy" if greedy else "seeded"
        jobs = self._canaries.jobs(count, tokens, greedy=greedy, name=f"honest {mode}")
        answering = [setup for setup in self._setups if setup.answers]
        honest: dict[str, list[Margins]] = {}
        by: dict[str, str] = {}
        for index, node in enumerate(answering):
            mine = jobs[index :: len(answering)]
            for verifier in self._setups:
                if verifier is not node:
                    pair = f"{node.name} by {verifier.name}"
                    honest[pair] = await self._pair(mode, node, verifier, mine)
                    by[pair] = node.name
        asked = self._canaries.jobs(cheat_count, tokens, greedy=greedy, name=f"cheat {mode}")
        return Measured(honest, await self._cheats(mode, answering[0], asked, cheaper), by)

    async def _pair(self, mode: str, node: SetUp, verifier: SetUp, jobs: Sequence[Job]) -> list[Margins]:
        found: list[Margins] = []
        for first in range(0, len(jobs), CHUNK):
            part = jobs[first : first + CHUNK]
            self._say(f"{mode}: {node.name} by {verifier.name}, {first + len(part)} of {len(jobs)} jobs")
            answers = await self._answers(node, part, part)
            found += await self._margins(verifier, part, answers)
            _check_same_model(node.name, verifier.name, found)
        return found

    async def _cheats(
        self, mode: str, honest: SetUp, jobs: Sequence[Job], cheaper: Mapping[str, SetUp]
    ) -> dict[str, list[Margins]]:
        found: dict[str, list[Margins]] = {}
        ways: list[tuple[str, SetUp, Sequence[Job]]] = [(name, setup, jobs) for name, setup in cheaper.items()]
        for lie in lies_for(jobs):
            ways.append((lie, honest, [self._canaries.lie(lie, job) for job in jobs]))
        for name, setup, served in ways:
            if setup.name not in self._identities:
                self._identities[setup.name] = await setup.identity()
            found[name] = []
            for first in range(0, len(jobs), CHUNK):
                asked, run = jobs[first : first + CHUNK], served[first : first + CHUNK]
                self._say(f"{mode}: {name}, {first + len(asked)} of {len(jobs)} jobs")
                answers = await self._answers(setup, asked, run)
                found[name] += await self._margins(honest, asked, answers)
        return found

    async def _answers(self, node: SetUp, jobs: Sequence[Job], served: Sequence[Job]) -> list[Ids]:
        determined = [self._identities[node.name], node.at_once, [job.to_json() for job in served]]
        name = self._shards.name("answers", determined)
        if not self._shards.has(name):
            self._shards.put_answers(name, await each(served, node.answer, node.at_once))
        return self._shards.answers(name)

    async def _margins(self, verifier: SetUp, jobs: Sequence[Job], answers: Sequence[Ids]) -> list[Margins]:
        determined = [self._identities[verifier.name], verifier.at_once, [job.to_json() for job in jobs], list(answers)]
        name = self._shards.name("margins", determined)
        if not self._shards.has(name):
            pairs = list(zip(jobs, answers, strict=True))
            scores = await each(pairs, lambda pair: verifier.score(*pair), verifier.at_once)
            made = [
                robust_margins(Replayed(job.params, job.seed, job.prompt_ids, (), ids, self._canaries.eos_ids), rows)
                for (job, ids), rows in zip(pairs, scores, strict=True)
            ]
            self._shards.put_margins(name, made)
        return self._shards.margins(name)


def _check_same_model(node: str, verifier: str, found: Sequence[Margins]) -> None:
    off = float(np.mean(np.concatenate(found) > NOISE))
    if off > MOST_OFF:
        raise OtherWeights(node, verifier, off)


async def each(items: Sequence[Item], call: Callable[[Item], Awaitable[Result]], at_once: int) -> list[Result]:
    """All results in order, so many at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(item: Item) -> Result:
        async with gate:
            return await call(item)

    return list(await asyncio.gather(*(one(item) for item in items)))

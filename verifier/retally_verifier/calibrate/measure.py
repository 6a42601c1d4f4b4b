"""Runs the canaries: each set-up answers its share, each other one replays it; what is measured is kept in shards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from retally.errors import BadRequest
from retally.protocol.margins import Replayed, ReplayScores, robust_margins
from retally_verifier.calibrate.canaries import Answer, Canaries, Job, lies_for
from retally_verifier.calibrate.setups import SetUp
from retally_verifier.calibrate.shards import Replay, Shards
from retally_verifier.calibration_bounds import Margins

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[str], None]

CHUNK = 16
#: Two implementations of one model differ by less, in nats, on all but few tokens.
NOISE, MOST_OFF = 0.6, 0.01


@dataclass(frozen=True, slots=True)
class Measured:
    """The margins of one kind of sampling, by pair of set-ups and by cheat."""

    honest: Mapping[str, list[Margins]]
    cheats: Mapping[str, list[Margins]]
    #: The seeds of each pair's jobs, by which they are divided; and those of the jobs that every cheat was asked for.
    seeds: Mapping[str, Sequence[bytes]]
    cheat_seeds: Sequence[bytes]
    #: The largest difference of log-probabilities in each honest job, nats; none where a set-up does not say.
    noise: Mapping[str, list[float | None]]


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
        seeds: dict[str, Sequence[bytes]] = {}
        noise: dict[str, list[float | None]] = {}
        for index, node in enumerate(answering):
            mine = jobs[index :: len(answering)]
            for verifier in self._setups:
                if verifier is not node:
                    pair = f"{node.name} by {verifier.name}"
                    replays = await self._pair(mode, node, verifier, mine)
                    honest[pair], noise[pair] = [r.margins for r in replays], [r.noise for r in replays]
                    seeds[pair] = [job.seed for job in mine]
        asked = self._canaries.jobs(cheat_count, tokens, greedy=greedy, name=f"cheat {mode}")
        cheats = await self._cheats(mode, answering[0], asked, cheaper)
        return Measured(honest, cheats, seeds, [job.seed for job in asked], noise)

    async def _pair(self, mode: str, node: SetUp, verifier: SetUp, jobs: Sequence[Job]) -> list[Replay]:
        found: list[Replay] = []
        for first in range(0, len(jobs), CHUNK):
            part = jobs[first : first + CHUNK]
            self._say(f"{mode}: {node.name} by {verifier.name}, {first + len(part)} of {len(jobs)} jobs")
            answers = await self._answers(node, part, part)
            found += await self._replays(verifier, part, answers)
            _check_same_model(node.name, verifier.name, [replay.margins for replay in found])
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
                found[name] += [replay.margins for replay in await self._replays(honest, asked, answers)]
        return found

    async def _answers(self, node: SetUp, jobs: Sequence[Job], served: Sequence[Job]) -> list[Answer]:
        determined = [self._identities[node.name], node.at_once, [job.to_json() for job in served]]
        name = self._shards.name("answers", determined)
        if not self._shards.has(name):
            self._shards.put_answers(name, await each(served, node.answer, node.at_once))
        return self._shards.answers(name)

    async def _replays(self, verifier: SetUp, jobs: Sequence[Job], answers: Sequence[Answer]) -> list[Replay]:
        claimed = [[answer.ids, answer.logprobs] for answer in answers]
        determined = [self._identities[verifier.name], verifier.at_once, [job.to_json() for job in jobs], claimed]
        name = self._shards.name("replays", determined)
        if not self._shards.has(name):
            pairs = list(zip(jobs, answers, strict=True))
            scores = await each(pairs, lambda pair: verifier.score(pair[0], pair[1].ids), verifier.at_once)
            eos = self._canaries.eos_ids
            made = [_replay(job, answer, rows, eos) for (job, answer), rows in zip(pairs, scores, strict=True)]
            self._shards.put_replays(name, made)
        return self._shards.replays(name)


def _replay(job: Job, answer: Answer, scores: ReplayScores, eos_ids: Sequence[int]) -> Replay:
    margins = robust_margins(Replayed(job.params, job.seed, job.prompt_ids, (), answer.ids, eos_ids), scores)
    if answer.logprobs is None:
        return Replay(margins, None)
    # Where a claimed token is not among the likeliest, its logprob there is not known.
    at = scores.top_ids == np.asarray(answer.ids)[:, None]
    known = at.any(axis=1)
    said = np.where(at, scores.top_logprobs, 0.0).sum(axis=1, dtype=np.float64)
    apart = np.abs(said - np.asarray(answer.logprobs, dtype=np.float64))[known]
    return Replay(margins, float(apart.max(initial=0.0)))


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

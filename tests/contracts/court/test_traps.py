"""Traps for verifiers that say match without looking, and duties that lapse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from eth_abi.abi import encode

from retally.protocol import merkle
from retally.protocol.audit_points import AuditPoint
from retally.protocol.encoding import keccak
from retally.protocol.job import canonical_json, params_hash
from tests.contracts.court.ledger import DAY, VERIFIER
from tests.contracts.court.proofs import output_leaf
from tests.contracts.court.test_audits import commitment, drawn_verifier, verdicts_of
from tests.contracts.court.transcripts import Job, Tree
from tests.contracts.court.world import BOND, SALT, Commit, World

SECRET = keccak(b"trap")
TOKENS = 4_096
NO_BIAS = b',"logitBias":{},'


def planted_ids(secret: bytes, tokens: int = TOKENS) -> tuple[int, ...]:
    """32 tokens that follow from a secret alone."""
    return tuple(
        int.from_bytes(keccak(encode(["bytes32", "uint256"], [secret, i]))[-4:], "big") % tokens for i in range(32)
    )


def planted_job(job: Job) -> Job:
    """A job whose second 32 tokens no model gave."""
    ids = (*job.output_ids[:32], *planted_ids(SECRET), *job.output_ids[64:])
    return replace(job, output_ids=ids).changed(output_root=merkle.output_root(0, ids, job.output_q))


@dataclass
class Trapped:
    """A commit that holds a planted job, and verdicts that were revealed on it."""

    world: World
    commit: Commit
    job: Job
    verifier: str
    verdicts: bytes
    points: list[AuditPoint]

    @property
    def params(self) -> bytes:
        """The preimage of the receipt's paramsHash."""
        return canonical_json(self.job.params.to_json())

    @property
    def point(self) -> AuditPoint:
        """A drawn point that the planted job covers."""
        receipt = self.job.receipt
        return next(point for point in self.points if receipt.cum_from <= point.point < receipt.cum_to)

    def call(self, **changes: Any) -> Any:
        """Spring the trap, with some fields changed."""
        place = self.commit.tree.jobs.index(self.job)
        values = {
            "leaf": self.commit.tree.shown(place),
            "count": len(self.commit.tree.jobs),
            "range": self.point.range_index,
            "k": self.point.k,
            "index": 1,
            "output": output_leaf(0, self.job.output_ids, self.job.output_q, 1),
            "verdicts": self.verdicts,
            "salt": SALT,
            "secret": SECRET,
            "tokens": TOKENS,
            "params": self.params,
            "offset": self.params.find(NO_BIAS),
        } | changes
        audits = self.world.ledger.audits.functions
        return audits.springTrap(self.commit.abi, self.commit.packed, tuple(values.values()))

    def reverts(self, error: str, **changes: Any) -> tuple[Any, ...]:
        """A trap that does not spring."""
        return self.world.ledger.reverts(error, self.call(**changes), self.world.outsider)


def plant(world: World, planter: str | None = None) -> bytes:
    """Hash the trap beforehand."""
    planter = planter or world.outsider
    hash_ = keccak(encode(["address", "bytes32"], [planter, SECRET]))
    world.ledger.send(world.ledger.audits.functions.plantTrap(hash_), planter)
    return hash_


def reveal(world: World, commit: Commit, verdicts: bytes) -> str:
    """Let the drawn verifier say something."""
    verifier, audits = drawn_verifier(world, commit), world.ledger.audits.functions
    world.ledger.send(audits.commitVerdicts(commit.record.id, commitment(commit, verifier, verdicts)), verifier)
    world.ledger.send(audits.revealVerdicts(commit.abi, commit.packed, verdicts, SALT), verifier)
    return verifier


def trapped(
    world: World, verdict: int = 1, change: Callable[[Job], Job] = lambda job: job, prompt: int = 16
) -> Trapped:
    """A commit with a planted job of a whole step of money among honest ones, judged by one word."""
    jobs = world.jobs(3, prompt_tokens=prompt)
    step = 1_000
    dear = change(planted_job(jobs[1])).changed(cum_to=jobs[1].receipt.cum_from + 2 * step)
    last = jobs[2].changed(cum_from=dear.receipt.cum_to, cum_to=dear.receipt.cum_to + 3 * step)
    commit = world.collect(Tree.of([jobs[0], dear, last]))
    assert commit.record.step == step
    world.fix_seed(commit)
    drawn = world.points(commit)
    verdicts = verdicts_of(len(drawn), verdict)
    return Trapped(world, commit, dear, reveal(world, commit, verdicts), verdicts, drawn)


def _covers(job: Job, point: AuditPoint) -> bool:
    return job.receipt.cum_from <= point.point < job.receipt.cum_to


class TestTraps:
    def test_slash_who_says_match_of_what_no_model_gave(self, world: World) -> None:
        hash_ = plant(world)
        sprung = trapped(world)
        ledger = world.ledger
        event = ledger.send(sprung.call(), world.outsider).event("TrapSprung")
        assert (event["verifier"], event["hash"], event["slashed"]) == (sprung.verifier, hash_, BOND // 100)
        assert ledger.staking.functions.slashable(sprung.verifier, VERIFIER).call() == BOND * 99 // 100
        assert ledger.staking.functions.credit(world.outsider).call() > 0
        assert sprung.reverts("TrapsAlreadySprung") == (sprung.commit.record.id,)
        world.supply()

    @pytest.mark.parametrize("verdict", [2, 3])
    def test_spare_who_looked(self, world: World, verdict: int) -> None:
        plant(world)
        assert trapped(world, verdict).reverts("TrapsVerdictRight") == (verdict,)

    def test_must_be_planted_before_the_commit_by_whoever_springs_them(self, world: World) -> None:
        sprung = trapped(world)
        assert sprung.reverts("TrapsNotPlanted")[1] == 0
        hash_ = plant(world)
        assert sprung.reverts("TrapsNotPlanted")[1] == world.ledger.audits.functions.plantedAt(hash_).call() > 0
        call = world.ledger.audits.functions.plantTrap(hash_)
        assert world.ledger.reverts("TrapsAlreadyPlanted", call, world.outsider) == (hash_,)

    def test_no_honest_answer_is_one(self, world: World) -> None:
        plant(world)
        sprung = trapped(world)
        honest = output_leaf(0, sprung.job.output_ids, sprung.job.output_q, 0)
        sprung.reverts("TrapsNoTrap", index=0, output=honest)
        sprung.reverts("TrapsNoTrap", index=0)
        sprung.reverts("TrapsNoTrap", tokens=1_023)
        sprung.reverts("TrapsNoTrap", tokens=TOKENS + 1)
        short = output_leaf(0, sprung.job.output_ids[:40], sprung.job.output_q[:40], 1)
        sprung.reverts("TrapsNoTrap", output=short)

    def test_are_shown_in_the_verdicts_and_receipts_that_were_given(self, world: World) -> None:
        plant(world)
        sprung = trapped(world)
        sprung.reverts("TrapsNoSuchVerdicts", salt=SECRET)
        sprung.reverts("TrapsNoSuchVerdicts", verdicts=verdicts_of(len(sprung.points), 2))
        sprung.reverts("TrapsWrongReceipt", count=7)
        sprung.reverts("TrapsWrongReceipt", k=sprung.point.k + 50)
        other = next(point for point in sprung.points if not _covers(sprung.job, point))
        sprung.reverts("TrapsWrongReceipt", k=other.k)
        sprung.reverts("RangeOutOfBounds", range=1)


class TestDictated:
    """What an honest node gives because somebody asked for it is no trap, though the tokens are those of the secret."""

    def test_a_model_that_copies_its_prompt_is_none(self, world: World) -> None:
        plant(world)
        assert len(trapped(world, prompt=17).reverts("TrapsDictated")) == 1

    def test_a_model_whose_ids_were_biased_is_none(self, world: World) -> None:
        plant(world)
        bias = tuple(sorted((token, 100_000_000) for token in set(planted_ids(SECRET))))
        sprung = trapped(world, change=with_params(logit_bias=bias))
        assert NO_BIAS not in sprung.params
        place = sprung.params.index(b',"logitBias":{')
        for offset in (place, 0, len(sprung.params) - 16, len(sprung.params), 2**256 - 1):
            sprung.reverts("TrapsDictated", offset=offset)
        unbiased = canonical_json(world.job().params.to_json())
        sprung.reverts("TrapsDictated", params=unbiased, offset=unbiased.index(NO_BIAS))
        sprung.reverts("TrapsDictated", params=b"", offset=0)

    def test_a_stop_string_says_nothing_about_the_bias(self, world: World) -> None:
        plant(world)
        words = NO_BIAS.decode()
        sprung = trapped(world, change=with_params(logit_bias=((5, 1),), stop=(words, f'x"{words}"', f'\\"{words}')))
        for offset in range(len(sprung.params)):
            assert sprung.params[offset : offset + 16] != NO_BIAS
        sprung.reverts("TrapsDictated", offset=sprung.params.index(b"logitBias\\") - 2)

    def test_the_end_of_another_answer_is_none(self, world: World) -> None:
        plant(world)
        for fields in ({"output_from": 32, "output_to": 160}, {"prefix_root": merkle.ids_root((1,))}):
            with world.ledger.reverted():
                sprung = trapped(world, change=changing(**fields))
                sprung.reverts("TrapsDictated")


def with_params(**fields: Any) -> Callable[[Job], Job]:
    """The same job asked for with other params."""

    def change(job: Job) -> Job:
        params = replace(job.params, **fields)
        return replace(job, params=params).changed(params_hash=params_hash(params))

    return change


def changing(**fields: Any) -> Callable[[Job], Job]:
    """The same job with another receipt."""
    return lambda job: job.changed(**fields)


class TestLapsedDuty:
    def test_costs_who_committed_and_did_not_reveal(self, world: World) -> None:
        ledger = world.ledger
        commit = world.committed(4)
        drawn = drawn_verifier(world, commit)
        (other,) = set(world.verifiers) - {drawn}
        call = ledger.audits.functions.commitVerdicts(commit.record.id, SALT)
        ledger.send(call, drawn)
        ledger.jump(DAY + 1)
        event = ledger.send(call, other).event("DutyMissed")
        assert (event["verifier"], event["slashed"]) == (drawn, BOND // 100)
        assert int(drawn_verifier(world, commit), 16) == 0
        ledger.jump(DAY + 1)
        assert ledger.send(call, other).event("DutyMissed")["verifier"] == other
        slashable = ledger.staking.functions.slashable
        assert slashable(drawn, VERIFIER).call() == slashable(other, VERIFIER).call() == BOND * 99 // 100
        world.supply()

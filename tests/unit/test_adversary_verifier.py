"""The dishonest verifiers tell their one lie and are the real service in all else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tests.adversaries.cheating_verifier import LazyAuditor, lazy

from retally.chain.connection import Chain
from retally.protocol.case import CommitRecord, Range, VerdictKind
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import keccak
from retally_verifier.audit_commit import CommitAuditor
from retally_verifier.bootstrap import Verifier, server_of
from retally_verifier.loops import Loops
from retally_verifier.records import CommitState
from retally_verifier.settings import VerifierSettings
from retally_verifier.store import Store

OWNER, NODE, PAYER = (SigningKey(keccak(name)).address for name in (b"owner", b"node", b"payer"))
POINTS = 5
ITEM = Range(PAYER, PAYER, 0, 0, 1_000 * POINTS)
COMMIT = CommitRecord(7, NODE, OWNER, keccak(b"root"), keccak(ITEM.pack()), 1_000, 300_000, 12, 5_000)


class Unasked:
    """Work that nobody may ask for."""

    def judged(self, *_: object) -> None:
        raise AssertionError("the lazy verifier looked")


async def test_a_lazy_one_says_match_of_each_point_and_asks_nobody(tmp_path: Path) -> None:
    store, loops = Store(tmp_path / "verifier.sqlite"), Loops(1.0)
    store.add_commit(COMMIT, ITEM.pack())
    store.set_seed(COMMIT.id, keccak(b"seed"))
    chain = SimpleNamespace(domain=Domain(31337, PAYER), clock=SimpleNamespace(now=lambda: 6_000))
    honest = CommitAuditor(cast(Chain, chain), cast(Any, None), store, cast(Any, Unasked()), 0.0)
    loops.add("audit", honest.step)
    settings = VerifierSettings.load(Path(__file__).parents[2] / "verifier" / "examples" / "minimal.toml")
    verifier = Verifier(settings, SigningKey(keccak(b"key")), store, loops, cast(Any, None), cast(Any, chain.clock))
    lazy(verifier)
    assert server_of(verifier).config.port == settings.port
    await loops.run_once()
    assert loops.problems() == {}
    found = store.findings_of_commit(COMMIT.id)
    assert [each.verdict for each in found] == [VerdictKind.MATCH] * POINTS
    assert store.commits(CommitState.AUDITED)
    assert isinstance(loops._steps[0][1].__self__, LazyAuditor)  # type: ignore[attr-defined]  # a step is a bound method
    store.close()

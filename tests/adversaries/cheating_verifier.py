"""The real verifier around one lie: `cheating_verifier.py --lie lazy|accuse --config FILE [--victim OWNER]`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from retally.protocol.case import VerdictKind
from retally.protocol.encoding import Address
from retally_verifier.audit_commit import CommitAuditor, _place
from retally_verifier.bootstrap import Verifier, open_verifier, server_of
from retally_verifier.open_case import CaseOpener
from retally_verifier.records import CommitState, Finding, FindingState
from retally_verifier.settings import VerifierSettings

#: What a false accuser says the evidence weighs.
LOUD = 100.0
#: Jobs that it shows at most, and half of them at least: the worst-looking ones.
SHOWN = 4


class LazyAuditor(CommitAuditor):
    """Says match of every point without asking anybody for anything."""

    async def step(self) -> None:
        for commit in self._store.commits(CommitState.SEEN):
            await self._fix_seed(commit)
        for commit in self._store.commits(CommitState.SEEDED):
            for task in self._open_tasks(commit):
                place, said = _place(task.context), {"lazy": True}
                self._store.put_finding(
                    Finding(**place, state=FindingState.REPLAYED, verdict=VerdictKind.MATCH, log_e=-1.0, detail=said)
                )
            self._close(commit)


class FalseAccuser(CaseOpener):
    """Takes one owner to court with the jobs that look worst, whatever they weigh."""

    victim: Address

    def wealth_of(self, owner: Address, now: int) -> tuple[float, list[Finding]]:
        wealth, shown = super().wealth_of(owner, now)
        if owner != self.victim:
            return wealth, shown
        found = [each for each in self._store.findings_of_owner(owner, 0) if each.answer and each.receipt_digest]
        by_receipt = {each.receipt_digest: each for each in found}
        worst = sorted(by_receipt.values(), key=lambda each: -each.log_e)[:SHOWN]
        return (LOUD, worst) if len(worst) >= SHOWN // 2 else (0.0, [])


def lazy(verifier: Verifier) -> None:
    """Exchange the step that looks."""
    steps = dict(verifier.loops._steps)
    honest = steps["audit"].__self__  # type: ignore[attr-defined]  # a step is a bound method
    auditor = object.__new__(LazyAuditor)
    auditor.__dict__.update(vars(honest))
    _exchange(verifier, "audit", auditor)


def accuse(verifier: Verifier, victim: Address) -> None:
    """Exchange the step that goes to court."""
    opener = object.__new__(FalseAccuser)
    opener.__dict__.update(vars(verifier.cases))
    opener.victim = victim
    _exchange(verifier, "cases", opener)


def _exchange(verifier: Verifier, name: str, part: CommitAuditor | CaseOpener) -> None:
    steps = verifier.loops._steps
    steps[[known for known, _ in steps].index(name)] = (name, part.step)


async def serve(settings: VerifierSettings, lie: str, victim: Address | None) -> None:
    """Run as the verifier does, with the lie in its place before its loops turn."""
    async with open_verifier(settings) as verifier:
        if lie == "lazy":
            lazy(verifier)
        else:
            assert victim is not None
            accuse(verifier, victim)
        verifier.loops.start()
        await server_of(verifier).serve()


def main() -> None:
    """Verify and lie."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--lie", choices=("lazy", "accuse"), required=True)
    parser.add_argument("--victim", type=Address, default=None, help="whom a false accuser accuses")
    options = parser.parse_args()
    settings = VerifierSettings.load(options.config)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    asyncio.run(serve(settings, options.lie, options.victim))


if __name__ == "__main__":
    main()

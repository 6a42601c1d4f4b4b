"""A verifier on a real chain that is killed at a named point; each point runs in a fork of its own.

`python -m tests.contracts.court.crash_verifier FOLDER POINT…` kills a verifier at each point, lets a second one finish
on the same folder, and writes FOLDER/POINT/outcome.json: what the chain, the nodes and the books hold then.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from retally.chain.calibrations import Calibrations
from retally.chain.connection import Chain
from retally.chain.contract import ContractCall
from retally.chain.court import CaseStatus, vote_hash
from retally.chain.credits import credit_of
from retally.chain.events import EventReader
from retally.chain.staking import Role
from retally.chain.transactions import TxSender
from retally.crash_points import arm, crash_point
from retally.protocol.case import VerdictKind
from retally.protocol.encoding import to_hex
from retally_verifier.audit_commit import CommitAuditor
from retally_verifier.challenge_silence import SilenceChallenger
from retally_verifier.collect_pay import PayCollector
from retally_verifier.drift_guard import DriftGuard
from retally_verifier.fetch_answer import AnswerFetcher
from retally_verifier.judge_point import PointJudge
from retally_verifier.loops import Loops
from retally_verifier.open_case import CaseOpener
from retally_verifier.point_work import LocalWork
from retally_verifier.records import CommitState
from retally_verifier.replay import Replayer
from retally_verifier.report_verdicts import VerdictReporter
from retally_verifier.store import Store
from retally_verifier.watch_chain import ChainWatch
from tests.contracts.court.crash_ground import CONFIRMATIONS, KEY, Ground, prepare
from tests.contracts.court.crash_nodes import FakeFormat, FakeNodes, sent_to
from tests.contracts.court.ledger import DAY, start_anvil
from tests.contracts.court.transcripts import MODEL
from tests.contracts.court.world import SALT

log = logging.getLogger(__name__)

ROUNDS = 60


def folder_of(base: Path, point: str) -> Path:
    """Where a point's verifier lives."""
    return base / point.replace(":", "-")


def new_folder(base: Path, point: str) -> Path:
    """It, made."""
    folder = folder_of(base, point)
    folder.mkdir(parents=True)
    return folder


class Run:
    """One life of the verifier, with the parties around it."""

    def __init__(self, ground: Ground, chain: Chain, folder: Path) -> None:
        self.ground = ground
        self.chain = chain
        self.store = Store(folder / "verifier.sqlite")
        self.loops = Loops(0)
        self.problems: list[str] = []
        sender = TxSender(chain, KEY, folder / "pending.json")
        nodes = FakeNodes(folder, chain.domain, ground.node_keys, ground.answers, chain.clock.now())
        found = Calibrations(chain.registry)
        replayer = Replayer(
            self.store, nodes, chain.registry, found, KEY, chain.domain, chain.clock, lane=0, replayers=2
        )
        fetcher = AnswerFetcher(self.store, nodes, KEY, chain.clock)
        formats = {MODEL: FakeFormat()}
        self.loops.add("watch", ChainWatch(chain, self.store, CONFIRMATIONS).step)
        work = LocalWork(PointJudge(chain.domain, fetcher, replayer, formats), 8)
        self.loops.add("audit", CommitAuditor(chain, sender, self.store, work, 0).step)
        self.loops.add("drift", DriftGuard(chain, self.store).step)
        self.loops.add("report", VerdictReporter(chain, sender, self.store).step)
        self.loops.add("silence", SilenceChallenger(chain, sender, self.store).step)
        self.loops.add("cases", CaseOpener(chain, sender, self.store, "http://verifier").step)
        self.loops.add("pay", PayCollector(chain, sender, 0).step)

    async def live(self) -> None:
        """Rounds of the verifier until nothing is left to do; whenever it waits, the others act and time passes."""
        for _ in range(ROUNDS):
            before = await self.chain.block_number()
            await self.loops.run_once()
            self.problems.extend(f"{name}: {text}" for name, text in self.loops.problems().items())
            await self._vote()
            if await self.chain.block_number() > before:
                continue
            if await self._is_over():
                return
            await self._refill()
            await self._pass_time()
        states = {state: len(self.store.commits(state)) for state in CommitState}
        raise AssertionError(f"not over: {states}, {self.store.cases()}, {self.store.challenges()}, {self.problems}")

    async def _is_over(self) -> bool:
        open_commits = self.store.commits(*(set(CommitState) - {CommitState.DONE}))
        done = len(self.store.commits(CommitState.DONE)) == len(self.ground.answers) + 1 and not open_commits
        cases, challenges = self.store.cases(), self.store.challenges()
        closed = all(case.closed for case in cases) and all(each.closed for each in challenges)
        waiting = await self.chain.escrow.audit_pool() and await self.chain.audits.owed_to(KEY.address)
        return bool(cases and challenges) and closed and done and not waiting

    async def _pass_time(self) -> None:
        block = await self.chain.rpc.request("eth_getBlockByNumber", "latest", False)
        await self.chain.rpc.request("evm_setNextBlockTimestamp", int(block["timestamp"], 16) + 2 * DAY + 60)
        await self.chain.rpc.request("anvil_mine", hex(2 * CONFIRMATIONS))
        await self.chain.clock.refresh()

    async def _refill(self) -> None:
        """Another commit, once the rest is done: its share goes to the pool that could not pay the verifier."""
        if len(self.store.commits(CommitState.DONE)) == len(self.ground.answers):
            await self._send(self.ground.refill_sender, self.ground.refill)

    async def _vote(self) -> None:
        court = self.chain.court
        for case_id in range(1, await court.case_count() + 1):
            case = await court.case_of(case_id)
            if case.status != CaseStatus.VOTING:
                continue
            block = await self.chain.rpc.request("eth_getBlockByNumber", "latest", False)
            reveals = int(block["timestamp"], 16) > (await court.round_of(case_id, case.round)).commit_end
            for seat, juror in enumerate(await court.jurors_of(case_id, case.round)):
                vote, verdict = await court.vote_of(case_id, case.round, seat), VerdictKind.MISMATCH
                if vote.verdict:
                    continue
                if reveals:
                    await self._send(juror, court.reveal_vote(case_id, case.round, seat, verdict, 0, SALT))
                elif not any(vote.hash):
                    hash_ = vote_hash(case_id, case.round, juror, verdict, 0, SALT)
                    await self._send(juror, court.commit_vote(case_id, case.round, seat, hash_))

    async def _send(self, sender: str, call: ContractCall) -> None:
        transaction = {"from": sender, "to": call.to, "data": to_hex(call.data), "gas": hex(16_000_000)}
        await self.chain.rpc.request("eth_sendTransaction", {**transaction, "gasPrice": "0x0"})

    async def outcome(self, hashes: Sequence[str]) -> dict[str, Any]:
        """What the chain and the books hold."""
        chain = self.chain
        events = await EventReader(chain).read(0, await chain.block_number())
        counts: Counter[str] = Counter()
        for event in events:
            who = event.args.get("challenger") or event.args.get("verifier")
            place = event.args.get("commitId") or event.args.get("owner")
            if who == KEY.address:
                counts[f"{event.name} {place} {event.args.get('point', '')}"] += 1
        stake = await chain.staking.stake_of(KEY.address, Role.VERIFIER)
        mined = [await chain.rpc.request("eth_getTransactionReceipt", each) for each in hashes]
        return {
            "counts": counts,
            "balance": await chain.asset.balance_of(KEY.address),
            "stake": stake.bonded,
            "credit": await credit_of(chain, KEY.address),
            "owed": await chain.audits.owed_to(KEY.address),
            "pool": await chain.escrow.audit_pool(),
            "lanes": {each.address: self.store.lane(each.address) for each in self.ground.node_keys},
            "resent": [tx is not None and int(tx["status"], 16) == 1 for tx in mined],
            "problems": self.problems,
        }


def sites_reached(reached: dict[str, str]) -> Callable[[FrameType, str, Any], None]:
    """Notes each crash point that is passed, and where in the code it stands."""

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is crash_point.__code__ and frame.f_back is not None:
            caller = frame.f_back
            reached[frame.f_locals["name"]] = f"{caller.f_code.co_filename}:{caller.f_lineno}"

    return note


async def doomed(ground: Ground, folder: Path) -> None:
    """The life that is to be cut short."""
    async with Chain(ground.url, ground.deployment) as chain:
        await Run(ground, chain, folder).live()


async def survivor(ground: Ground, folder: Path) -> None:
    """The life after it; says how all ended."""
    pending = folder / "pending.json"
    hashes = json.loads(pending.read_text())["hashes"] if pending.exists() else []
    books = Store(folder / "verifier.sqlite")
    left = {each.address: books.lane(each.address) for each in ground.node_keys}
    books.close()
    sent = len(sent_to(folder))
    reached: dict[str, str] = {}
    if folder.name == "none":
        sys.setprofile(sites_reached(reached))
    async with Chain(ground.url, ground.deployment) as chain:
        run = Run(ground, chain, folder)
        await run.live()
        sys.setprofile(None)
        outcome = await run.outcome(hashes)
        run.store.close()
    outcome |= {"left": left, "sent": sent, "reached": reached}
    (folder / "outcome.json").write_text(json.dumps(outcome))


def fork(life: Coroutine[Any, Any, None], point: str | None) -> int:
    """A process that lives one life."""
    child = os.fork()
    if child:
        life.close()
        return child
    if point is not None:
        arm(point)
    try:
        asyncio.run(life)
        if (point or "").startswith("random"):
            time.sleep(60)
        os._exit(0)
    except Exception:
        log.exception("the verifier of %s", point)
        os._exit(1)


def main() -> None:
    """Says of each point how its verifier ended, and how the one after it."""
    process, url = start_anvil()
    try:
        world, ground = prepare(url)
        base = Path(sys.argv[1])
        # Unhurt, and in this very process: what it loads and caches need not be loaded after every fork.
        with world.ledger.reverted():
            asyncio.run(survivor(ground, new_folder(base, "none")))
            world.supply()
        gc.freeze()
        for point in sys.argv[2:]:
            folder = new_folder(base, point)
            with world.ledger.reverted():
                ended = killed(ground, folder, point)
                _, finished = os.waitpid(fork(survivor(ground, folder), None), 0)
                world.supply()
            print(json.dumps([point, ended, os.waitstatus_to_exitcode(finished)]), flush=True)
    finally:
        process.terminate()
        process.wait(timeout=10)


def killed(ground: Ground, folder: Path, point: str) -> int:
    """How the doomed verifier ended: the signal, or zero."""
    child = fork(doomed(ground, folder), point)
    if point.startswith("random"):
        time.sleep(random.Random(point).uniform(0.05, 0.8))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


if __name__ == "__main__":
    main()

"""A payer doubts an answer: it replays the job itself, has others replay it for money, and goes to court."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.terminal import Terminal

from demo_cheats import cheating_node
from retally import Client, Wallet, result_of
from retally.chain.connection import Chain
from retally.chain.court import CaseStatus
from retally.chain.deployment import Deployment
from retally.devnet.network import Network, RunningNode
from retally.devnet.options import NetworkOptions, NodeSpec

QUESTION = "What does a list comprehension do?"
TOKENS = 160
APPEAL_DAYS = 2
DAY = 86_400
WAIT_SECONDS = 60
#: Exit codes of a verdict.
MATCH, MISMATCH = 0, 6

LIAR = (str(Path(__file__).parents[1] / "adversaries" / "cheating_node.py"),)
LIES = ("inflated-counts", "swapped-receipts")

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory, engine_url: str) -> Iterator[Network]:
    """Three honest nodes, who are a jury, one that samples colder than it signs, and two that lie in their books."""
    honest = [NodeSpec(name=f"node{n}") for n in (1, 2, 3)]
    liars = (NodeSpec(name=name, program=LIAR, arguments=("--cheat", name)) for name in LIES)
    nodes = (*honest, cheating_node("node4", "sampler"), *liars)
    home = tmp_path_factory.mktemp("own-job")
    options = NetworkOptions(home=home, engine_urls={"honest": engine_url}, nodes=nodes, verifier=False)
    network = Network(options)
    with asyncio.Runner() as runner:
        runner.run(network.start())
        yield network
        runner.run(network.stop())


@pytest.fixture(scope="module")
def terminal(market: Network, tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    made = Terminal(market, tmp_path_factory.mktemp("payer"))
    made.json("wallet", "create")
    made.json("faucet", "500")
    made.json("deposit", "200")
    return made


def ask(terminal: Terminal, node: RunningNode) -> str:
    """A job of one node, kept in the payer's history."""
    network = terminal.network
    wallet = Wallet.open(terminal.home, "secret", Deployment.load(network.deployment_path).domain)
    with Client(base_url=network.router_url, wallet=wallet, home=terminal.home, history=True) as client:
        answer = client.chat.completions.create(
            model=network.model,
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=TOKENS,
            seed=7,
            extra_body={"provider": {"order": [node.address]}},
        )
    wallet.close()
    assert result_of(answer).node == node.address
    return str(result_of(answer).job_id)


@pytest.fixture(scope="module")
def honest_job(terminal: Terminal) -> str:
    return ask(terminal, terminal.network.nodes[0])


@pytest.fixture(scope="module")
def cheated_job(terminal: Terminal) -> str:
    return ask(terminal, terminal.network.nodes[3])


class TestVerify:
    def test_an_honest_job_matches_token_by_token(self, terminal: Terminal, honest_job: str, engine_url: str) -> None:
        words = ("verify", honest_job, "--ask", QUESTION, "--engine-url", engine_url)
        found = terminal.json(*words, code=MATCH)
        assert (found["verdict"], found["brokenRules"]) == ("match", [])
        assert set(found["checks"].values()) == {True}
        [receipt] = found["receipts"]
        [replay] = receipt["replays"]
        job = terminal.json("receipt", honest_job)
        assert [token["claimedId"] for token in replay["tokens"]] == job["ids"]["0"]
        assert replay["tokens"][-1]["logE"] == receipt["logE"] < 0
        assert "match: e = " in terminal.run(*words, code=MATCH)

    def test_other_owners_replay_it_for_money(self, terminal: Terminal, honest_job: str) -> None:
        second, third = terminal.network.nodes[1:3]
        words = ("verify", honest_job, "--ask", QUESTION, "--node", second.url, "--node", third.address)
        [receipt] = terminal.json(*words, code=MATCH)["receipts"]
        assert [replay["by"] for replay in receipt["replays"]] == [f"node {n.address}" for n in (second, third)]
        assert receipt["logE"] == min(replay["logE"] for replay in receipt["replays"])

    def test_its_own_owner_may_not(self, terminal: Terminal, honest_job: str) -> None:
        url = terminal.network.nodes[0].url
        refused = terminal.json("verify", honest_job, "--ask", QUESTION, "--node", url, code=2)["error"]
        assert "belongs to whom it would judge" in refused["message"]

    def test_a_cheated_job_is_a_mismatch(self, terminal: Terminal, cheated_job: str, engine_url: str) -> None:
        words = ("verify", cheated_job, "--ask", QUESTION, "--engine-url", engine_url)
        found = terminal.json(*words, code=MISMATCH)
        assert found["verdict"] == "mismatch"
        # Nothing that it signed contradicts itself: only the replay shows it.
        assert found["brokenRules"] == []
        assert "mismatch" in terminal.run(*words, code=MISMATCH)


class TestReexecute:
    def test_is_not_for_a_job_that_was_not_collected(self, terminal: Terminal, honest_job: str) -> None:
        refused = terminal.json("reexecute", honest_job, "--ask", QUESTION, "--yes", code=1)["error"]
        assert refused["code"] == "not_collected"

    def test_is_paid_for_only_when_told_to(self, terminal: Terminal, honest_job: str) -> None:
        asyncio.run(terminal.network.settle_all())
        before = terminal.json("balance")["wallet"]
        refused = terminal.json("reexecute", honest_job, "--ask", QUESTION, code=2)["error"]
        assert "33.50 rUSD" in refused["message"]
        assert "--yes" in refused["hint"]
        assert terminal.json("balance")["wallet"] == before

    def test_a_jury_gives_the_money_back(self, terminal: Terminal, cheated_job: str) -> None:
        network = terminal.network
        fee = int(terminal.json("receipt", cheated_job)["cost"])
        before = int(terminal.json("balance")["wallet"])
        process = started(terminal, cheated_job)
        asyncio.run(decided(network))
        asyncio.run(network.jump(APPEAL_DAYS * DAY + 60))
        printed, complaints = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == MISMATCH, complaints
        end: dict[str, Any] = json.loads(printed)
        case_fee = 30_000_000
        assert (end["verdict"], int(end["refunded"])) == ("mismatch", fee + case_fee)
        terminal.json("withdraw")
        # Nobody else took a step, so every tip came back too.
        assert int(terminal.json("balance")["wallet"]) == before + fee
        # Asked again it tells the end and opens nothing.
        again = terminal.json("reexecute", cheated_job, "--ask", QUESTION, code=MISMATCH)
        assert again["caseId"] == end["caseId"]


class TestClaim:
    """What a node's own signatures prove needs no jury."""

    def test_an_honest_job_proves_nothing(self, terminal: Terminal, honest_job: str) -> None:
        asyncio.run(terminal.network.settle_all())
        assert terminal.json("claim", honest_job, "--ask", QUESTION, "--yes") == {"faults": []}

    def test_tokens_that_no_tree_holds_are_slashed_and_paid_back(self, terminal: Terminal) -> None:
        liar = terminal.network.nodes[4]
        job = ask(terminal, liar)
        asyncio.run(terminal.network.settle_all())
        # Nothing is sent before somebody agrees.
        [fault] = terminal.json("claim", job, "--ask", QUESTION)["faults"]
        assert (fault["name"], fault["node"], fault["proven"]) == ("miscount", liar.address, False)
        # The command dies once the fault is proven; run again, it has it punished.
        command = [sys.executable, "-m", "retally", "claim", job, "--ask", QUESTION, "--yes", "--json"]
        dying = {**os.environ, **terminal.environment, "RETALLY_CRASH_AT": "before:tx:store:Faults.punish"}
        assert subprocess.run(command, env=dying, capture_output=True, check=False).returncode == -signal.SIGKILL
        [fault] = terminal.json("claim", job, "--ask", QUESTION, "--yes")["faults"]
        assert fault["proven"] is True
        assert int(fault["refunded"]) == int(terminal.json("receipt", job)["cost"]) > 0
        assert int(fault["slashed"]) > 0
        # Once.
        [again] = terminal.json("claim", job, "--ask", QUESTION, "--yes")["faults"]
        assert again["proven"] is False
        assert "AlreadyProven" in again["refused"]

    def test_another_receipt_under_the_commit_is_found_without_the_model(self, terminal: Terminal) -> None:
        job = ask(terminal, terminal.network.nodes[5])
        asyncio.run(terminal.network.settle_all())
        faults = terminal.json("claim", job, "--yes")["faults"]
        assert [fault["name"] for fault in faults] == ["double_money", "conflict"]
        assert faults[0]["proven"] is True
        assert int(faults[0]["slashed"]) > 0


def started(terminal: Terminal, job: str) -> subprocess.Popen[str]:
    """The command in a process of its own, as it waits while others act."""
    command = [sys.executable, "-m", "retally", "reexecute", job, "--ask", QUESTION, "--port", "0", "--yes", "--json"]
    environment = {**os.environ, **terminal.environment}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def decided(network: Network) -> None:
    """The jury has voted."""
    until = time.monotonic() + WAIT_SECONDS
    async with Chain(network.rpc_url, Deployment.load(network.deployment_path)) as chain:
        while time.monotonic() < until:
            if await chain.court.case_count() and (await chain.court.case_of(1)).status == CaseStatus.DECIDED:
                return
            await asyncio.sleep(0.5)
    raise AssertionError("the jury did not decide")

"""The verifier on a whole network: honest nodes are audited, replayed elsewhere, and come out clean."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import httpx
import openai
import pytest

from retally.chain.audits import unpack_verdicts
from retally.chain.connection import Chain
from retally.chain.deployment import Deployment
from retally.chain.events import EventReader
from retally.devnet.network import Network
from retally.devnet.tools import repo_root
from retally.protocol.case import VerdictKind

JOBS = 12
ROUNDS = 8
"""Where points fall is drawn: twelve jobs have none about once in six times, in eight rounds once in a million."""
WAIT_SECONDS = 120

pytestmark = pytest.mark.engine


async def findings_of(devnet: Network, commits: set[str]) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        answer = await client.get(f"{devnet.verifier_url}/retally/v1/findings")
    found: list[dict[str, Any]] = answer.json()["findings"]
    return [each for each in found if each["commitId"] in commits]


async def ask(devnet: Network) -> None:
    async with openai.AsyncOpenAI(api_key=devnet.api_key, base_url=f"{devnet.router_url}/v1") as client:
        for index in range(JOBS):
            question: Any = [{"role": "user", "content": f"What is a list in Python? ({index})"}]
            temperature = 0.0 if index % 2 else 1.0
            await client.chat.completions.create(
                model=devnet.model, messages=question, max_tokens=64, temperature=temperature
            )


async def revealed(chain: Chain, commits: set[str]) -> dict[str, bytes]:
    """The verdicts on chain by commit, once all are there."""
    reader = EventReader(chain, ("Audits",))
    for _ in range(WAIT_SECONDS):
        events = await reader.read(chain.deployment.deployed_block, await chain.block_number())
        shown = {str(e.args["commitId"]): e.args["verdicts"] for e in events if e.name == "VerdictsRevealed"}
        if commits <= shown.keys():
            return shown
        await asyncio.sleep(1)
    raise AssertionError(f"no verdicts on {commits - shown.keys()}")


async def recompute(devnet: Network) -> dict[str, dict[str, Any]]:
    """All commits with their drawn points, by the third party's script."""
    script = repo_root() / "scripts" / "recompute_audit_points.py"
    command = [sys.executable, str(script), "--rpc", devnet.rpc_url, "--deployment", str(devnet.deployment_path)]
    printed = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    return {commit["commitId"]: commit for commit in json.loads(printed.stdout)["commits"]}


async def drawn_points(devnet: Network, commits: set[str]) -> set[tuple[str, str]]:
    """The (commit, point) pairs that were drawn, once all seeds are fixed."""
    for _ in range(WAIT_SECONDS):
        known = await recompute(devnet)
        if all(known[commit]["seed"] for commit in commits):
            return {(commit, point["point"]) for commit in commits for point in known[commit]["points"]}
        await asyncio.sleep(1)
    raise AssertionError("no verifier fixed the seeds")


async def audit_round(devnet: Network) -> list[int]:
    """Jobs of the default parameters, settled and audited: the verdicts on all points that were drawn."""
    await ask(devnet)
    settled = await devnet.settle_all()
    drawn = await drawn_points(devnet, {str(commit) for each in settled for commit in each["commits"]})
    audited = {commit for commit, _ in drawn}
    async with Chain(devnet.rpc_url, Deployment.load(devnet.deployment_path)) as chain:
        shown = await revealed(chain, audited)
    found = await findings_of(devnet, audited)
    assert {(each["commitId"], each["point"]) for each in found} == drawn
    assert sum(len(unpack_verdicts(shown[commit])) for commit in audited) == len(found)
    return [each["verdict"] for each in found]


class TestHonestNetwork:
    async def test_is_audited_and_clean(self, devnet: Network) -> None:
        verdicts: list[int] = []
        for _ in range(ROUNDS):
            verdicts += await audit_round(devnet)
            assert VerdictKind.MISMATCH not in verdicts
            if VerdictKind.MATCH in verdicts:
                return
        raise AssertionError(f"no point of an honest job matches: {verdicts}")

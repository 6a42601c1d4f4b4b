"""A network with dishonest parties in it, and the moves that every play makes: trade, settle, wait, read the books."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from openai import APIError, AsyncOpenAI
from tests.adversaries.registry import Adversary

from demo_books import Books
from evidence_jobs import Prompts
from retally.chain.connection import Chain
from retally.chain.events import ChainEvent
from retally.devnet.keys import derive_key
from retally.devnet.network import Network, RunningNode
from retally.devnet.options import NetworkOptions, NodeSpec
from retally.devnet.tools import devnet_model_dir, repo_root

DAY = 86_400
HONEST = 3
MAX_TOKENS = 192
NOT_OPENAIS = ("min_tokens",)
CONCURRENCY = 12
WAIT_SECONDS = 420.0
#: How long the verifier asks a silent node before it challenges: a minute on a network, seconds here.
PATIENCE = {"RETALLY_VERIFIER_PATIENCE_SECONDS": "5"}
PROGRAM = repo_root() / "tests" / "adversaries" / "cheating_node.py"


class PlayFailed(Exception):
    """A play did not come to its end."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a verifier found at a drawn point."""

    log_e: float
    receipt: bytes | None
    state: str
    verdict: int
    detail: Mapping[str, Any]


@dataclass(slots=True)
class Traffic:
    """What payers saw of one node."""

    answered: int = 0
    refused: list[str] = field(default_factory=list)


def cheat_spec(adversary: Adversary, urls: Mapping[str, str]) -> NodeSpec:
    """The node of an adversary: the real one around its lie."""
    other = ("--other-engine", urls[adversary.weights]) if adversary.weights else ()
    return NodeSpec(name=adversary.name, program=(str(PROGRAM),), arguments=(*adversary.arguments, *other))


class Stage:
    """Some honest nodes, some dishonest ones, a router, a verifier and a payer on a chain of their own."""

    def __init__(
        self,
        home: Path,
        seed: int,
        cheats: Sequence[NodeSpec],
        engine_url: str,
        verifier: Mapping[str, object] | None = None,
        *,
        honest: int = HONEST,
    ) -> None:
        """`verifier` is what the honest verifier's settings differ in; `honest` is how many nodes are."""
        os.environ.update(PATIENCE)
        controls = [NodeSpec(name=f"honest{i}") for i in range(1, honest + 1)]
        self._controls = honest
        self.seed = seed
        self.net = Network(
            NetworkOptions(
                home=home,
                seed=seed,
                engines={"honest": devnet_model_dir()},
                engine_urls={"honest": engine_url},
                nodes=(*controls, *cheats),
                verifier_settings=verifier or {},
            )
        )
        self.traffic: dict[str, Traffic] = {}
        self._asked = 0
        self._chats = list(Prompts.of(devnet_model_dir()).chats)

    async def __aenter__(self) -> Self:
        await self.net.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.net.stop()

    @property
    def chain(self) -> Chain:
        """The network's chain."""
        assert self.net.chain is not None
        return self.net.chain

    @property
    def honest(self) -> list[RunningNode]:
        """The controls."""
        return self.net.nodes[: self._controls]

    @property
    def verifier(self) -> str:
        """The honest verifier's account."""
        return derive_key(self.seed, "verifier").address

    def node(self, name: str) -> RunningNode:
        """A node by its name."""
        return next(node for node in self.net.nodes if node.spec.name == name)

    async def trade(self, asked: Sequence[tuple[RunningNode, int, Mapping[str, Any]]]) -> None:
        """Plain completions through the router: so many for each node, with its sampling."""
        gate = asyncio.Semaphore(CONCURRENCY)
        await asyncio.gather(
            *(self.send(node, self.draw(count), sampling, gate) for node, count, sampling in asked if count)
        )

    async def send(
        self,
        node: RunningNode,
        prompts: Sequence[tuple[str, int]],
        sampling: Mapping[str, Any],
        gate: asyncio.Semaphore | None = None,
    ) -> None:
        """These prompts to this node; what is refused is noted and is no failure."""
        limit = gate or asyncio.Semaphore(CONCURRENCY)
        extra = {"provider": {"order": [node.address], "allow_fallbacks": False}}
        # OpenAI's client knows no least length; routers and nodes do.
        extra |= {name: sampling[name] for name in NOT_OPENAIS if name in sampling}
        known = {name: value for name, value in sampling.items() if name not in NOT_OPENAIS}
        seen = self.traffic.setdefault(node.spec.name, Traffic())

        async def ask(client: AsyncOpenAI, question: str, seed: int) -> None:
            async with limit:
                try:
                    await client.chat.completions.create(
                        model=self.net.model,
                        messages=[{"role": "user", "content": question}],
                        max_tokens=MAX_TOKENS,
                        seed=seed,
                        extra_body=extra,
                        **known,
                    )
                    seen.answered += 1
                except APIError as error:
                    seen.refused.append(str(error)[:300])

        base_url = f"{self.net.router_url}/v1"
        async with AsyncOpenAI(api_key=self.net.api_key, base_url=base_url, max_retries=0, timeout=180) as client:
            await asyncio.gather(*(ask(client, question, seed) for question, seed in prompts))

    def draw(self, count: int) -> list[tuple[str, int]]:
        """Fresh prompts with their seeds: two of the model's held-out questions in one, so that it is unsure."""
        rng = random.Random(f"{self.seed} {self._asked}")
        self._asked += count
        return [(" ".join(rng.sample(self._chats, 2)), rng.getrandbits(31)) for _ in range(count)]

    async def collect(self) -> None:
        """A day passes and every node collects; one that cannot is left to itself."""
        await self.net.jump(DAY)
        for node in self.net.nodes:
            if node.service.is_running:
                try:
                    await self.net.settle(node)
                except httpx.HTTPError as error:
                    self.traffic.setdefault(node.spec.name, Traffic()).refused.append(f"settling: {error}")

    async def books(self) -> Books:
        """All that the chain announced."""
        return await Books.read(self.chain)

    async def until(self, done: Callable[[Books], bool], what: str) -> Books:
        """Wait for something on chain, as long as every service runs."""
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
        while not done(books := await self.books()):
            if asyncio.get_running_loop().time() > deadline:
                raise PlayFailed(f"waited {WAIT_SECONDS:.0f} s for {what}")
            for service in self.net.services.values():
                service.check_running()
            await asyncio.sleep(1)
        return books

    def findings(self, owner: str) -> list[Finding]:
        """What the honest verifier's books say of each drawn point of an owner; its own replays forbid audit."""
        path = self.net.home / "data" / "verifier" / "verifier.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as books:
            query = "SELECT log_e, receipt, state, verdict, detail FROM findings WHERE owner = ? AND payer <> ?"
            found = books.execute(query, (owner, self.verifier)).fetchall()
        return [
            Finding(log_e, receipt, state, verdict, json.loads(detail))
            for log_e, receipt, state, verdict, detail in found
        ]


def of_owner(events: Sequence[ChainEvent], owner: str) -> list[ChainEvent]:
    """The events that name an owner."""
    return [event for event in events if event.args.get("owner") == owner]

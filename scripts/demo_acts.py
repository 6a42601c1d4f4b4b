"""The acts of the demo, in order. Everything goes through the public doors: client, router, contracts, clock."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from demo_books import Books, CaseStory
from demo_cheats import StoryFailed, cheating_node, make_cheaper_weights
from demo_narrator import Narrator
from demo_prompts import draw_prompts
from demo_report import check_books, money, money_table, run_check_script
from retally import AsyncClient, Wallet, result_of
from retally.chain.connection import Chain
from retally.chain.credits import withdraw_credits
from retally.chain.deployment import Deployment
from retally.chain.transactions import TxSender
from retally.devnet.keys import derive_key
from retally.devnet.network import Network, RunningNode
from retally.devnet.options import NetworkOptions, NodeSpec
from retally.devnet.processes import log_tail
from retally.devnet.tools import devnet_model_dir

DAY = 86_400
MAX_TOKENS = 160
JOBS_OF_A_NODE = 6
CONCURRENCY = 6
ROUNDS = 5
WAIT_SECONDS = 150.0
APPEAL_DAYS = 2


@dataclass(frozen=True)
class StoryOptions:
    """How to tell it."""

    home: Path
    seed: int
    cheats: tuple[str, ...]
    jobs: int
    engine_url: str | None = None


class Story:
    """One run of the demo."""

    def __init__(self, options: StoryOptions, narrator: Narrator) -> None:
        self._options = options
        self._narrator = narrator
        self._net: Network
        self._streamed_tokens = 0
        self._fees = 0
        self._served: Counter[str] = Counter()
        self._receipts_ok = True

    async def tell(self) -> dict[str, Any]:
        """Run every act and return the report; all processes end with it."""
        say = self._narrator.say
        self._narrator.act("A network starts")
        self._net = Network(await self._network_options())
        try:
            await self._net.start(say)
            await self._stream_one()
            await self._trade()
            cases = await self._convict() if self._options.cheats else await self._find_nothing()
            return await self._close_books(cases)
        finally:
            await self._net.stop()

    def logs_hint(self) -> str:
        """The last words of each service, for a story that failed."""
        logs = sorted((self._options.home / "logs").glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log_tail(log)}" for log in logs if "engine" not in log.name)

    async def _network_options(self) -> NetworkOptions:
        """Three honest nodes on one engine; each cheat is a fourth party with an owner of its own."""
        engines = {"honest": devnet_model_dir()}
        if "weights" in self._options.cheats:
            self._narrator.say("making cheaper weights of the model: 4-bit groups")
            engines["cheaper"] = await asyncio.to_thread(make_cheaper_weights, self._options.home / "cheaper")
        nodes = [NodeSpec(name=f"node{i}") for i in (1, 2, 3)]
        nodes += [cheating_node(f"node{i}", cheat) for i, cheat in enumerate(self._options.cheats, start=4)]
        if not self._options.cheats:
            nodes.append(NodeSpec(name="node4"))
        return NetworkOptions(
            home=self._options.home,
            seed=self._options.seed,
            engines=engines,
            engine_urls={"honest": self._options.engine_url} if self._options.engine_url else {},
            nodes=tuple(nodes),
            log_level="WARNING",
        )

    async def _stream_one(self) -> None:
        """A developer pays per token with its own key; nobody holds its money on the way."""
        self._narrator.act("A developer streams an answer and pays per token")
        net = self._net
        wallet = Wallet(net.payer.key, Deployment.load(net.deployment_path).domain, net.home / "payer-wallet")
        client = AsyncClient(base_url=net.router_url, wallet=wallet, deployment=net.deployment_path)
        question, seed = draw_prompts(self._options.seed, 1)[0]
        self._narrator.say(f"> {question}")
        async with client:
            stream = await client.chat.completions.create(
                model=net.model,
                messages=[{"role": "user", "content": question}],
                max_tokens=MAX_TOKENS,
                seed=seed,
                stream=True,
            )
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    self._narrator.token(chunk.choices[0].delta.content)
            result = result_of(stream)
        self._narrator.token("\n")
        self._streamed_tokens += result.output_tokens
        self._count(str(result.node), result.cost)
        self._receipts_ok &= result.checks.passed
        self._narrator.say(
            f"{result.output_tokens} tokens from {self._name(str(result.node))} for {money(result.cost)};"
            f" receipt and offline checks: {'ok' if result.checks.passed else 'FAILED'}"
        )
        if not result.checks.passed:
            raise StoryFailed(f"the offline checks failed: {result.checks.as_dict()}")

    async def _trade(self) -> None:
        """Ordinary traffic of an OpenAI client with an API key, then a day passes and the nodes collect."""
        self._narrator.act("Traffic of a stock OpenAI client, a day passes, the nodes collect")
        prompts = draw_prompts(self._options.seed + self._served.total(), 2 * self._options.jobs)
        before = self._served.copy()
        async with AsyncOpenAI(api_key=self._net.api_key, base_url=f"{self._net.router_url}/v1") as client:
            await self._ask_all(client, [(prompt, None) for prompt in prompts[: self._options.jobs]])
            # The router prefers fast nodes; a payer that wants to know them all asks the others by name.
            slow = [n.address for n in self._net.nodes for _ in range(JOBS_OF_A_NODE - self._new_jobs(n, before))]
            await self._ask_all(client, list(zip(prompts[self._options.jobs :], slow, strict=False)))
        shares = ", ".join(f"{self._name(node)} {count}" for node, count in sorted(self._served.items()))
        self._narrator.say(f"{sum(self._served.values())} answers so far ({shares}), {money(self._fees)} in all")
        await self._net.jump(DAY)
        await self._net.settle_all()
        books = await self._books()
        self._narrator.say(
            f"a day later {len(books.named('Collected'))} commits stand on chain: {money(books.collected_by())}"
        )

    async def _ask_all(self, client: AsyncOpenAI, asked: list[tuple[tuple[str, int], str | None]]) -> None:
        """Plain completions, some at a time; a node may be asked for by its address."""
        gate = asyncio.Semaphore(CONCURRENCY)

        async def ask(question: str, seed: int, node: str | None) -> None:
            async with gate:
                answer = await client.chat.completions.create(
                    model=self._net.model,
                    messages=[{"role": "user", "content": question}],
                    max_tokens=MAX_TOKENS,
                    seed=seed,
                    extra_body={"provider": {"order": [node]}} if node else None,
                )
            extra = (answer.model_extra or {})["retally"]
            self._count(extra["node"], int(extra["cost"]))

        await asyncio.gather(*(ask(question, seed, node) for (question, seed), node in asked))

    def _new_jobs(self, node: RunningNode, before: Counter[str]) -> int:
        return self._served[node.address] - before[node.address]

    async def _convict(self) -> list[CaseStory]:
        """The verifier audits what was drawn and brings the cheats to court; more traffic if the proof needs it."""
        self._narrator.act("Drawn jobs are re-executed on other nodes; a jury judges")
        for attempt in range(ROUNDS):
            await self._audits_done()
            if await self._cases_brought():
                return await self._judge()
            if attempt < ROUNDS - 1:
                self._narrator.say("the evidence is not yet 1e9 to 1; more traffic")
                await self._trade()
        raise StoryFailed(f"no case after {ROUNDS} days of traffic")

    async def _find_nothing(self) -> list[CaseStory]:
        """Everybody is honest, and the chain says so."""
        self._narrator.act("Drawn jobs are re-executed on other nodes")
        await self._audits_done()
        await asyncio.sleep(5)
        if cases := (await self._books()).cases():
            raise StoryFailed(f"an honest owner was brought to court: {cases}")
        return []

    async def _audits_done(self) -> None:
        await self._until(lambda books: books.unaudited() == 0, "every commit to be audited")
        books = await self._books()
        for node in self._net.nodes:
            found = books.audits([node.owner.address], without_payer=self._verifier)
            self._narrator.say(f"{node.spec.name}: " + ", ".join(f"{n} {verdict}" for verdict, n in found.items()))

    async def _cases_brought(self) -> bool:
        """Whether every cheat stands before the court; a case takes the verifier a few seconds."""
        accused = {node.owner.address for node in self._net.nodes[3:]}
        for _ in range(10):
            if accused <= {case.owner for case in (await self._books()).cases()}:
                return True
            await asyncio.sleep(1)
        return False

    async def _judge(self) -> list[CaseStory]:
        """The jurors replay the evidence on their own engines; after the time for appeals the verdict is executed."""
        for case in (await self._books()).cases():
            self._narrator.say(
                f"case {case.case_id} against {self._owner(case.owner)}: {len(case.shown)} drawn jobs shown"
            )
        await self._until(lambda books: all(case.verdict for case in books.cases()), "the juries' verdicts")
        for case in (await self._books()).cases():
            votes = ", ".join(f"{self._owner(juror)} {vote}" for juror, vote in case.votes.items())
            self._narrator.say(f"case {case.case_id}: {case.verdict} ({votes})")
        await self._net.jump(APPEAL_DAYS * DAY + 60)
        await self._until(lambda books: all(case.executed for case in books.cases()), "the verdicts to be executed")
        return (await self._books()).cases()

    async def _close_books(self, cases: list[CaseStory]) -> dict[str, Any]:
        """Pull the credits, draw the table, and let two independent scripts check chain and books."""
        self._narrator.act("Who paid whom")
        books = await self._books()
        self._narrator.table(*money_table(books, cases, self._owner))
        withdrawn = await self._withdraw_refund()
        self._narrator.say(f"the payer withdraws its refund: {money(withdrawn)}")
        self._narrator.say("checking supply and audit points with scripts that share no code with the services")
        net = self._net
        supply = await run_check_script("check_supply.py", net.rpc_url, net.deployment_path)
        points = await run_check_script("recompute_audit_points.py", net.rpc_url, net.deployment_path)
        honest = [node.owner.address for node in net.nodes if node.spec.name in self._honest]
        report = check_books(books, cases, supply, points, honest, self._verifier)
        if withdrawn != report["refunded"]:
            report["failures"].append(f"the payer got {withdrawn} of {report['refunded']} refunded")
        report |= {"streamed_tokens": self._streamed_tokens, "receipt_ok": self._receipts_ok, "fee": self._fees}
        if failures := report.pop("failures"):
            raise StoryFailed("; ".join(failures))
        return report

    async def _withdraw_refund(self) -> int:
        """The payer pulls what the court gave back, and finds it in its own account."""
        payer, asset = self._net.payer, self._chain.asset
        before = await asset.balance_of(payer.address)
        await withdraw_credits(self._chain, TxSender(self._chain, payer.key))
        return await asset.balance_of(payer.address) - before

    @property
    def _chain(self) -> Chain:
        assert self._net.chain is not None
        return self._net.chain

    @property
    def _honest(self) -> set[str]:
        return {node.spec.name for node in self._net.nodes} - {f"node{i + 4}" for i in range(len(self._options.cheats))}

    @property
    def _verifier(self) -> str:
        return derive_key(self._options.seed, "verifier").address

    async def _until(self, done: Callable[[Books], bool], what: str) -> None:
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
        while not done(await self._books()):
            if asyncio.get_running_loop().time() > deadline:
                raise StoryFailed(f"waited {WAIT_SECONDS:.0f} s for {what}")
            for service in self._net.services.values():
                service.check_running()
            await asyncio.sleep(1)

    async def _books(self) -> Books:
        return await Books.read(self._chain)

    def _count(self, node: str, cost: int) -> None:
        self._served[node] += 1
        self._fees += cost

    def _name(self, node: str) -> str:
        return next((n.spec.name for n in self._net.nodes if n.address == node), node)

    def _owner(self, address: str) -> str:
        named: dict[str, str] = {n.owner.address: f"{n.spec.name}'s owner" for n in self._net.nodes}
        named[self._net.payer.address] = "payer"
        return named.get(address, "verifier")

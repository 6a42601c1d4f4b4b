"""One round of scripts/bench_router: a router started, put under every kind of load, checked and stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench_router_check import check_dump, check_nodes
from bench_router_jobs import Work, create_api_key, raw_request, signed_requests, submissions, write_requests
from bench_router_peers import peer_of
from bench_router_process import Failed, Pinned, free_port
from retally.devnet.tools import redis_server_path

ROUTER_CORE, LOAD_CORE = 0, 1
OURS = {
    "retally native, signed": ("native", True),
    "retally native, API key": ("native", False),
    "retally asgi, signed": ("asgi", True),
    "retally asgi, API key": ("asgi", False),
}
PEERS = ("nginx", "sglang-router", "vllm-router", "litellm")
NAMES = (*OURS, *PEERS)
PLAIN = Work("plain", 16, stream=False, connections=32)
FAST = Work("fast", 64, stream=True, connections=32)
PACED = Work("paced", 200, stream=True, connections=100, pace_us=20_000)
QUIET = Work("quiet", 16, stream=True, connections=16, pace_us=5_000, rate=20)
HELD = Work("held", 100, stream=True, connections=1000, pace_us=100_000)
FIRST_WAVE = Work("wave", 10, stream=True, connections=1000, pace_us=100_000)
SIGNED_A_SECOND = 1500
WAVE = ("done", "errors", "firstError", "firstP50", "firstP99", "rssBefore", "rss")
RUNS = ("plain", "fast", "paced", "quiet", "held")


@dataclass
class Target:
    """What is under load: where, with which requests, and whose processor time counts."""

    name: str
    version: str
    port: int
    requests: Callable[[Work], Path]
    router: Pinned | None
    store: Pinned | None = None
    nodes: list[str] = field(default_factory=list)


class Bench:
    """What all rounds share."""

    def __init__(self, cache: Path, folder: Path, seconds: float, waves: int = 1) -> None:
        self.cache, self.folder, self.seconds, self.waves = cache, folder, seconds, waves
        self.lanes = 0
        self.load, self.engine = (self._compiled(name) for name in ("load", "engine"))

    def _compiled(self, name: str) -> Path:
        source, program = Path(__file__).parent / f"bench_router_{name}.c", self.cache / name
        self.cache.mkdir(parents=True, exist_ok=True)
        if not program.is_file() or program.stat().st_mtime < source.stat().st_mtime:
            try:
                subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)
            except FileNotFoundError as error:
                raise Failed("no C compiler: install one (Debian: gcc), the load generator needs it") from error
        return program

    def run(self, name: str, works: tuple[Work, ...]) -> dict[str, Any]:
        """One round of one router."""
        with self._target(name) as target:
            warm = Work("warm", 16, stream=False, connections=8)
            if name != "direct":
                self._drive(target, warm, 1.0)
            found: dict[str, Any] = {"version": target.version}
            answers = 0
            for work in works:
                if work is HELD and name == "litellm":
                    continue  # it would need minutes for them
                if work is HELD and name != "direct":
                    found[work.name] = self._hold(target)
                    answers += sum(wave["done"] for wave in found[work.name]["waves"])
                    continue
                found[work.name] = self._measure(target, work)
                answers += found[work.name]["done"]
            if target.nodes:
                found["checked"] = check_nodes_soon(target.nodes, answers)
            return found

    def _hold(self, target: Target) -> dict[str, Any]:
        """Waves of a thousand streams; the first makes the room that they take: memory is flat from then on."""
        first = self._drive(target, FIRST_WAVE, 1.0)
        waves = [self._measure(target, HELD) for _ in range(self.waves)]
        kept = [{name: wave[name] for name in WAVE} for wave in waves]
        errors = sum(wave["errors"] for wave in kept)
        return {**waves[-1], "rssBefore": waves[0]["rssBefore"], "errors": errors, "waves": [first, *kept]}

    def _measure(self, target: Target, work: Work) -> dict[str, Any]:
        quick = self.seconds if work is not HELD else max(self.seconds, 12.0)
        parts = {"router": target.router, "store": target.store}
        seconds = 0.3 * quick if target.name == "litellm" and work is PLAIN else quick
        requests = target.requests(work)
        before = {key: part.cpu_seconds() for key, part in parts.items() if part is not None}
        memory = target.router.rss_mb() if target.router else 0.0
        dump = self.folder / "dump"
        result = self._load(target, work, seconds, requests, dump)
        for key, part in parts.items():
            used = part.cpu_seconds() - before[key] if part is not None else 0.0
            result[f"{key}Us"] = 1e6 * used / max(1, result["done"])
            result[f"{key}UsPerToken"] = result[f"{key}Us"] / work.tokens
        result |= {"rssBefore": memory, "rss": target.router.rss_mb() if target.router else 0.0}
        if target.nodes:
            result["checked"] = check_dump(dump, stream=work.stream, tokens=work.tokens).answers
        if target.nodes and work is QUIET:
            result |= self._first_of_node(target, work, seconds)
        shown = f"{target.name:26} {work.name:6} {result['done']:8} done {result['errors']:4} errors"
        print(f"{shown} {result['routerUs']:9.1f} us {result['storeUs']:6.1f} us store", file=sys.stderr, flush=True)
        if work is HELD:
            rss = f"{memory:.1f} → {result['rss']:.1f} MB"
            print(
                f"  first token {result['firstP50'] / 1e6:.2f} / {result['firstP99'] / 1e6:.2f} s, {rss}",
                file=sys.stderr,
            )
        if result["firstError"]:
            print(f"  {result['firstError']}", file=sys.stderr)
        return result

    def _first_of_node(self, target: Target, work: Work, seconds: float) -> dict[str, float]:
        """The time to the first token of such a node without a router: it gets what the router sent."""
        with ExitStack() as stack:
            port = int(self._node(stack, 0).rsplit(":", 1)[1])
            sent = submissions(target.nodes, work)
            if not sent:
                raise Failed(f"no node got a job of the kind {work.name} from the router")
            requests = write_requests(self.folder / "requests", sent)
            alone = self._load(replace(target, port=port), work, seconds, requests, None)
        if alone["errors"]:
            raise Failed(f"a node without a router: {alone['firstError']}")
        return {"nodeFirstP50": alone["firstP50"], "nodeFirstP99": alone["firstP99"]}

    def _drive(self, target: Target, work: Work, seconds: float) -> dict[str, Any]:
        return self._load(target, work, seconds, target.requests(work), None)

    def _load(self, target: Target, work: Work, seconds: float, requests: Path, dump: Path | None) -> dict[str, Any]:
        numbers = (target.port, work.connections, seconds, work.rate, work.frames)
        command = ["taskset", "-c", str(LOAD_CORE), str(self.load), *map(str, numbers), str(requests), str(dump or "-")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 90)
        return dict(json.loads(done.stdout))

    @contextmanager
    def _target(self, name: str) -> Iterator[Target]:
        with ExitStack() as stack:
            if name in OURS:
                yield self._ours(stack, name, *OURS[name])
                return
            engines = [self._engine(stack, number) for number in range(2)]
            if name == "direct":
                port = int(engines[0].rsplit(":", 1)[1])
                yield Target(name, "", port, self._plain_requests, None)
                return
            folder = self.folder / name
            folder.mkdir(exist_ok=True)
            peer = peer_of(name, self.cache, folder, engines)
            process = stack.enter_context(Pinned(name, peer.command, ROUTER_CORE, folder))
            process.wait_ready(peer.health)
            time.sleep(2.0)
            yield Target(name, peer.version, peer.port, self._plain_requests, process)

    def _engine(self, stack: ExitStack, number: int) -> str:
        port = free_port()
        process = Pinned(f"engine{number}", [str(self.engine), str(port)], LOAD_CORE, self.folder)
        stack.enter_context(process).wait_ready(f"http://127.0.0.1:{port}/health")
        return f"http://127.0.0.1:{port}"

    def _plain_requests(self, work: Work) -> Path:
        return write_requests(self.folder / "requests", [raw_request(work.body(), {"authorization": "Bearer none"})])

    def _ours(self, stack: ExitStack, name: str, server: str, signed: bool) -> Target:
        nodes = [self._node(stack, number) for number in range(2)]
        redis_port, port = free_port(), free_port()
        redis = [str(redis_server_path()), "--bind", "127.0.0.1", "--port", str(redis_port), "--save", ""]
        store = stack.enter_context(Pinned("redis", [*redis, "--appendonly", "no"], ROUTER_CORE, self.folder))
        time.sleep(0.3)
        script = str(Path(__file__).parent / "bench_router_ours.py")
        redis_url = f"redis://127.0.0.1:{redis_port}/0"
        command = [sys.executable, script, str(port), redis_url, server, *nodes]
        router = stack.enter_context(Pinned("retally", command, ROUTER_CORE, self.folder))
        url = f"http://127.0.0.1:{port}"
        router.wait_ready(f"{url}/healthz")
        if signed:
            return Target(name, "", port, lambda work: self._signed_requests(url, work), router, store, nodes)
        key = create_api_key(url)

        def keyed(work: Work) -> Path:
            raw = raw_request(work.body(), {"authorization": f"Bearer {key}"})
            return write_requests(self.folder / "requests", [raw])

        return Target(name, "", port, keyed, router, store, nodes)

    def _node(self, stack: ExitStack, number: int) -> str:
        port, script = free_port(), str(Path(__file__).parent / "bench_router_node.py")
        command = [sys.executable, script, str(port), str(number)]
        process = stack.enter_context(Pinned(f"node{number}", command, LOAD_CORE, self.folder))
        process.wait_ready(f"http://127.0.0.1:{port}/retally/v1/info")
        return f"http://127.0.0.1:{port}"

    def _signed_requests(self, url: str, work: Work) -> Path:
        self.lanes += 1
        count = int(self.seconds * SIGNED_A_SECOND) if work is PLAIN else 1000
        return write_requests(self.folder / "requests", signed_requests(url, work, count, 1000 + self.lanes))


def check_nodes_soon(nodes: list[str], answers: int) -> dict[str, int]:
    """The nodes' books, once the last vouchers are in."""
    time.sleep(1.5)
    return check_nodes(nodes, answers)

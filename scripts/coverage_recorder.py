"""Stand before anvil as if it were anvil, and note which way each JUMPI of our contracts goes.

Every call, every estimate that fails and every mined transaction is traced again by anvil itself. Started as anvil is,
with the same arguments; the environment says where the real one is, which codes to look for, and where to write.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

from retally.devnet.ports import free_port

STEP = re.compile(rb'"pc":(\d+),"op":"(\w+)","gas":\d+,"gasCost":\d+,"depth":(\d+)')
BARE = {"disableStack": True, "disableStorage": True, "disableMemory": True, "disableReturnData": True}
FAILED = re.compile(rb'"failed":true')
# The same as BARE for a transaction that is not the first of its block, hence only replayed where it stands; slow.
REPLAY = """{s:[],step:function(l){var o=l.op.toNumber();this.s.push(l.getPC(),o,l.getDepth());},fault:function(l){},
result:function(){return this.s;}}"""
SENDS = ("eth_sendTransaction", "eth_sendRawTransaction")
# After these an address may hold other code, or a transaction no longer be there.
REWINDS = ("evm_revert", "anvil_setCode", "anvil_reset", "anvil_loadState", "anvil_rollback")
NO_LIMIT = "--disable-code-size-limit"
Steps = Sequence[tuple[int, bytes, int]]


class Codes:
    """Whose code a code is."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._deployed: dict[int, list[tuple[str, bytes, Any]]] = defaultdict(list)
        self._creations: list[tuple[str, str]] = []
        for row in rows:
            if row["creation"]:
                self._creations.append((row["key"], "0x" + row["code"]))
            else:
                code = bytes.fromhex(row["code"])
                self._deployed[len(code)].append((row["key"], code, row["immutables"]))

    def deployed(self, text: str) -> str:
        """The contract of a code on the chain, or nothing."""
        found = bytes.fromhex(text[2:])
        for key, code, immutables in self._deployed.get(len(found), ()):
            masked = bytearray(found)
            for start, length in immutables:
                masked[start : start + length] = bytes(length)
            if masked == code:
                return key
        return ""

    def creation(self, text: str) -> str:
        """The contract that an input deploys, or nothing."""
        return next((key for key, code in self._creations if text.startswith(code)), "")


class Recorder:
    """The chain behind, and what was seen of it."""

    def __init__(self, port: int, codes: Codes, out: Path) -> None:
        self._port, self._codes, self._out = port, codes, out
        self._chain = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        self._known: dict[str, str] = {}
        self._sent: list[str] = []
        self.steps: defaultdict[str, set[tuple[int, bool]]] = defaultdict(set)
        self.counts: Counter[str] = Counter()

    def answer(self, body: bytes) -> bytes:
        """What the chain answers, noted on the way."""
        try:
            requests = _listed(json.loads(body))
        except ValueError:
            return self._forward(body)
        self._trace_mined(wait=any(request.get("method") in REWINDS for request in requests))
        answer = self._forward(body)
        for request, given in zip(requests, _listed(json.loads(answer)), strict=True):
            self._note(request.get("method", ""), request.get("params") or [], given)
        return answer

    def write(self) -> None:
        """Leave what was seen."""
        self._trace_mined(wait=True)
        steps = {key: sorted(found) for key, found in self.steps.items()}
        self._out.write_text(json.dumps({"steps": steps, "counts": self.counts}), encoding="utf-8")

    def _note(self, method: str, params: Sequence[Any], answer: Mapping[str, Any]) -> None:
        if method in REWINDS:
            self._known.clear()
        elif method in SENDS and "result" in answer:
            self._sent.append(answer["result"])
        elif method == "eth_call" or (method == "eth_estimateGas" and "error" in answer):
            default = "latest" if method == "eth_call" else "pending"
            block = params[1] if len(params) > 1 and params[1] else default
            self._trace_call(params[0], block, {}, failed="error" in answer)

    def _trace_mined(self, *, wait: bool) -> None:
        deadline = time.monotonic() + 2
        while self._sent:
            receipt = self._ask("eth_getTransactionReceipt", self._sent[0])
            if receipt is None:
                if not wait or time.monotonic() > deadline:
                    break
                time.sleep(0.005)
                continue
            self._trace_transaction(self._sent.pop(0), receipt)
        if wait:
            self.counts["never mined"] += len(self._sent)
            self._sent.clear()

    def _trace_transaction(self, tx_hash: str, receipt: Mapping[str, Any]) -> None:
        failed = receipt["status"] == "0x0"
        if receipt["transactionIndex"] != "0x0":
            flat = self._ask("debug_traceTransaction", tx_hash, {"tracer": REPLAY}) or []
            names = {0x57: b"JUMPI", 0x5B: b"JUMPDEST"}
            steps = [(flat[i], names.get(flat[i + 1], b""), flat[i + 2]) for i in range(0, len(flat), 3)]
            frames = self._ask("debug_traceTransaction", tx_hash, {"tracer": "callTracer"}) or {}
            self._add(steps, frames)
            self.counts["replayed"] += 1
            return
        sent = self._ask("eth_getTransactionByHash", tx_hash)
        block = self._ask("eth_getBlockByNumber", receipt["blockNumber"], False)
        call = {name: sent[name] for name in ("from", "to", "value", "gas", "input") if sent.get(name)}
        parent = hex(int(receipt["blockNumber"], 16) - 1)
        self._trace_call(call, parent, {"number": block["number"], "time": block["timestamp"]}, failed=failed)

    def _trace_call(self, call: Mapping[str, Any], block: Any, overrides: Mapping[str, str], *, failed: bool) -> None:
        options = {"blockOverrides": overrides} if overrides else {}
        raw = self._request("debug_traceCall", call, block, {**BARE, **options})
        steps = [(int(pc), operation, int(depth)) for pc, operation, depth in STEP.findall(raw)]
        if not steps:
            self.counts["of no code"] += 1
            return
        if bool(FAILED.search(raw[:200])) != failed:
            self.counts["ended otherwise"] += 1
        frames = {"type": "CALL" if call.get("to") else "CREATE", "to": call.get("to")}
        frames["input"] = call.get("input") or call.get("data")
        if any(depth > 1 for _, _, depth in steps):
            frames = self._ask("debug_traceCall", call, block, {"tracer": "callTracer", **options}) or {}
        self._add(steps, frames)

    def _add(self, steps: Steps, tree: Mapping[str, Any]) -> None:
        """Note the steps of each frame under the name of its code."""
        self.counts["traces"] += 1
        frames = self._frames(tree)
        stack: list[set[tuple[int, bool]]] = []
        depth = 0
        following = [*(pc for pc, _, _ in steps[1:]), -1]
        for (pc, operation, at), after in zip(steps, following, strict=True):
            if at != depth:
                del stack[at:]
                if at > depth:
                    stack.append(self.steps[next(frames, "lost")])
                depth = at
            if operation == b"JUMPI":
                stack[-1].add((pc, after != pc + 1))
            elif operation == b"JUMPDEST":
                stack[-1].add((pc, True))
        if next(frames, None) is not None:
            self.counts["frames without steps"] += 1

    def _frames(self, tree: Mapping[str, Any]) -> Iterator[str]:
        """The codes that run, in order; an account without code has no steps."""
        if tree.get("type", "").startswith("CREATE"):
            yield self._codes.creation(tree.get("input") or "")
        elif tree.get("to"):
            key = self._code_at(tree["to"])
            if key is not None:
                yield key
        for child in tree.get("calls", ()):
            yield from self._frames(child)

    def _code_at(self, address: str) -> str | None:
        if address not in self._known:
            code = self._ask("eth_getCode", address, "latest")
            if code in (None, "0x"):
                return None
            self._known[address] = self._codes.deployed(code)
        return self._known[address]

    def _ask(self, method: str, *params: Any) -> Any:
        answer = json.loads(self._request(method, *params))
        if "error" in answer:
            self.counts[f"{method} refused"] += 1
        return answer.get("result")

    def _request(self, method: str, *params: Any) -> bytes:
        return self._forward(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())

    def _forward(self, body: bytes) -> bytes:
        self._chain.request("POST", "/", body, {"Content-Type": "application/json"})
        return self._chain.getresponse().read()


class Server(ThreadingHTTPServer):
    """Serves the recorder, one request at a time: a trace must see the state of its call."""

    daemon_threads = True

    def __init__(self, port: int, recorder: Recorder) -> None:
        self.recorder, self.lock = recorder, threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)


class Handler(BaseHTTPRequestHandler):
    """One client's connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_POST(self) -> None:  # the name that the base class calls
        """Pass a request on."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            answer = self.server.recorder.answer(body)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n"
        self.wfile.write(head.encode() + answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def main(arguments: Sequence[str]) -> int:
    """Run anvil behind until told to end."""
    words = list(arguments)
    at = words.index("--port") + 1
    front, words[at] = int(words[at]), str(free_port())
    rows = json.loads(Path(os.environ["RETALLY_CODES"]).read_text(encoding="utf-8"))
    out = Path(os.environ["RETALLY_TRACES"]) / f"{os.getpid()}.json"
    with subprocess.Popen([os.environ["RETALLY_REAL_ANVIL"], *words, NO_LIMIT]) as chain:
        recorder = Recorder(int(words[at]), Codes(rows), out)
        while not _answers(int(words[at])):
            time.sleep(0.02)
        server = Server(front, recorder)

        def end(_: int, __: FrameType | None) -> None:
            threading.Thread(target=server.shutdown).start()

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        server.serve_forever(poll_interval=0.05)
        with server.lock:
            recorder.write()
        chain.terminate()
    return 0


def _listed(parsed: Any) -> list[Any]:
    return parsed if isinstance(parsed, list) else [parsed]


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", "/", b"{}", {"Content-Type": "application/json"})
        connection.getresponse().read()
    except OSError:
        return False
    finally:
        connection.close()
    return True


if __name__ == "__main__":
    socketserver.TCPServer.request_queue_size = 64
    sys.exit(main(sys.argv[1:]))

"""A node without a model for scripts/bench_router: real chunks, receipts and books of vouchers, made cheaply.

What does not depend on the job (token ids, output roots, texts) is made once; each job costs one signature for its
receipt and one for each chunk.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from bench_router_market import (
    CHUNK_TOKENS,
    DOMAIN,
    MODEL,
    MODEL_ID,
    MOST_TOKENS,
    PROFILE_ID,
    PROMPT_IDS,
    node_key,
    offer_of,
)
from bench_router_wire import SUBMISSION, WireVoucher
from retally.protocol.eip712 import check_signed_by
from retally.protocol.encoding import address_bytes, keccak, to_hex, u256
from retally.protocol.job import job_seed
from retally.protocol.merkle import OutputTree, ids_root
from retally.protocol.pricing import PER
from retally.protocol.receipt import Chunk, FinishReason, JobReceipt
from retally.protocol.voucher import Voucher

CHECK_EVERY = 64
MOST_PACE_US = 10**7
KEPT_BODIES = 64


class Line:
    """A channel's books."""

    def __init__(self, wire: WireVoucher) -> None:
        self.wire = wire
        self.best, self.signature, self.cum_to, self.jobs, self.seen = 0, "", 0, 0, 0
        self.open: dict[str, int] = {}

    def take(self, voucher: WireVoucher, signature: str) -> None:
        """A voucher; each some-th and the last are checked."""
        self.seen += 1
        if self.seen % CHECK_EVERY == 1:
            check(voucher, signature)
        if int(voucher.cumulative) > self.best:
            self.best, self.signature = int(voucher.cumulative), signature

    def view(self) -> dict[str, Any]:
        """The channel's state."""
        due = self.cum_to + sum(self.open.values())
        unpaid = str(max(0, due - self.best))
        known = self.signature or None
        view = {"best": str(self.best), "bestSignature": known, "lastCumTo": str(self.cum_to), "due": str(due)}
        return {**view, "open": len(self.open), "unpaid": unpaid}


def check(wire: WireVoucher, signature: str) -> None:
    """The voucher is signed by its signer."""
    voucher = Voucher.from_wire(msgspec.to_builtins(wire))
    check_signed_by(voucher.digest(DOMAIN), bytes.fromhex(signature[2:]), voucher.signer)


class Book:
    """All that the node keeps, and what all answers share."""

    def __init__(self, name: str) -> None:
        self.key = node_key(name)
        self.offer = offer_of(self.key.address)
        self.offer_hash = self.offer.digest(DOMAIN)
        self.lines: dict[tuple[str, str, int], Line] = {}
        self.receipts: dict[str, bytes] = {}
        #: The last submissions, as they came: what asks a node without a router between sends them again.
        self.bodies: deque[bytes] = deque(maxlen=KEPT_BODIES)
        ids = [(i * 7919) % 32000 for i in range(MOST_TOKENS)]
        tree, self.roots = OutputTree(), [OutputTree().root()]
        for i, token in enumerate(ids):
            tree.append([token], [i % 1000])
            self.roots.append(tree.root())
        shape = (
            ',"object":"chat.completion.chunk","created":1,"model":"'
            + MODEL
            + '","choices":[{"index":0,"logprobs":null,'
        )
        opened = b'"' + shape.encode() + b'"finish_reason":null,"delta":'
        ended = b'"' + shape.encode() + b'"finish_reason":"length","delta":'
        rest = b'}],"retally":{"jobId":"'
        self.opening = (opened + b'{"role":"assistant","content":""}' + rest, b'","choice":0}}\n\n')
        self.shared = [
            (
                opened + b'{"content":" word%d"}' % i + rest,
                ended + b'{"content":" word%d"}' % i + rest,
                b'","promptTokens":%d,"choice":0,"outputFrom":%d,"ids":[%d],"q":[%d]'
                % (len(PROMPT_IDS), i, token, i % 1000),
            )
            for i, token in enumerate(ids)
        ]
        self.prompt_root, self.empty = ids_root(PROMPT_IDS), ids_root([])
        word = bytes(12) + address_bytes(self.key.address)
        self.node_word = word
        self.chunk_type, self.receipt_type = keccak(Chunk.TYPE.encode()), keccak(JobReceipt.TYPE.encode())

    def sign(self, struct: bytes) -> str:
        """A signature of an encoded struct."""
        return to_hex(self.key.sign(keccak(DOMAIN.prefix + keccak(struct))))

    def info(self) -> dict[str, Any]:
        """What the directory reads."""
        signature = to_hex(self.key.sign(self.offer_hash))
        load = {"running": 0, "waiting": 0}
        shown = {"model": MODEL, "offer": self.offer.to_wire(), "offerSignature": signature, "load": load}
        totals = {
            f"{p}/{s}/{lane}": {"fees": line.cum_to, "jobs": line.jobs} for (p, s, lane), line in self.lines.items()
        }
        return {"node": self.key.address, **shown, "bench": totals}

    def line(self, voucher: WireVoucher) -> Line:
        """The books of a voucher's channel."""
        key = (voucher.payer, voucher.signer, voucher.lane)
        found = self.lines.get(key)
        if found is None:
            found = self.lines[key] = Line(voucher)
        return found


class Answer:
    """One job's answer, made token by token."""

    def __init__(self, book: Book, raw: bytes) -> None:
        self.book, self.job = book, SUBMISSION.decode(raw)
        book.bodies.append(raw)
        self.line = book.line(self.job.voucher)
        self.line.take(self.job.voucher, self.job.voucher_signature)
        self.job_id = self.job.assignments[0].assignment.job_id
        self.count, self.sent = self.job.params.max_tokens, 0
        # Only what the router collects into a plain answer asks for usage here: no client waits for its first token.
        self.at_once = self.job.options.include_usage
        # The client's seed says how many microseconds lie between tokens; a seed of 32 random bytes is none of ours.
        pace = int(self.job.request.client_seed, 16)
        self.pace = pace / 1e6 if pace < MOST_PACE_US else 0.0
        self.start = b'data: {"id":"chatcmpl-' + self.job_id[2:26].encode()
        self.hex, self.raw_id = self.job_id.encode(), bytes.fromhex(self.job_id[2:])
        self.line.open[self.job_id] = len(PROMPT_IDS) * book.offer.price_in // PER

    @property
    def is_paid(self) -> bool:
        """Whether the voucher covers what is due with this job's input in it (R-22)."""
        return self.line.best >= self.line.cum_to + sum(self.line.open.values())

    def close(self) -> None:
        """Ends the job where it stands, if it has not ended."""
        self.line.open.pop(self.job_id, None)

    def fee(self, tokens: int) -> int:
        """R-19 for so many tokens."""
        prices = self.book.offer
        return (len(PROMPT_IDS) * prices.price_in + tokens * prices.price_out) // PER

    def opening(self) -> bytes:
        """The frame that names the role."""
        return self.start + self.book.opening[0] + self.hex + self.book.opening[1]

    def next(self) -> bytes:
        """The next token's frame."""
        i, self.sent = self.sent, self.sent + 1
        opened, ended, extra = self.book.shared[i]
        last = self.sent == self.count
        if not last and self.sent % CHUNK_TOKENS:
            return self.start + opened + self.hex + extra + b"}}\n\n"
        body = self.start + (ended if last else opened) + self.hex + extra + self.chunk()
        return body + (self.receipt() if last else b"") + b"}}\n\n"

    def chunk(self) -> bytes:
        """The signed chunk up to here."""
        book, line = self.book, self.line
        line.open[self.job_id] = self.fee(self.sent)
        due = line.cum_to + sum(line.open.values())
        root = book.roots[self.sent]
        words = (
            book.chunk_type + self.raw_id + bytes(64) + book.node_word + bytes(32) + u256(self.sent) + root + u256(due)
        )
        chunk = {"jobId": self.job_id, "choice": 0, "segment": 0, "node": book.key.address, "outputFrom": 0}
        chunk |= {"outputTo": self.sent, "outputRoot": to_hex(root), "due": str(due)}
        return b',"chunk":' + msgspec.json.encode(chunk) + b',"chunkSignature":"' + book.sign(words).encode() + b'"'

    def receipt(self) -> bytes:
        """The signed receipt; moves the money line."""
        book, line, job = self.book, self.line, self.job
        request, fee = job.request, self.fee(self.count)
        start, line.cum_to = line.cum_to, line.cum_to + fee
        line.jobs += 1
        del line.open[self.job_id]
        seed = job_seed(bytes.fromhex(request.client_seed[2:]), 0)
        values: list[Any] = [
            self.raw_id,
            0,
            request.payer,
            request.signer,
            book.key.address,
            job.lane,
            start,
            line.cum_to,
        ]
        values += [
            MODEL_ID,
            PROFILE_ID,
            book.offer_hash,
            book.prompt_root,
            len(PROMPT_IDS),
            0,
            book.empty,
            0,
            self.count,
        ]
        values += [book.roots[self.count], bytes.fromhex(request.params_hash[2:]), seed, int(FinishReason.LENGTH), 1, 2]
        signature = book.sign(book.receipt_type + b"".join([word_of(value) for value in values]))
        wide = {"cumFrom", "cumTo"}
        wire = {
            n: str(v) if n in wide else to_hex(v) if type(v) is bytes else v for n, v in zip(NAMES, values, strict=True)
        }
        raw = b'{"receipt":' + msgspec.json.encode(wire) + b',"signature":"' + signature.encode() + b'"}'
        book.receipts[self.job_id] = raw
        return b',"receipt":' + raw[11:].replace(b',"signature"', b',"receiptSignature"')[:-1] + b',"cost":"%d"' % fee

    def usage(self) -> bytes:
        """The closing frame."""
        head = b'","object":"chat.completion.chunk","created":1,"model":"' + MODEL.encode()
        used = {"prompt_tokens": len(PROMPT_IDS), "completion_tokens": self.count}
        used["total_tokens"] = len(PROMPT_IDS) + self.count
        return self.start + head + b'","choices":[],"usage":' + msgspec.json.encode(used) + b"}\n\n"


NAMES = [part.split(" ")[1] for part in JobReceipt.TYPE[len("JobReceipt(") : -1].split(",")]


def word_of(value: Any) -> bytes:
    """One EIP-712 word."""
    if type(value) is str:
        return bytes(12) + address_bytes(value)
    return bytes(value) if isinstance(value, bytes) else u256(value)

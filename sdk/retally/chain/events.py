"""What the contracts said: decoded logs, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retally.chain.abi import CONTRACTS, Entry, load_abi
from retally.chain.connection import Chain
from retally.chain.rpc import RpcCall
from retally.protocol.case import CommitRecord, Range, unpack_ranges
from retally.protocol.encoding import Address, Bytes32, keccak

BLOCKS_PER_REQUEST = 5_000
REQUESTS_PER_BATCH = 20
POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """One decoded log."""

    contract: str
    name: str
    args: Mapping[str, Any]
    block: int
    log_index: int
    tx_hash: Bytes32


@dataclass(frozen=True, slots=True)
class EventBatch:
    """All events up to a block; a follower that has handled it goes on at `to_block + 1`."""

    to_block: int
    events: Sequence[ChainEvent]


@dataclass(frozen=True, slots=True)
class Collected:
    """A commit as `collect` announced it."""

    commit: CommitRecord
    ranges: tuple[Range, ...]
    packed_ranges: bytes
    paid: int
    audit_share: int
    held: int


def collected_of(event: ChainEvent) -> Collected:
    """The commit of a Collected event."""
    args = event.args
    packed = args["ranges"]
    commit = CommitRecord(
        id=args["commitId"],
        node=args["node"],
        owner=args["owner"],
        receipts_root=Bytes32(args["receiptsRoot"]),
        ranges_hash=keccak(packed),
        step=args["step"],
        share_ppm=args["sharePpm"],
        seed_block=args["seedBlock"],
        time=args["time"],
    )
    return Collected(commit, unpack_ranges(packed), packed, args["paid"], args["auditShare"], args["held"])


class EventReader:
    """Reads the logs of all contracts of a deployment."""

    def __init__(self, chain: Chain, contracts: Sequence[str] = CONTRACTS) -> None:
        self._chain = chain
        deployed = chain.deployment.contracts
        self._names: dict[Address, str] = {deployed[name]: name for name in contracts if name in deployed}
        self._entries: dict[str, Mapping[bytes, Entry]] = {n: load_abi(n).events for n in self._names.values()}
        self._lower = {address.lower(): name for address, name in self._names.items()}

    async def read(self, from_block: int, to_block: int) -> list[ChainEvent]:
        """All events of these blocks, both included, in order."""
        return await self._read(from_block, to_block, [])

    async def read_named(
        self, name: str, from_block: int, to_block: int, **indexed: int | str | bytes
    ) -> list[ChainEvent]:
        """The same, but of one event alone, whose indexed arguments are these: the RPC leaves out the others.

        Raises KeyError where none of the contracts knows the event, or an argument of that name is not indexed in it.
        """
        return await self._read(from_block, to_block, self._topics(name, indexed))

    def _topics(self, name: str, indexed: Mapping[str, int | str | bytes]) -> list[str | None]:
        """A filter of `eth_getLogs`: None stands for whatever is there."""
        events = (entry for entries in self._entries.values() for entry in entries.values() if entry.name == name)
        entry = next(events, None)
        if entry is None:
            raise KeyError(name)
        places = {each.name: place for place, each in enumerate((e for e in entry.inputs if e.indexed), start=1)}
        topics: list[str | None] = ["0x" + entry.topic.hex(), *(None for _ in places)]
        for argument, value in indexed.items():
            topics[places[argument]] = _topic(value)
        return topics

    async def _read(self, from_block: int, to_block: int, topics: Sequence[str | None]) -> list[ChainEvent]:
        starts = range(from_block, to_block + 1, BLOCKS_PER_REQUEST)
        calls = [self._request(start, min(start + BLOCKS_PER_REQUEST - 1, to_block), topics) for start in starts]
        events: list[ChainEvent] = []
        for i in range(0, len(calls), REQUESTS_PER_BATCH):
            for logs in await self._chain.rpc.batch(calls[i : i + REQUESTS_PER_BATCH]):
                events.extend(event for event in map(self._decode, logs) if event is not None)
        return sorted(events, key=lambda event: (event.block, event.log_index))

    def _request(self, start: int, end: int, topics: Sequence[str | None]) -> RpcCall:
        query = {"fromBlock": hex(start), "toBlock": hex(end), "address": list(self._names), "topics": list(topics)}
        return RpcCall("eth_getLogs", (query,))

    def _decode(self, log: Mapping[str, Any]) -> ChainEvent | None:
        name = self._lower[log["address"].lower()]
        topics = [bytes.fromhex(topic[2:]) for topic in log["topics"]]
        entry = self._entries[name].get(topics[0]) if topics else None
        if entry is None:
            return None
        args = entry.decode_log(topics, bytes.fromhex(log["data"][2:]))
        block, index = int(log["blockNumber"], 16), int(log["logIndex"], 16)
        return ChainEvent(name, entry.name, args, block, index, Bytes32(bytes.fromhex(log["transactionHash"][2:])))

    async def follow(
        self, from_block: int, confirmations: int = 0, poll_seconds: float = POLL_SECONDS
    ) -> AsyncIterator[EventBatch]:
        """Batches of events as blocks are confirmed; a batch may hold no events."""
        next_block = from_block
        while True:
            head = await self._chain.block_number() - confirmations
            if head >= next_block:
                yield EventBatch(head, await self.read(next_block, head))
                next_block = head + 1
            await asyncio.sleep(poll_seconds)


def _topic(value: int | str | bytes) -> str:
    """A number, an address or 32 bytes as an indexed argument stands in a log."""
    if isinstance(value, int):
        return f"0x{value:064x}"
    return "0x" + (value.hex() if isinstance(value, bytes) else value[2:].lower().rjust(64, "0"))


async def block_at(chain: Chain, time: int) -> int:
    """The first block at or after a time, but none before the deployment's."""
    low, high = chain.deployment.deployed_block, await chain.block_number()
    while low < high:
        middle = (low + high) // 2
        block = await chain.rpc.request("eth_getBlockByNumber", hex(middle), False)
        if int(block["timestamp"], 16) < time:
            low = middle + 1
        else:
            high = middle
    return low

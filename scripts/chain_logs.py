"""Raw chain access for scripts that shall share nothing with the services: web3, eth_abi and keccak only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eth_abi.abi import decode, encode
from eth_hash.auto import keccak
from web3 import HTTPProvider, Web3

BLOCKS_PER_REQUEST = 5_000


class Logs:
    """One chain as it stands at one block, and one deployment file."""

    def __init__(self, rpc_url: str, deployment: Path) -> None:
        self.web3 = Web3(HTTPProvider(rpc_url))
        content = json.loads(deployment.read_text(encoding="utf-8"))
        self.contracts: dict[str, str] = content["contracts"]
        self.first_block = int(content.get("deployedBlock", 0))
        # Everything is read at one block: what moves while one reads would be counted twice, or never.
        self.block = self.web3.eth.block_number

    def read(self, address: str, event: str) -> list[dict[str, Any]]:
        """All logs of one event, whose signature marks indexed parameters: `Name(uint64 indexed,address)`."""
        name, inner = event.rstrip(")").split("(")
        kinds = inner.split(",")
        plain = [kind.removesuffix(" indexed") for kind in kinds]
        topic = Web3.to_hex(keccak(f"{name}({','.join(plain)})".encode()))
        found = []
        for start in range(self.first_block, self.block + 1, BLOCKS_PER_REQUEST):
            end = min(start + BLOCKS_PER_REQUEST - 1, self.block)
            query: Any = {"address": address, "topics": [topic], "fromBlock": start, "toBlock": end}
            for log in self.web3.eth.get_logs(query):
                topics = iter(log["topics"][1:])
                data = iter(decode([kind for kind in kinds if not kind.endswith(" indexed")], bytes(log["data"])))
                values = [
                    decode([kind.removesuffix(" indexed")], bytes(next(topics)))[0]
                    if kind.endswith(" indexed")
                    else next(data)
                    for kind in kinds
                ]
                found.append({"values": values, "block": log["blockNumber"]})
        return found

    def call(self, address: str, signature: str, outputs: Sequence[str], *args: Any) -> tuple[Any, ...]:
        """What a view returns, by its signature."""
        inner = signature.rstrip(")").split("(")[1]
        data = keccak(signature.encode())[:4] + encode(inner.split(",") if inner else [], list(args))
        request: Any = {"to": address, "data": Web3.to_hex(data)}
        return tuple(decode(list(outputs), bytes(self.web3.eth.call(request, self.block))))

"""A local chain under our control: blocks each second while the devnet runs, its clock moved on purpose."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from retally.devnet.ports import HOST, free_port
from retally.devnet.processes import Service, ServiceFailed
from retally.devnet.tools import anvil_path
from retally.errors import Unavailable

CHAIN_ID = 31337
_READY_SECONDS = 20.0
_POLL_SECONDS = 0.02


class RpcRefused(Unavailable):
    """The chain answered a call of ours with an error."""

    code = "rpc_refused"

    def __init__(self, method: str, error: object) -> None:
        self.method, self.error = method, error
        super().__init__(f"{method} failed: {error}")


class Anvil:
    """One anvil process and the calls that ordinary chains do not have."""

    def __init__(self, folder: Path, *, mark: str, port: int = 0, block_time_seconds: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        command = [str(anvil_path()), "--host", HOST, "--port", str(self.port), "--chain-id", str(CHAIN_ID), "--quiet"]
        # Nobody asks for old states; kept on disk they come to gigabytes an hour, which a killed anvil leaves behind.
        command += ["--max-persisted-states", "0"]
        if block_time_seconds is not None:
            # Interval and transaction mining together: empty blocks keep coming, and nobody waits for the next one.
            command += ["--block-time", str(block_time_seconds), "--mixed-mining"]
        self.service = Service("anvil", command, folder / "anvil.log", mark=mark)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the chain and wait until it answers."""
        self.service.start()
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            self.service.check_running()
            try:
                await self.call("eth_chainId")
            except httpx.TransportError:
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return
        raise ServiceFailed("anvil", f"did not answer within {_READY_SECONDS:.0f} s", self.service.log)

    async def stop(self) -> None:
        """End the chain; its state is gone."""
        await self.service.stop()

    async def call(self, method: str, *params: object) -> Any:
        """One JSON-RPC call."""
        # A client for each call keeps this object free of any event loop; without TLS that costs half a millisecond.
        async with httpx.AsyncClient(timeout=60, trust_env=False, verify=False) as client:
            request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            body = (await client.post(self.url, json=request)).json()
        if "error" in body:
            raise RpcRefused(method, body["error"])
        return body["result"]

    async def now(self) -> int:
        """The latest block's timestamp."""
        block = await self.call("eth_getBlockByNumber", "latest", False)
        return int(block["timestamp"], 16)

    async def set_balance(self, address: str, wei: int) -> None:
        """Give an address money for gas."""
        await self.call("anvil_setBalance", address, hex(wei))

    async def mine(self, blocks: int, interval_seconds: int = 1) -> None:
        """Add blocks at once."""
        await self.call("anvil_mine", hex(blocks), hex(interval_seconds))

    async def jump(self, seconds: int) -> None:
        """Let chain time pass; a block is mined so that everyone sees it."""
        await self.call("evm_increaseTime", seconds)
        await self.mine(1)

"""Sending transactions: one at a time per key, stored before they are sent, replaced by fee."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eth_account import Account

from retally.chain.abi import decode_error
from retally.chain.connection import Chain
from retally.chain.contract import ContractCall
from retally.chain.file_lock import locked
from retally.chain.recursion import bound_recursion
from retally.chain.rpc import RpcFailed
from retally.crash_points import crash_point
from retally.errors import TransactionFailed, UpstreamTimeout
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Address, to_hex

# After eth_account, which brings the library that raises it.
bound_recursion()
log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
REPLACE_AFTER_SECONDS = 20.0
GIVE_UP_SECONDS = 300.0
LOOK_SECONDS = 1.0
LOOKS = 3
GAS_MARGIN_PERCENT = 25
FEE_BUMP_PERCENT = 25
#: Some nine times the first fee.
MOST_REPLACEMENTS = 10
PRIORITY_FEE_WEI = 1_000_000_000


@dataclass(frozen=True, slots=True)
class TxReceipt:
    """A mined transaction."""

    tx_hash: str
    block: int
    gas_used: int
    logs: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Resumed:
    """What an earlier send left, and how it ended; without a receipt it failed, or nobody knows it any more."""

    label: str
    to: str
    data: str
    tx_receipt: TxReceipt | None

    def is_call(self, call: ContractCall) -> bool:
        """Whether it did what this call would do."""
        return self.tx_receipt is not None and (self.to, self.data) == (call.to, to_hex(call.data))


class _NonceTaken(UpstreamTimeout):
    """Another transaction of the key has the nonce: what waits for it is never mined."""

    code = "nonce_taken"
    hint = "another program sends with this key; look at the account, then run the same command again"


@dataclass(slots=True)
class _Pending:
    """A transaction and all its replacements, which share a nonce."""

    nonce: int
    label: str
    request: dict[str, Any]
    raws: list[str]
    hashes: list[str]

    def to_json(self) -> str:
        return json.dumps(
            {
                "nonce": self.nonce,
                "label": self.label,
                "request": self.request,
                "raws": self.raws,
                "hashes": self.hashes,
            }
        )


class TxSender:
    """Sends the transactions of one key; those of one store wait for each other, in whatever process they are."""

    def __init__(self, chain: Chain, key: SigningKey, store: Path | None = None) -> None:
        self._chain = chain
        self._rpc = chain.rpc
        self._key = key
        self._store = store
        self._lock = asyncio.Lock()

    @property
    def address(self) -> Address:
        """Who sends."""
        return self._key.address

    async def send(self, call: ContractCall, value: int = 0) -> TxReceipt:
        """Sends a call and waits until it is mined; a revert becomes TransactionFailed."""
        async with self._lock, locked(self._store, GIVE_UP_SECONDS):
            await self._resume()
            request = await self._prepare(call, value)
            pending = _Pending(int(request["nonce"], 16), call.label, request, [], [])
            crash_point(f"before:tx:store:{call.label}")
            self._sign(pending)
            crash_point(f"after:tx:store:{call.label}")
            try:
                await self._submit(pending.raws[-1])
            except TransactionFailed:
                self._write(None)
                raise
            crash_point(f"after:tx:submit:{call.label}")
            tx_receipt = await self._settle(pending)
            crash_point(f"after:tx:settle:{call.label}")
            return tx_receipt

    async def resume(self) -> Resumed | None:
        """Finishes what is stored of an earlier send; only then does the chain show all that this key has done."""
        async with self._lock, locked(self._store, GIVE_UP_SECONDS):
            return await self._resume()

    async def _prepare(self, call: ContractCall, value: int) -> dict[str, Any]:
        request: dict[str, Any] = {
            "from": self._key.address,
            "to": call.to,
            "data": to_hex(call.data),
            "value": hex(value),
        }
        try:
            gas = int(await self._rpc.request("eth_estimateGas", request, "pending"), 16)
        except RpcFailed as error:
            raise self._failed(error) from error
        nonce = int(await self._rpc.request("eth_getTransactionCount", self._key.address, "pending"), 16)
        block = await self._rpc.request("eth_getBlockByNumber", "latest", False)
        base_fee = int(block.get("baseFeePerGas", "0x0"), 16)
        limit = int(block["gasLimit"], 16)
        return {
            **request,
            "chainId": hex(self._chain.deployment.chain_id),
            "nonce": hex(nonce),
            "gas": hex(min(gas + gas * GAS_MARGIN_PERCENT // 100, limit)),
            "maxPriorityFeePerGas": hex(PRIORITY_FEE_WEI),
            "maxFeePerGas": hex(2 * base_fee + PRIORITY_FEE_WEI),
        }

    def _failed(self, error: RpcFailed) -> TransactionFailed:
        if error.data:
            return TransactionFailed(*decode_error(error.data))
        return TransactionFailed("Refused", {"message": error.message})

    def _sign(self, pending: _Pending) -> None:
        request = {name: value for name, value in pending.request.items() if name != "from"}
        signed = Account.sign_transaction({**request, "type": 2}, self._key.secret)
        pending.raws.append(to_hex(signed.raw_transaction))
        pending.hashes.append(to_hex(signed.hash))
        # Stored before it is sent: after a crash the same bytes are sent again, never a second payment.
        self._write(pending.to_json())

    async def _submit(self, raw: str) -> None:
        try:
            await self._rpc.request("eth_sendRawTransaction", raw)
        except RpcFailed as error:
            known = ("already known", "already imported", "nonce too low", "underpriced")
            if not any(text in error.message.lower() for text in known):
                raise self._failed(error) from error

    async def _settle(self, pending: _Pending) -> TxReceipt:
        waited = since_replaced = since_looked = 0.0
        overtaken = 0
        while waited < GIVE_UP_SECONDS:
            found = await self._mined(pending)
            if found is not None:
                self._write(None)
                return await self._finish(pending, found)
            await asyncio.sleep(POLL_SECONDS)
            waited, since_looked = waited + POLL_SECONDS, since_looked + POLL_SECONDS
            since_replaced += POLL_SECONDS
            if since_looked >= LOOK_SECONDS:
                since_looked = 0.0
                # More than once: an endpoint may tell the nonce before it tells the receipt.
                overtaken = overtaken + 1 if await self._count() > pending.nonce else 0
            if overtaken >= LOOKS:
                self._write(None)
                raise _NonceTaken(f"another transaction took the place of {pending.label}")
            if since_replaced >= REPLACE_AFTER_SECONDS and not overtaken:
                since_replaced = 0.0
                await self._replace(pending)
        raise UpstreamTimeout(f"{pending.label} was not mined in {GIVE_UP_SECONDS:g} s")

    async def _mined(self, pending: _Pending) -> Mapping[str, Any] | None:
        for tx_hash in pending.hashes:
            found: Mapping[str, Any] | None = await self._rpc.request("eth_getTransactionReceipt", tx_hash)
            if found is not None:
                return found
        return None

    async def _count(self) -> int:
        return int(await self._rpc.request("eth_getTransactionCount", self._key.address, "latest"), 16)

    async def _replace(self, pending: _Pending) -> None:
        if len(pending.raws) > MOST_REPLACEMENTS:
            # A chain that makes no blocks is not outbid: without an end, an hour of it would take the whole account.
            return
        for name in ("maxPriorityFeePerGas", "maxFeePerGas"):
            fee = int(pending.request[name], 16)
            pending.request[name] = hex(fee + fee * FEE_BUMP_PERCENT // 100 + 1)
        self._sign(pending)
        try:
            await self._submit(pending.raws[-1])
        except TransactionFailed as error:
            # Those sent before it are still out: one of them is waited for.
            log.warning("%s was not replaced: %s", pending.label, error)

    async def _finish(self, pending: _Pending, found: Mapping[str, Any]) -> TxReceipt:
        if int(found["status"], 16) == 1:
            block, gas = int(found["blockNumber"], 16), int(found["gasUsed"], 16)
            return TxReceipt(str(found["transactionHash"]), block, gas, tuple(found["logs"]))
        call = {name: pending.request[name] for name in ("from", "to", "data", "value")}
        try:
            await self._rpc.request("eth_call", call, found["blockNumber"])
        except RpcFailed as error:
            name, operands = decode_error(error.data)
            raise TransactionFailed(name, operands, str(found["transactionHash"])) from error
        raise TransactionFailed("Reverted", {}, str(found["transactionHash"]))

    async def _resume(self) -> Resumed | None:
        """Sends again what was stored and not seen mined: by a process that died, or in a send that was cut short."""
        if self._store is None or not self._store.exists():
            return None
        pending = _Pending(**json.loads(self._store.read_text(encoding="utf-8")))
        tx_receipt = None
        try:
            if pending.nonce < await self._count():
                found = await self._mined(pending)
                tx_receipt = None if found is None else await self._finish(pending, found)
            elif await self._submit_any(pending.raws):
                tx_receipt = await self._settle(pending)
        except (TransactionFailed, _NonceTaken) as error:
            # It is over; its failure is not that of the call which waits behind it.
            log.warning("%s, sent again, failed: %s", pending.label, error)
        self._write(None)
        return Resumed(pending.label, pending.request["to"], pending.request["data"], tx_receipt)

    async def _submit_any(self, raws: Sequence[str]) -> bool:
        taken = False
        for raw in raws:
            try:
                await self._submit(raw)
                taken = True
            except TransactionFailed as error:
                log.warning("a stored transaction is refused: %s", error)
        return taken

    def _write(self, text: str | None) -> None:
        if self._store is None:
            return
        if text is None:
            self._store.unlink(missing_ok=True)
            return
        self._store.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._store.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._store)

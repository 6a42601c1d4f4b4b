"""A contract at an address: views, and calls to be sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from retally.chain.abi import Abi, decode_error, load_abi
from retally.chain.rpc import Rpc, RpcCall, RpcFailed
from retally.errors import ChainUnreachable, TransactionFailed
from retally.protocol.encoding import Address, to_hex


@dataclass(frozen=True, slots=True)
class ContractCall:
    """What a transaction shall do: where, which data, and how to name it in logs."""

    to: Address
    data: bytes
    label: str


class Contract:
    """Base of the contract wrappers."""

    NAME: str

    def __init__(self, rpc: Rpc, address: Address) -> None:
        self.rpc = rpc
        self.address = address
        self.abi: Abi = load_abi(self.NAME)

    def call(self, function: str, *args: Any) -> ContractCall:
        """The call of a function, to be sent with a TxSender."""
        return ContractCall(self.address, self.abi.functions[function].encode_call(args), f"{self.NAME}.{function}")

    async def view(self, function: str, *args: Any, sender: Address | None = None, block: str = "latest") -> Any:
        """What a function returns now; a revert becomes TransactionFailed."""
        entry = self.abi.functions[function]
        return entry.decode_result(await self._eth_call(entry.encode_call(args), sender, block))

    async def _eth_call(self, data: bytes, sender: Address | None, block: str) -> bytes:
        request: dict[str, Any] = {"to": self.address, "data": to_hex(data)}
        if sender is not None:
            request["from"] = sender
        try:
            result = await self.rpc.request("eth_call", request, block)
        except RpcFailed as error:
            if not error.data and "revert" not in error.message:
                raise
            raise TransactionFailed(*decode_error(error.data)) from error
        return _checked(self.NAME, self.address, result)

    async def views(self, function: str, many: list[tuple[Any, ...]]) -> list[Any]:
        """One function of many arguments in one round trip."""
        entry = self.abi.functions[function]
        calls = [
            RpcCall("eth_call", ({"to": self.address, "data": to_hex(entry.encode_call(args))}, "latest"))
            for args in many
        ]
        results = await self.rpc.batch(calls)
        return [entry.decode_result(_checked(self.NAME, self.address, result)) for result in results]


def _checked(name: str, address: Address, result: str) -> bytes:
    if result == "0x":
        raise ChainUnreachable(f"there is no {name} at {address} on this chain")
    return bytes.fromhex(result[2:])

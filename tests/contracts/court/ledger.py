"""A chain of its own with every contract deployed, and short ways to call them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import decode
from web3 import HTTPProvider, Web3
from web3.contract import Contract
from web3.contract.contract import ContractConstructor, ContractFunction
from web3.exceptions import ContractCustomError
from web3.types import BlockIdentifier

from retally.devnet.ports import free_port
from retally.devnet.tools import anvil_path
from retally.protocol.eip712 import Domain
from retally.protocol.encoding import Address, keccak

ROOT = Path(__file__).resolve().parents[3]
ARTIFACTS = ROOT / "sdk" / "retally" / "chain" / "abi"
NAMES = ("Audits", "BlockhashRandomness", "Court", "DevAsset", "Escrow", "Faults", "JurorPools", "Registry",
         "Silence", "Staking", "TreeFaults")  # fmt: skip
DAY = 86_400
MILLION = 1_000_000
DEPLOYER = "0x00000000000000000000000000000000000000D1"
GOVERNOR = "0x00000000000000000000000000000000000000D2"
BURN = "0x000000000000000000000000000000000000dEaD"
OPERATOR, ROUTER, VERIFIER = 1, 2, 3

COURT = {"fee": 30 * MILLION, "bond": 20 * MILLION, "tip": 500_000, "duty": 10 * MILLION}
PARAMETERS: Mapping[str, tuple[int, ...]] = {
    "staking": (
        1_000 * MILLION, 100 * MILLION, 100 * MILLION, 21 * DAY, 28 * DAY,
        200_000, 300_000, 300_000, 50_000, 50_000, 10_000, 200_000, 200_000,
    ),
    "registry": (28 * DAY, 28 * DAY, 28 * DAY, 5, 50, 300_000, 30_000),
    "escrow": (3 * DAY, 7 * DAY, 21 * DAY, 4),
    "audits": (100_000, DAY, DAY, 0),
    "court": (
        3, 4, DAY, DAY, DAY, 0, COURT["fee"], COURT["bond"], COURT["tip"], COURT["duty"], 100 * MILLION, 10 * MILLION,
    ),
    "pools": (4, 4_000 * MILLION),
    "faults": (100 * MILLION, 120 * MILLION, 28 * DAY, 7 * DAY),
    "silence": (20 * MILLION, 2 * MILLION, 100_000, 500_000, 100 * MILLION, 7 * DAY, DAY, 3_600, 64, 2, 4),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction that succeeded."""

    events: tuple[tuple[str, Mapping[str, Any]], ...]
    block: int
    gas: int

    def event(self, name: str) -> Mapping[str, Any]:
        """The arguments of the only event of this name."""
        (found,) = [args for event, args in self.events if event == name]
        return found


class Ledger:
    """The contracts of one fresh chain."""

    def __init__(self, url: str, court: tuple[int, ...] = PARAMETERS["court"]) -> None:
        self._court = court
        self.web3 = Web3(HTTPProvider(url))
        self._artifacts = {name: json.loads((ARTIFACTS / f"{name}.json").read_text()) for name in NAMES}
        self._errors = _selectors(self._artifacts.values(), "error")
        # Every block is one second after the last: `since` and deadlines depend on no real clock.
        self.rpc("anvil_setBlockTimestampInterval", 1)
        self._deploy()
        self.domain = Domain(self.web3.eth.chain_id, Address(self.escrow.address))
        self._events = {
            contract.events[event["name"]]().topic: contract.events[event["name"]]()
            for contract in self.contracts
            for event in contract.abi
            if event["type"] == "event"
        }

    @property
    def contracts(self) -> list[Contract]:
        """All but the asset."""
        return [self.escrow, self.staking, self.registry, self.audits, self.faults, self.court, self.silence,
                self.pools, self.tree_faults]  # fmt: skip

    def rpc(self, method: str, *params: Any) -> Any:
        """The result of a JSON-RPC call."""
        answer = self.web3.provider.make_request(method, list(params))  # type: ignore[arg-type] # anvil's own methods
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    def send(self, call: ContractFunction, sender: str) -> Mined:
        """Send a call and wait for its block; a revert surfaces by the name of its custom error."""
        sent = call.transact({"from": sender, "gas": 16_000_000, "gasPrice": 0})
        receipt = self.web3.eth.wait_for_transaction_receipt(sent, poll_latency=0.002)
        if receipt["status"] != 1:
            before = receipt["blockNumber"] - 1
            with pytest.raises(ContractCustomError) as caught:
                call.call({"from": sender}, block_identifier=before)
            raise AssertionError(f"{call.fn_name} reverted with {self._error(caught.value)}")
        logs = [self._decode(log) for log in receipt["logs"]]
        return Mined(tuple(log for log in logs if log is not None), receipt["blockNumber"], receipt["gasUsed"])

    def send_all(self, calls: Sequence[tuple[ContractFunction, str]]) -> None:
        """Send calls in one request and wait for none: what reverts shows in what the caller reads next."""
        requests = [
            ("eth_sendTransaction", [{
                "from": sender, "to": call.address, "gas": "0xf42400", "gasPrice": "0x0",
                "data": call._encode_transaction_data(),
            }])
            for call, sender in calls
        ]  # fmt: skip
        answers = self.web3.provider.make_batch_request(requests)  # type: ignore[arg-type]
        assert all("error" not in answer for answer in answers), answers

    def reverts(
        self, error: str, call: ContractFunction, sender: str, block: BlockIdentifier = "pending"
    ) -> tuple[Any, ...]:
        """Check that a call reverts with this custom error in the next block, or in `block`; return the operands."""
        with pytest.raises(ContractCustomError) as caught:
            call.call({"from": sender}, block_identifier=block)
        name, operands = self._error(caught.value)
        assert name == error, operands
        return operands

    def jump(self, seconds: int) -> None:
        """Let time pass."""
        self.rpc("evm_setNextBlockTimestamp", self.now() + seconds)
        self.mine(1)

    def mine(self, blocks: int) -> None:
        """Make empty blocks."""
        self.rpc("anvil_mine", hex(blocks))

    def now(self) -> int:
        """Time of the latest block."""
        return int(self.web3.eth.get_block("latest")["timestamp"])

    def balance(self, account: str) -> int:
        """What an account holds of the asset."""
        return int(self.asset.functions.balanceOf(account).call())

    @contextmanager
    def reverted(self) -> Iterator[None]:
        """Undo all that happens within."""
        snapshot = self.rpc("evm_snapshot")
        try:
            yield
        finally:
            self.rpc("evm_revert", snapshot)

    def deploy(self, abi: Sequence[Mapping[str, Any]], bytecode: str, *args: Any) -> Contract:
        """Deploy one contract."""
        constructor = self.web3.eth.contract(abi=abi, bytecode=bytecode).constructor(*args)
        sent = constructor.transact({"from": DEPLOYER, "gas": 16_000_000, "gasPrice": 0})
        receipt = self.web3.eth.wait_for_transaction_receipt(sent, poll_latency=0.002)
        assert receipt["status"] == 1
        return self.web3.eth.contract(address=receipt["contractAddress"], abi=abi)

    @property
    def money(self) -> tuple[str, str, str]:
        """The first arguments of every contract that judges."""
        return self.escrow.address, self.staking.address, self.registry.address

    def constructor(self, name: str, *args: Any) -> ContractConstructor:
        """The deployment of a contract."""
        artifact = self._artifacts[name]
        return self.web3.eth.contract(abi=artifact["abi"], bytecode=artifact["bytecode"]).constructor(*args)

    def deployment_reverts(self, error: str, deployment: ContractConstructor) -> None:
        """Check that a deployment reverts with this custom error."""
        with pytest.raises(ContractCustomError) as caught:
            deployment.estimate_gas({"from": DEPLOYER})
        assert self._error(caught.value)[0] == error

    def _deploy(self) -> None:
        order = (
            "asset", "randomness", "staking", "registry", "escrow", "audits", "faults", "tree_faults", "court",
            "silence", "pools",
        )  # fmt: skip
        at = {name: _created(DEPLOYER, nonce) for nonce, name in enumerate(order)}
        slashers = [at[name] for name in ("faults", "tree_faults", "court", "audits", "silence")]
        money = (at["escrow"], at["staking"], at["registry"])
        self.asset = self._make("DevAsset")
        self.randomness = self._make("BlockhashRandomness")
        self.staking = self._make(
            "Staking", at["asset"], at["escrow"], GOVERNOR, GOVERNOR, PARAMETERS["staking"], slashers
        )
        self.registry = self._make("Registry", at["staking"], at["escrow"], GOVERNOR, PARAMETERS["registry"])
        self.escrow = self._make(
            "Escrow",
            at["asset"],
            GOVERNOR,
            GOVERNOR,
            at["staking"],
            at["registry"],
            at["randomness"],
            PARAMETERS["escrow"],
        )
        self.audits = self._make("Audits", *money, at["randomness"], PARAMETERS["audits"])
        self.faults = self._make("Faults", *money, PARAMETERS["faults"])
        self.tree_faults = self._make("TreeFaults", *money, PARAMETERS["faults"])
        self.court = self._make("Court", *money, at["randomness"], at["pools"], GOVERNOR, GOVERNOR, self._court)
        self.silence = self._make("Silence", *money, at["audits"], PARAMETERS["silence"])
        self.pools = self._make("JurorPools", at["staking"], at["registry"], at["court"], PARAMETERS["pools"])
        assert [getattr(self, name).address for name in order] == list(at.values())

    def _make(self, name: str, *args: Any) -> Contract:
        artifact = self._artifacts[name]
        return self.deploy(artifact["abi"], artifact["bytecode"], *args)

    def error_name(self, data: bytes) -> str:
        """The name of the custom error in a revert's data; anything else raises KeyError."""
        return self._errors[data[:4]][0]

    def _error(self, error: ContractCustomError) -> tuple[str, tuple[Any, ...]]:
        data = bytes.fromhex(str(error.data)[2:])
        name, types = self._errors[data[:4]]
        return name, decode(types, data[4:])

    def _decode(self, log: Any) -> tuple[str, Mapping[str, Any]] | None:
        event = self._events.get("0x" + bytes(log["topics"][0]).hex())
        if event is None:
            return None
        return str(event.event_name), event.process_log(log)["args"]


def start_anvil() -> tuple[subprocess.Popen[bytes], str]:
    """Start a chain on a free port; whoever starts it ends it."""
    port = free_port()
    place = ["--host", "127.0.0.1", "--port", str(port), "--silent", "--auto-impersonate"]
    # Cancun keeps no history of block hashes: the window that seeds roll over is 256 blocks, quickly made.
    rules = ["--base-fee", "0", "--gas-price", "0", "--gas-limit", "60000000", "--hardfork", "cancun"]
    # Old states come to gigabytes on the disk, and nobody asks for them.
    rules += ["--max-persisted-states", "0"]
    process = subprocess.Popen([str(anvil_path()), *place, *rules])
    url = f"http://127.0.0.1:{port}"
    provider = Web3(HTTPProvider(url))
    deadline = time.monotonic() + 10
    while not provider.is_connected():
        assert time.monotonic() < deadline, "anvil did not start"
        time.sleep(0.02)
    return process, url


def _created(deployer: str, nonce: int) -> str:
    """Address of the contract that an account creates with this nonce (below 128)."""
    encoded = b"\xd6\x94" + bytes.fromhex(deployer[2:]) + (b"\x80" if nonce == 0 else bytes([nonce]))
    return Web3.to_checksum_address(keccak(encoded)[12:])


def _selectors(artifacts: Any, kind: str) -> dict[bytes, tuple[str, list[str]]]:
    found = {}
    for artifact in artifacts:
        for item in artifact["abi"]:
            if item["type"] != kind:
                continue
            types = [part["type"] for part in item["inputs"]]
            found[keccak(f"{item['name']}({','.join(types)})".encode())[:4]] = (item["name"], types)
    return found

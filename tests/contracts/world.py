"""A chain with every contract on it, and the few moves that tests of money make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from eth_abi.abi import decode
from web3 import HTTPProvider, Web3
from web3.contract import Contract
from web3.contract.contract import ContractFunction
from web3.exceptions import ContractCustomError
from web3.logs import DISCARD
from web3.types import TxReceipt

from compile_contracts import Artifact
from retally.chain.abi import CONTRACTS
from retally.chain.deploy import ANVIL_KEY, Catalogue, Model, Profile, artifact, deploy
from retally.protocol.eip712 import Domain, SigningKey, TypedMessage
from retally.protocol.encoding import Address, keccak
from retally.protocol.voucher import NodeAuth, Reservation, SignerAuth, Voucher

DAY = 86_400
DOLLAR = 1_000_000
OPERATOR, ROUTER, VERIFIER = 1, 2, 3
BURNED = "0x000000000000000000000000000000000000dEaD"
MODEL, BIG_MODEL, PROFILE, OTHER_PROFILE = (keccak(text.encode()) for text in ("model", "big model", "p1", "p2"))
UNIT = 200
ROOT = keccak(b"receipts")
CATALOGUE = Catalogue(
    models=[Model("0x" + MODEL.hex(), UNIT, "tiny", "ipfs://m"), Model("0x" + BIG_MODEL.hex(), 9_000, "big", "")],
    profiles=[Profile("0x" + PROFILE.hex(), "ipfs://p"), Profile("0x" + OTHER_PROFILE.hex(), "")],
)
FUNDS = 1_000_000 * DOLLAR
# Named, since asking the chain for a price doubles the time of a test.
GAS_PRICE = 10**10


def split(signature: bytes) -> tuple[bytes, bytes]:
    """r and vs of an EIP-2098 signature."""
    return signature[:32], signature[32:]


@dataclass(frozen=True)
class Item:
    """One item of a `collect`: a voucher, its signature, and what receipts cover."""

    voucher: Voucher
    signature: bytes
    covered: int

    def pack(self) -> bytes:
        """The 132 bytes of the item."""
        v = self.voucher
        return (
            bytes.fromhex(v.payer[2:])
            + bytes.fromhex(v.signer[2:])
            + v.lane.to_bytes(4, "big")
            + v.cumulative.to_bytes(12, "big")
            + self.covered.to_bytes(12, "big")
            + self.signature
        )


def _errors(abi: Sequence[Mapping[str, Any]]) -> dict[bytes, Mapping[str, Any]]:
    def selector(item: Mapping[str, Any]) -> bytes:
        return keccak(f"{item['name']}({','.join(i['type'] for i in item['inputs'])})".encode())[:4]

    return {selector(item): item for item in abi if item["type"] == "error"}


@dataclass
class World:
    """One chain. Every address may send: the chain impersonates whoever asks."""

    url: str
    asset_address: str | None = None
    web3: Web3 = field(init=False)
    deployment: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.web3 = Web3(HTTPProvider(self.url))
        self.rpc("anvil_autoImpersonateAccount", True)
        self.deployment = deploy(self.url, ANVIL_KEY, catalogue=CATALOGUE, asset=self.asset_address)
        self.at: Mapping[str, Address] = self.deployment["contracts"]
        self.domain = Domain(self.deployment["chainId"], self.at["Escrow"])
        self.asset = self.contract("DevAsset", self.at["Asset"])
        self.escrow = self.contract("Escrow", self.at["Escrow"])
        self.staking = self.contract("Staking", self.at["Staking"])
        self.registry = self.contract("Registry", self.at["Registry"])
        self.randomness = self.contract("BlockhashRandomness", self.at["Randomness"])
        self.timelock = self.contract("TimelockController", self.at["Timelock"])
        self.slasher = self.at["Court"]
        self.rpc("anvil_setBalance", self.slasher, hex(10**20))
        self.errors = _errors([item for name in (*CONTRACTS, "TimelockController") for item in artifact(name)["abi"]])

    def rpc(self, method: str, *params: Any) -> Any:
        """A raw JSON-RPC call."""
        answer = self.web3.provider.make_request(method, list(params))  # type: ignore[arg-type]  # anvil's own method
        assert "error" not in answer, answer
        return answer["result"]

    def contract(self, name: str, address: str) -> Contract:
        """A contract under its artifact's ABI."""
        return self.web3.eth.contract(address=Web3.to_checksum_address(address), abi=artifact(name)["abi"])

    def create(self, abi: Sequence[Any], bytecode: str, *arguments: Any) -> Contract:
        """Deploy a contract of a test."""
        factory = self.web3.eth.contract(abi=abi, bytecode=bytecode)
        tx_hash = factory.constructor(*arguments).transact({"from": self.web3.eth.accounts[0]})
        address = self.web3.eth.wait_for_transaction_receipt(tx_hash, poll_latency=0.001)["contractAddress"]
        return self.web3.eth.contract(address=address, abi=abi)

    def create_test(self, made: Artifact, *arguments: Any) -> Contract:
        """Deploy a contract that exists for tests alone, and learn its errors."""
        self.errors |= _errors(made.abi)
        return self.create(made.abi, made.bytecode, *arguments)

    def create_named(self, name: str, *arguments: Any) -> Contract:
        """Deploy one of the contracts again, with other arguments."""
        return self.create(artifact(name)["abi"], artifact(name)["bytecode"], *arguments)

    def send(self, sender: str | SigningKey, call: ContractFunction) -> TxReceipt:
        """Send a call and return its receipt."""
        address = sender.address if isinstance(sender, SigningKey) else sender
        tx_hash = call.transact({"from": Web3.to_checksum_address(address), "gasPrice": GAS_PRICE})
        return self.web3.eth.wait_for_transaction_receipt(tx_hash, poll_latency=0.001)

    def events(self, contract: Contract, name: str, receipt: TxReceipt) -> list[Mapping[str, Any]]:
        """The arguments of a contract's events of one name."""
        logs = contract.events[name]().process_receipt(receipt, errors=DISCARD)
        return [log["args"] for log in logs if log["address"] == contract.address]

    @contextmanager
    def reverts(self, error: str, *arguments: Any) -> Iterator[None]:
        """Expect a custom error, with these operands if any are given."""
        with pytest.raises(ContractCustomError) as caught:
            yield
        data = bytes.fromhex(str(caught.value.data)[2:])
        item = self.errors[data[:4]]
        assert item["name"] == error
        assert not arguments or decode([i["type"] for i in item["inputs"]], data[4:]) == arguments

    @property
    def now(self) -> int:
        """Time of the latest block."""
        return self.web3.eth.get_block("latest")["timestamp"]

    def jump(self, seconds: int) -> None:
        """Let time pass."""
        self.rpc("evm_increaseTime", seconds)
        self.rpc("evm_mine")

    def mine(self, blocks: int) -> None:
        """Let blocks pass."""
        self.rpc("anvil_mine", hex(blocks))

    def party(self) -> SigningKey:
        """A key with coin, and with assets that Escrow and Staking may take."""
        key = SigningKey.generate()
        self.rpc("anvil_setBalance", key.address, hex(10**20))
        self.send(key, self.asset.functions.faucet(key.address, FUNDS))
        for spender in (self.escrow, self.staking):
            self.send(key, self.asset.functions.approve(spender.address, FUNDS))
        return key

    def payer(self, deposit: int = 1_000 * DOLLAR) -> SigningKey:
        """A party with a deposit."""
        key = self.party()
        self.send(key, self.escrow.functions.deposit(key.address, deposit))
        return key

    def operator(self, stake: int = 10_000 * DOLLAR) -> SigningKey:
        """A party with an operator's stake."""
        key = self.party()
        self.send(key, self.staking.functions.stake(OPERATOR, stake))
        return key

    def node(self, owner: SigningKey, model: bytes = MODEL) -> SigningKey:
        """A registered node of an owner, whose key collects for it."""
        node = SigningKey.generate()
        self.rpc("anvil_setBalance", node.address, hex(10**20))
        self.send(owner, self.register_call(owner, node, model=model))
        self.send(owner, self.registry.functions.setDelegate(node.address, True))
        return node

    def register_call(
        self,
        owner: SigningKey,
        node: SigningKey,
        model: bytes = MODEL,
        profile: bytes = PROFILE,
        deadline: int | None = None,
    ) -> ContractFunction:
        """A registration with the node's proof."""
        until = self.now + 3600 if deadline is None else deadline
        r, vs = self.sign(node, NodeAuth(owner.address, node.address, until))
        return self.registry.functions.registerNode(node.address, model, profile, "http://node", until, r, vs)

    def signer(self, payer: SigningKey, cap: int = 100 * DOLLAR, life: int = 30 * DAY) -> SigningKey:
        """An authorised session signer of a payer."""
        key = SigningKey.generate()
        self.send(payer, self.authorize_call(payer, key, cap, self.now + life))
        return key

    def authorize_call(
        self, payer: SigningKey, signer: SigningKey, cap: int, expiry: int, deadline: int | None = None
    ) -> ContractFunction:
        """An authorisation with the signer's proof."""
        until = self.now + 3600 if deadline is None else deadline
        r, vs = self.sign(signer, SignerAuth(payer.address, signer.address, cap, expiry, until))
        return self.escrow.functions.authorizeSigner(signer.address, cap, expiry, until, r, vs)

    def sign(self, key: SigningKey, message: TypedMessage) -> tuple[bytes, bytes]:
        """A signature in the protocol's domain, as the two words that contracts take."""
        return split(key.sign(message.digest(self.domain)))

    def item(
        self,
        payer: SigningKey,
        node: SigningKey,
        cumulative: int,
        *,
        covered: int | None = None,
        signer: SigningKey | None = None,
        lane: int = 0,
        by: SigningKey | None = None,
    ) -> Item:
        """A signed item; covered wholly by receipts unless said otherwise."""
        who = signer or payer
        voucher = Voucher(payer.address, who.address, node.address, lane, cumulative)
        signature = (by or who).sign(voucher.digest(self.domain))
        return Item(voucher, signature, cumulative if covered is None else covered)

    def collect_call(self, node: SigningKey, *items: Item, root: bytes = ROOT) -> ContractFunction:
        """A collect of these items."""
        return self.escrow.functions.collect(node.address, b"".join(item.pack() for item in items), root)

    def collect(self, node: SigningKey, *items: Item, sender: SigningKey | None = None) -> Collection:
        """Collect and read what came of it."""
        receipt = self.send(sender or node, self.collect_call(node, *items))
        commits = self.events(self.escrow, "Collected", receipt)
        skipped = self.events(self.escrow, "ItemSkipped", receipt)
        return Collection(commits[0] if commits else {}, [(s["index"], s["reason"]) for s in skipped], receipt)

    def reserve_call(
        self,
        payer: SigningKey,
        node: SigningKey,
        cumulative: int,
        *,
        signer: SigningKey | None = None,
        epoch: int = 0,
        by: SigningKey | None = None,
    ) -> ContractFunction:
        """A reservation, signed by the session signer it is for, or by the payer for all."""
        who = signer.address if signer else "0x" + "00" * 20
        message = Reservation(payer.address, Address(who), node.address, cumulative, epoch)
        r, vs = self.sign(by or signer or payer, message)
        return self.escrow.functions.reserve(payer.address, who, node.address, cumulative, epoch, r, vs)

    def account(self, payer: SigningKey) -> tuple[int, int, int, int]:
        """Balance, thawing, its end, and what is reserved."""
        balance, thawing, end, reserved = self.escrow.functions.account(payer.address).call()
        return balance, thawing, end, reserved

    def credit(self, owner: SigningKey) -> int:
        """Credit in the Escrow."""
        return int(self.escrow.functions.credit(owner.address).call())

    def balance(self, address: str | SigningKey) -> int:
        """Assets of an address."""
        who = address.address if isinstance(address, SigningKey) else address
        return int(self.asset.functions.balanceOf(who).call())


@dataclass(frozen=True)
class Collection:
    """What a collect did."""

    commit: Mapping[str, Any]
    skipped: list[tuple[int, int]]
    receipt: TxReceipt

    @property
    def paid(self) -> int:
        """What was collected, before the audit share."""
        return int(self.commit.get("paid", 0))

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Before and after of each range."""
        packed = self.commit.get("ranges", b"")
        return [
            (int.from_bytes(packed[i + 44 : i + 56], "big"), int.from_bytes(packed[i + 56 : i + 68], "big"))
            for i in range(0, len(packed), 68)
        ]

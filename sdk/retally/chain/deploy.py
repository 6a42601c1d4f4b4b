"""Deploying the contracts: `deploy` puts all of them on a chain and returns what a deployment file says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, cast

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_typing import ChecksumAddress, HexStr
from web3 import Web3
from web3.contract import Contract
from web3.types import Nonce, TxParams, TxReceipt
from web3.utils.address import get_create_address

from retally.chain.parameters import Parameters, check_delays, default_parameters, devnet_parameters
from retally.chain.recursion import bound_recursion
from retally.errors import TransactionFailed

bound_recursion()

ANVIL_CHAIN_ID = 31337
# The first of the accounts that anvil prints; of no worth anywhere else.
ANVIL_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"

_ZERO = "0x0000000000000000000000000000000000000000"
# Names in the order of deployment. Each may name any other in its constructor, since addresses follow from the nonce.
_ORDER = (
    "Asset", "Timelock", "Randomness", "Staking", "Registry", "Escrow", "Audits", "Faults", "TreeFaults", "Silence",
    "Court", "JurorPools",
)  # fmt: skip
_ARTIFACTS = {"Asset": "DevAsset", "Timelock": "TimelockController", "Randomness": "BlockhashRandomness"}


@dataclass(frozen=True, slots=True)
class Model:
    """A model to register: `unit` is about the usual fee of one of its jobs."""

    model_id: str
    unit: int
    name: str
    uri: str


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile to register."""

    profile_id: str
    uri: str
    #: What its nodes serve: completions or embeddings (R-76).
    serves: str = "completions"


@dataclass(frozen=True, slots=True)
class CalibrationEntry:
    """An evidence table to register, for nodes of one profile checked by verifiers of another."""

    calibration_hash: str
    model_id: str
    node_profile: str
    verifier_profile: str
    uri: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What a new deployment knows from the start."""

    models: Sequence[Model] = ()
    profiles: Sequence[Profile] = ()
    calibrations: Sequence[CalibrationEntry] = ()


def artifact(name: str) -> dict[str, Any]:
    """ABI and bytecode of a contract."""
    text = (files("retally.chain") / "abi" / f"{name}.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


class Deployer:
    """One key on one chain, sending one transaction after the other."""

    def __init__(self, web3: Web3, account: LocalAccount) -> None:
        self.web3 = web3
        self.account = account

    def send(self, transaction: TxParams, what: str) -> TxReceipt:
        """Sign, send and wait; a revert raises."""
        base = self.web3.eth.get_block("pending")["baseFeePerGas"]
        tip = self.web3.eth.max_priority_fee
        transaction = {
            **transaction,
            "from": self.account.address,
            "chainId": self.web3.eth.chain_id,
            "nonce": self.web3.eth.get_transaction_count(self.account.address),
            "maxFeePerGas": Web3.to_wei(2 * base + tip, "wei"),
            "maxPriorityFeePerGas": tip,
        }
        transaction["gas"] = self.web3.eth.estimate_gas(transaction) * 11 // 10
        signed = self.account.sign_transaction(cast(dict[str, Any], transaction))
        receipt = self.web3.eth.wait_for_transaction_receipt(
            self.web3.eth.send_raw_transaction(signed.raw_transaction), poll_latency=0.02
        )
        if receipt["status"] != 1:
            raise TransactionFailed(what, (), receipt["transactionHash"].to_0x_hex())
        return receipt

    def create(self, name: str, arguments: Sequence[Any]) -> TxReceipt:
        """Deploy a contract."""
        made = artifact(_ARTIFACTS.get(name, name))
        factory = self.web3.eth.contract(abi=made["abi"], bytecode=HexStr(made["bytecode"]))
        data = factory.constructor(*arguments).data_in_transaction
        return self.send({"data": HexStr(data)}, f"deploying {name}")

    def call(self, contract: Contract, function: str, *arguments: Any) -> TxReceipt:
        """Call a function of a contract."""
        data = contract.encode_abi(function, args=list(arguments))
        return self.send({"to": contract.address, "data": HexStr(data)}, function)


def _constructor_arguments(
    at: Mapping[str, ChecksumAddress], parameters: Parameters, deployer: ChecksumAddress, guardian: ChecksumAddress
) -> dict[str, Callable[[], list[Any]]]:
    """The constructor arguments of each contract, which know every address beforehand."""

    def struct(name: str) -> tuple[int, ...]:
        # By the names in the ABI: the order of a dictionary must not decide what a delay is.
        (constructor,) = (item for item in artifact(name)["abi"] if item["type"] == "constructor")
        (fields,) = (each["components"] for each in constructor["inputs"] if each["type"] == "tuple")
        return tuple(parameters[name][field["name"]] for field in fields)

    slashers = [at[name] for name in ("Faults", "TreeFaults", "Court", "Audits", "Silence")]
    judging = [at[name] for name in ("Randomness", "JurorPools", "Timelock")]
    core = [at["Escrow"], at["Staking"], at["Registry"]]
    return {
        "Asset": list,
        # The deployer proposes and executes until the operators of a deployment name others, by proposal.
        "Timelock": lambda: [parameters["Timelock"]["minDelay"], [deployer], [deployer], _ZERO],
        "Randomness": list,
        "Staking": lambda: [at["Asset"], at["Escrow"], at["Timelock"], guardian, struct("Staking"), slashers],
        "Registry": lambda: [at["Staking"], at["Escrow"], deployer, struct("Registry")],
        "Escrow": lambda: [
            at["Asset"],
            at["Timelock"],
            guardian,
            at["Staking"],
            at["Registry"],
            at["Randomness"],
            struct("Escrow"),
        ],
        "Audits": lambda: [*core, at["Randomness"], struct("Audits")],
        "Faults": lambda: [*core, struct("Faults")],
        "TreeFaults": lambda: [*core, struct("TreeFaults")],
        "Silence": lambda: [*core, at["Audits"], struct("Silence")],
        "Court": lambda: [*core, *judging, guardian, struct("Court")],
        "JurorPools": lambda: [at["Staking"], at["Registry"], at["Court"], struct("JurorPools")],
    }


def deploy(
    rpc_url: str,
    key: str,
    parameters: Parameters | None = None,
    catalogue: Catalogue | None = None,
    asset: str | None = None,
    guardian: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Deploy everything, register the catalogue, hand the Registry to the timelock; return the deployment file.

    The guardian, who may pause what lets money in, is the deployer unless another is named.
    """
    web3 = Web3(Web3.HTTPProvider(rpc_url))
    deployer = Deployer(web3, Account.from_key(key))
    chain_id = web3.eth.chain_id
    chosen = parameters or (devnet_parameters() if chain_id == ANVIL_CHAIN_ID else default_parameters())
    check_delays(chosen)
    names = [name for name in _ORDER if name != "Asset" or asset is None]
    nonce = web3.eth.get_transaction_count(deployer.account.address)
    at = {name: get_create_address(deployer.account.address, Nonce(nonce + i)) for i, name in enumerate(names)}
    if asset is not None:
        at["Asset"] = Web3.to_checksum_address(asset)
    pauses = Web3.to_checksum_address(guardian) if guardian else deployer.account.address
    arguments = _constructor_arguments(at, chosen, deployer.account.address, pauses)
    deployed_block = web3.eth.block_number
    for name in names:
        receipt = deployer.create(name, arguments[name]())
        if receipt["contractAddress"] != at[name]:
            raise TransactionFailed(f"{name} did not land at {at[name]}: another transaction of this key came between")
        if progress:
            progress(f"{name} at {at[name]}")
    registered = catalogue or Catalogue()
    _hand_over(deployer, at, registered)
    if asset is None:
        at["DevAsset"] = at["Asset"]
    return {"guardian": pauses, **_deployment_file(chain_id, deployed_block, at, chosen, registered)}


def _deployment_file(
    chain_id: int, block: int, at: Mapping[str, ChecksumAddress], parameters: Parameters, catalogue: Catalogue
) -> dict[str, Any]:
    return {
        "chainId": chain_id,
        "deployedBlock": block,
        "contracts": dict(sorted(at.items())),
        "parameters": {name: dict(values) for name, values in parameters.items()},
        "models": [
            {"modelId": m.model_id, "unit": str(m.unit), "name": m.name, "uri": m.uri} for m in catalogue.models
        ],
        "profiles": [{"profileId": p.profile_id, "uri": p.uri, "serves": p.serves} for p in catalogue.profiles],
        "calibrations": [
            {
                "calibrationHash": c.calibration_hash,
                "modelId": c.model_id,
                "nodeProfile": c.node_profile,
                "verifierProfile": c.verifier_profile,
                "uri": c.uri,
            }
            for c in catalogue.calibrations
        ],
    }


def _hand_over(deployer: Deployer, at: Mapping[str, ChecksumAddress], catalogue: Catalogue) -> None:
    """Register the catalogue while the deployer may, then leave the Registry to the timelock."""
    registry = deployer.web3.eth.contract(address=at["Registry"], abi=artifact("Registry")["abi"])
    for m in catalogue.models:
        deployer.call(registry, "addModel", m.model_id, m.unit, m.name, m.uri)
    for p in catalogue.profiles:
        deployer.call(registry, "addProfile", p.profile_id, p.uri)
    for c in catalogue.calibrations:
        pair = (c.model_id, c.node_profile, c.verifier_profile)
        deployer.call(registry, "addCalibration", c.calibration_hash, *pair, c.uri)
    deployer.call(registry, "transferOwnership", at["Timelock"])

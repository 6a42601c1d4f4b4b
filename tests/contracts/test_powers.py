"""What the owner of the contracts may do, and that none of it changes what already holds (R-41)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import compile_contracts
from retally.chain.deploy import artifact
from retally.protocol.encoding import keccak
from tests.contracts.world import DAY, DOLLAR, MODEL, OPERATOR, PROFILE, UNIT, World

SOURCES = {path.name: path.read_text(encoding="utf-8") for path in compile_contracts.CONTRACTS.rglob("*.sol")}
FUNCTION = re.compile(r"^    function (\w+)\([^{;]*?\bonlyOwner\b", re.MULTILINE | re.DOTALL)
BODY = re.compile(r"^    function (\w+)\(([^{;]*)\{(.*?)^    \}", re.MULTILINE | re.DOTALL)
# A struct of chosen numbers that is kept in storage and not in the code.
STORED = re.compile(r"^    (?:\w*Parameters) (?:private|internal) (_\w+);", re.MULTILINE)
POWERS = {
    "Pause.sol": {"setGuardian"},
    "Registry.sol": {"addCalibration", "addModel", "addProfile"},
    "SlasherList.sol": {"proposeSlasher", "removeSlasher"},
}
NEW = keccak(b"new")


def contracts(world: World) -> dict[str, Any]:
    """Every contract of the deployment that has parameters."""
    found = {}
    for name, address in world.at.items():
        path = Path(compile_contracts.ARTIFACTS) / f"{name}.json"
        if path.exists():
            found[name] = world.contract(name, address)
    return found


def parameters(world: World) -> dict[str, Any]:
    """What every contract says of its parameters."""
    return {
        f"{name}.{item['name']}": contract.functions[item["name"]]().call()
        for name, contract in contracts(world).items()
        for item in contract.abi
        if item["type"] == "function" and item["name"].lower().endswith("parameters") and not item["inputs"]
    }


class TestOwner:
    def test_has_these_powers_and_no_others(self) -> None:
        found = {name: set(FUNCTION.findall(text)) for name, text in SOURCES.items() if "onlyOwner" in text}
        assert found == POWERS

    def test_of_every_contract_is_the_timelock(self, world: World) -> None:
        owned = {
            name: contract.functions.owner().call()
            for name, contract in contracts(world).items()
            if any(item.get("name") == "owner" for item in contract.abi)
        }
        assert {"Escrow", "Registry", "Staking"} <= owned.keys()
        assert set(owned.values()) == {world.timelock.address}

    def test_changes_nothing_that_holds(self, world: World) -> None:
        owner = world.operator(2_000 * DOLLAR)
        node = world.node(owner)
        functions = world.registry.functions
        before = parameters(world)
        terms = functions.commitTerms(node.address, owner.address).call()
        severities = [world.staking.functions.severityOf(owner.address, OPERATOR, kind).call() for kind in range(6)]
        assert {"Staking.parameters", "Registry.parameters", "Escrow.parameters"} <= before.keys()

        timelock = world.timelock.address
        world.rpc("anvil_setBalance", timelock, hex(10**20))
        for call in (
            functions.addModel(NEW, 10 * UNIT, "", ""),
            functions.addProfile(NEW, ""),
            functions.addCalibration(NEW, MODEL, PROFILE, PROFILE, ""),
            world.staking.functions.proposeSlasher(node.address),
            world.staking.functions.removeSlasher(node.address),
            world.staking.functions.setGuardian(owner.address),
        ):
            world.send(timelock, call)
        world.jump(60 * DAY)
        assert parameters(world) == before
        assert functions.commitTerms(node.address, owner.address).call()[1] <= 10 * terms[1]
        assert functions.modelUnit(MODEL).call() == UNIT
        assert not world.staking.functions.isSlasher(node.address).call()
        after = [world.staking.functions.severityOf(owner.address, OPERATOR, kind).call() for kind in range(6)]
        assert after == severities


class TestGuardian:
    def test_is_asked_by_inflows_and_new_cases_alone(self) -> None:
        asking = {
            (name, function)
            for name, text in SOURCES.items()
            if name != "Pause.sol"
            for function, head, body in BODY.findall(text)
            if "whenRunning" in head or "_checkRunning" in body
        }
        assert asking == {
            ("EscrowAccounts.sol", "deposit"),
            ("Staking.sol", "stakeFor"),
            ("Court.sol", "open"),
            ("Court.sol", "openOwnJob"),
        }


class TestParameters:
    def test_are_written_once_when_a_contract_is_made(self) -> None:
        stored = {(name, field) for name, text in SOURCES.items() for field in STORED.findall(text)}
        everything = "\n".join(SOURCES.values())
        for _, field in stored:
            # The rest of the tree reads them, and their fields.
            assert len(re.findall(rf"\b{field} = ", everything)) == len([1 for _, other in stored if other == field])
            assert not re.findall(rf"\b{field}\.\w+ (?:[-+]?=) ", everything)

    def test_of_the_owner_are_no_functions_of_any_abi(self) -> None:
        setters = set()
        for path in Path(compile_contracts.ARTIFACTS).glob("*.json"):
            if path.stem in ("TimelockController", "DevAsset"):
                continue
            setters |= {
                item["name"]
                for item in artifact(path.stem)["abi"]
                if item["type"] == "function"
                and item["stateMutability"] != "view"
                and re.match(r"(set|add|propose|remove|update|change)[A-Z]", item["name"])
            }
        # A node's owner moves its own node and names its own delegates.
        assert setters - {"setDelegate", "updateNode"} == set().union(*POWERS.values())

"""One chain for all contract tests; each test finds it as it was after the deployment."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping

import pytest
from web3 import HTTPProvider, Web3

from compile_contracts import Artifact, collect_sources, compile_sources
from retally.devnet.ports import free_port
from retally.devnet.tools import anvil_path
from tests.contracts.world import World


@pytest.fixture(scope="session")
def contract_chain_url() -> Iterator[str]:
    """A chain that mines each transaction at once."""
    port = free_port()
    command = [str(anvil_path()), "--host", "127.0.0.1", "--port", str(port), "--quiet"]
    with subprocess.Popen(command) as process:
        url = f"http://127.0.0.1:{port}"
        web3 = Web3(HTTPProvider(url))
        deadline = time.monotonic() + 20
        while not web3.is_connected():
            assert time.monotonic() < deadline, "anvil did not answer"
            time.sleep(0.02)
        yield url
        process.terminate()


@pytest.fixture(scope="session")
def deployed_world(contract_chain_url: str) -> World:
    """The contracts, once."""
    return World(contract_chain_url)


@pytest.fixture
def world(deployed_world: World) -> Iterator[World]:
    """The contracts as after their deployment."""
    snapshot = deployed_world.rpc("evm_snapshot")
    yield deployed_world
    deployed_world.rpc("evm_revert", snapshot)


@pytest.fixture(scope="session")
def test_contracts() -> Mapping[str, Artifact]:
    """Contracts that exist for tests alone."""
    names = ("ContractPayer", "DelaysHarness", "HostileAsset", "LeakyEscrow", "OddAsset", "PickyAsset", "TypesProbe")
    units = {name: f"tests/solidity/{name}.sol" for name in names}
    compiled = compile_sources(collect_sources(units.values()))
    return {name: compiled[unit][name] for name, unit in units.items()}

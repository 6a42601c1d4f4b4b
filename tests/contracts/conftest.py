"""One chain for all contract tests; each test finds it as it was after the deployment."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from web3 import HTTPProvider, Web3

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

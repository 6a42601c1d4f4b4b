"""The Solidity side of the golden vectors, on a chain of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from web3 import HTTPProvider, Web3
from web3.contract import Contract

from compile_contracts import collect_sources, compile_sources
from retally.devnet.anvil import Anvil
from retally.devnet.processes import end_marked

SOURCE = "tests/solidity/ParityHarness.sol"


@pytest.fixture(scope="session")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contract]:
    """A contract that shows what the contracts' libraries compute."""
    folder: Path = tmp_path_factory.mktemp("parity")
    chain = Anvil(folder / "anvil", mark=str(folder))
    asyncio.run(chain.start())
    try:
        artifact = compile_sources(collect_sources([SOURCE]))[SOURCE]["ParityHarness"]
        web3 = Web3(HTTPProvider(chain.url))
        deployer = web3.eth.contract(abi=artifact.abi, bytecode=artifact.bytecode)
        tx_hash = deployer.constructor().transact({"from": web3.eth.accounts[0]})
        address = web3.eth.wait_for_transaction_receipt(tx_hash)["contractAddress"]
        yield web3.eth.contract(address, abi=artifact.abi)
    finally:
        asyncio.run(chain.stop())
        end_marked(str(folder))

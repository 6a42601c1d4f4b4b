"""One chain for all tests of the courts; every test starts from the same state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contracts.court.ledger import Ledger, start_anvil
from tests.contracts.court.world import World


@pytest.fixture(scope="session")
def founded_world() -> Iterator[World]:
    """The parties on a fresh chain."""
    process, url = start_anvil()
    try:
        yield World(Ledger(url))
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture
def world(founded_world: World) -> Iterator[World]:
    """The same parties, before anything has happened."""
    owners = list(founded_world.owners)
    with founded_world.ledger.reverted():
        yield founded_world
    founded_world.owners[:] = owners

"""What gives leases back goes on, whatever goes wrong once."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from retally_router.lease_keeper import LeaseKeeper
from retally_router.store_errors import StoreUnreachable


class Failing:
    """Credit that can't be tidied the first time."""

    def __init__(self, error: Exception) -> None:
        self._error: Exception | None = error
        self.is_tidied = asyncio.Event()

    async def tidy(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
        self.is_tidied.set()

    async def close(self) -> None:
        """It has nothing."""


@pytest.mark.parametrize(
    ("error", "events"), [(StoreUnreachable("gone"), []), (ValueError("of no sense"), ["leases_not_tidied"])]
)
async def test_it_looks_again(monkeypatch: pytest.MonkeyPatch, error: Exception, events: list[str]) -> None:
    monkeypatch.setattr("retally_router.lease_keeper.LOOK_SECONDS", 0.01)
    credit = Failing(error)
    keeper = LeaseKeeper(cast(Any, credit))
    with capture_logs() as logs:
        await keeper.start()
        try:
            await asyncio.wait_for(credit.is_tidied.wait(), 2)
        finally:
            await keeper.close()
    assert [each["event"] for each in logs] == events

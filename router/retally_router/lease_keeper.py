"""Looks after a process's leases: gives back what nobody needs here, or somebody needs elsewhere."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from retally_router.credit import Credit
from retally_router.end_tasks import end_tasks
from retally_router.grouped_tasks import log_failure
from retally_router.store_errors import StoreError

log = structlog.get_logger(__name__)

#: Much less than others wait for it before they refuse (`asking.AGAIN_TRIES`).
LOOK_SECONDS = 0.5


class LeaseKeeper:
    """Runs beside the jobs."""

    def __init__(self, credit: Credit) -> None:
        self._credit = credit
        self._work: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to look."""
        self._work = asyncio.create_task(self._look())
        self._work.add_done_callback(log_failure)

    async def close(self) -> None:
        """Stops, and gives everything back."""
        if self._work is not None:
            await end_tasks([self._work])
        with contextlib.suppress(StoreError):
            await self._credit.close()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._credit.tidy()
            except StoreError:
                # What is left is given back when the store answers again.
                continue
            except Exception:
                # What nobody foresaw must not end the giving back for good.
                log.exception("leases_not_tidied")

"""What the router reads from the chain: a payer's standing, cached for seconds, and the registered nodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from retally.chain.connection import Chain
from retally.chain.escrow import Account, Signer
from retally.chain.events import EventReader
from retally.chain.rpc import RpcFailed
from retally.chain.staking import Role
from retally.errors import ChainUnreachable
from retally.protocol.eip712 import Address
from retally_router.ports import ChainView, RegisteredNode, Standing

KEPT_STANDINGS = 50_000
#: After an RPC could not show the block that it had named.
AGAIN_SECONDS = 0.2


class Standings:
    """Payers' standings, each read again when it is older than a few seconds."""

    def __init__(self, chain: ChainView, fresh_seconds: float, patience_seconds: float) -> None:
        self._chain = chain
        self._fresh_seconds = fresh_seconds
        self._patience_seconds = patience_seconds
        self._known: dict[tuple[Address, Address], tuple[float, Standing]] = {}
        self._reading: dict[tuple[Address, Address], asyncio.Task[Standing]] = {}

    async def standing(self, payer: Address, signer: Address, fresh: bool) -> Standing:
        """What the chain says; `fresh` reads it in any case."""
        known = self._known.get((payer, signer))
        if known is not None and not fresh and time.monotonic() < known[0] + self._fresh_seconds:
            return known[1]
        reading = self._reading.get((payer, signer))
        if reading is not None and fresh:
            # It may have been asked too early; whoever waits with us for the next one shares that.
            await asyncio.wait([reading])
            reading = self._reading.get((payer, signer))
        if reading is None:
            reading = asyncio.create_task(self._read(payer, signer))
            self._reading[payer, signer] = reading
            reading.add_done_callback(partial(self._forget, (payer, signer)))
        return await asyncio.shield(reading)

    async def _read(self, payer: Address, signer: Address) -> Standing:
        asked = time.monotonic()
        try:
            async with asyncio.timeout(self._patience_seconds):
                standing = await self._chain.standing(payer, signer)
        except TimeoutError as error:
            raise ChainUnreachable(f"the chain's RPC did not answer within {self._patience_seconds:g} s") from error
        except RpcFailed as error:
            raise ChainUnreachable(f"the chain's RPC does not show the payer's account: {error.message}") from error
        if len(self._known) >= KEPT_STANDINGS:
            self._known.clear()
        self._known[payer, signer] = (asked, standing)
        return standing

    def _forget(self, key: tuple[Address, Address], reading: asyncio.Task[Standing]) -> None:
        del self._reading[key]
        if not reading.cancelled():
            reading.exception()


class OnChainView:
    """ChainView over a real chain."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._reader = EventReader(chain, ("Registry",))
        self._next_block = chain.deployment.deployed_block
        self._seen: dict[Address, None] = {}
        self._calibrated: set[tuple[bytes, bytes]] = set()

    async def standing(self, payer: Address, signer: Address) -> Standing:
        """Account and signer at one block; thawing funds cover no new promise."""
        try:
            try:
                block, account, session = await self._read_account(payer, signer)
            except RpcFailed:
                # Several servers behind one address, one of which has not heard of the block yet.
                await asyncio.sleep(AGAIN_SECONDS)
                block, account, session = await self._read_account(payer, signer)
        except ChainUnreachable as error:
            error.hint = "the chain's RPC does not answer; retry later"
            raise
        free = max(0, account.balance - account.thawing)
        return Standing(balance=free, used=session.used, cap=session.cap, expiry=session.expiry, block=block)

    async def _read_account(self, payer: Address, signer: Address) -> tuple[int, Account, Signer]:
        # Of two blocks, what was collected between them would be in the balance and spent as well.
        block = await self._chain.block_number()
        escrow, at = self._chain.escrow, hex(block)
        return block, *await asyncio.gather(escrow.account(payer, block=at), escrow.signer(payer, signer, block=at))

    async def nodes(self) -> Sequence[RegisteredNode]:
        """All registered nodes, with their owners' stake and exposure."""
        await self._read_events()
        entries = [entry for entry in await self._chain.registry.nodes(list(self._seen)) if entry.is_live]
        owners = list({entry.owner for entry in entries})
        stakes, frees = await asyncio.gather(
            asyncio.gather(*[self._chain.staking.stake_of(owner, Role.OPERATOR) for owner in owners]),
            asyncio.gather(*[self._chain.escrow.free_exposure(owner) for owner in owners]),
        )
        stake = {owner: item.bonded for owner, item in zip(owners, stakes, strict=True)}
        free = dict(zip(owners, frees, strict=True))
        return [
            RegisteredNode(
                node=entry.node,
                owner=entry.owner,
                model_id=entry.model_id,
                profile_id=entry.profile_id,
                endpoint=entry.endpoint.rstrip("/"),
                stake=stake[entry.owner],
                free_exposure=free[entry.owner],
                calibrated=(entry.model_id, entry.profile_id) in self._calibrated,
            )
            for entry in entries
        ]

    async def _read_events(self) -> None:
        head = await self._chain.block_number()
        if head < self._next_block:
            return
        for event in await self._reader.read(self._next_block, head):
            if event.name == "NodeRegistered":
                self._seen[event.args["node"]] = None
            elif event.name == "CalibrationAdded":
                self._calibrated.add((bytes(event.args["modelId"]), bytes(event.args["nodeProfile"])))
        self._next_block = head + 1

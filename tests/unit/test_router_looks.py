"""Looks at the chain that are some seconds old: what was collected meanwhile is not sold again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from tests.lease_world import NODE, PAYER, SIGNER, promise

from retally.chain.escrow import Account, Signer
from retally.chain.rpc import RpcFailed
from retally.errors import ChainUnreachable, InsufficientFunds
from retally.protocol.eip712 import Address, SigningKey, keccak
from retally.protocol.voucher import ChannelId
from retally_router.chain_view import OnChainView, Standings
from retally_router.credit import Credit
from retally_router.credit_scripts import SEEN_SECONDS
from retally_router.ports import RegisteredNode, Standing

OTHER = SigningKey(keccak(b"another signer")).address
YEAR = 365 * 86_400


@dataclass
class Chain:
    """A payer's deposit, and what was collected of it by which signer."""

    balance: int = 100
    block: int = 1
    used: dict[Address, int] = field(default_factory=dict)
    looks: int = 0

    async def standing(self, payer: Address, signer: Address) -> Standing:
        self.looks += 1
        return Standing(self.balance, self.used.get(signer, 0), 10**9, YEAR, block=self.block)

    async def nodes(self) -> list[RegisteredNode]:
        return []

    def collect(self, signer: Address, amount: int) -> None:
        self.balance, self.block = self.balance - amount, self.block + 1
        self.used[signer] = self.used.get(signer, 0) + amount


@pytest.fixture
def chain() -> Chain:
    return Chain()


def router(redis: Redis, chain: Chain, lease_jobs: int = 0) -> Credit:
    """A router that believes what it saw for a day."""
    return Credit(redis, Standings(chain, 86_400.0, 1.0).standing, lease_jobs=lease_jobs)


def channel(signer: Address) -> ChannelId:
    return ChannelId(PAYER, signer, NODE, 0)


async def spend(credit: Credit, amount: int) -> None:
    """The other signer promises so much."""
    await credit.hold(PAYER, OTHER, "spent", amount)
    await promise(credit, channel(OTHER), {"spent": amount})
    await credit.release(PAYER, "spent")


@pytest.mark.parametrize("lease_jobs", [0, 8])
class TestOldLook:
    async def test_what_another_signer_paid_is_gone(self, redis: Redis, chain: Chain, lease_jobs: int) -> None:
        credit = router(redis, chain, lease_jobs)
        await credit.hold(PAYER, SIGNER, "a", 1)
        await spend(credit, 60)
        chain.collect(OTHER, 60)
        # Another router sees that; the first has looked before.
        await router(redis, chain).hold(PAYER, OTHER, "b", 1)
        with pytest.raises(InsufficientFunds) as refused:
            await credit.hold(PAYER, SIGNER, "c", 99)
        assert refused.value.available == 38
        await credit.hold(PAYER, SIGNER, "c", 38)

    async def test_and_is_not_spent_again_by_the_same_one(self, redis: Redis, chain: Chain, lease_jobs: int) -> None:
        credit, other = router(redis, chain, lease_jobs), router(redis, chain)
        await spend(credit, 60)
        chain.collect(OTHER, 60)
        await other.hold(PAYER, OTHER, "b", 1)
        with pytest.raises(InsufficientFunds):
            await credit.hold(PAYER, OTHER, "c", 40)
        await credit.hold(PAYER, OTHER, "c", 39)

    async def test_one_look_is_enough(self, redis: Redis, chain: Chain, lease_jobs: int) -> None:
        credit = router(redis, chain, lease_jobs)
        await credit.hold(PAYER, SIGNER, "a", 1)
        await spend(credit, 60)
        chain.collect(OTHER, 60)
        await router(redis, chain).hold(PAYER, OTHER, "b", 1)
        before = chain.looks
        for job in "cdefgh":
            await credit.hold(PAYER, SIGNER, job, 1)
        assert chain.looks <= before + 1


async def test_a_chain_that_is_behind_sells_nothing(redis: Redis, chain: Chain) -> None:
    ahead = router(redis, chain)
    await spend(ahead, 60)
    chain.collect(OTHER, 60)
    await router(redis, chain).hold(PAYER, OTHER, "a", 1)
    behind = Chain()
    credit = router(redis, behind)
    with pytest.raises(ChainUnreachable):
        await credit.hold(PAYER, SIGNER, "b", 1)
    behind.block, behind.balance = chain.block, chain.balance
    await credit.hold(PAYER, SIGNER, "b", 1)


async def test_who_was_seen_late_is_seen_again(redis: Redis, chain: Chain) -> None:
    third = SigningKey(keccak(b"a third signer")).address
    credit, other = router(redis, chain), router(redis, chain)
    await spend(credit, 40)
    await credit.hold(PAYER, third, "t", 20)
    await promise(credit, channel(third), {"t": 20})
    await credit.release(PAYER, "t")
    chain.collect(OTHER, 40)
    read = chain.standing

    async def overtaken(payer: Address, signer: Address) -> Standing:
        found = await read(payer, signer)
        if signer == OTHER and chain.used.get(third) is None:
            # Between this look and its note another router sees what was collected of the third.
            chain.collect(third, 20)
            await other.hold(PAYER, third, "x", 0)
            await other.release(PAYER, "x")
        return found

    chain.standing = overtaken  # type: ignore[method-assign]
    await credit.hold(PAYER, SIGNER, "k", 40)


class TestReading:
    """Many who ask at once read the chain once; who asks for a fresh look gets none that began before."""

    @pytest.mark.parametrize("fresh", [False, True])
    async def test_many_share_a_look(self, chain: Chain, fresh: bool) -> None:
        read, gate = chain.standing, asyncio.Event()

        async def slow(payer: Address, signer: Address) -> Standing:
            found = await read(payer, signer)
            await gate.wait()
            return found

        chain.standing = slow  # type: ignore[method-assign]
        standings = Standings(chain, 86_400.0, 5.0)
        first = asyncio.create_task(standings.standing(PAYER, SIGNER, False))
        await asyncio.sleep(0.01)
        chain.collect(OTHER, 60)
        asking = [asyncio.create_task(standings.standing(PAYER, SIGNER, fresh)) for _ in range(50)]
        await asyncio.sleep(0.01)
        gate.set()
        found = await asyncio.gather(*asking)
        assert (await first).balance == 100
        assert {each.balance for each in found} == ({40} if fresh else {100})
        assert chain.looks == (2 if fresh else 1)

    async def test_one_that_leaves_breaks_off_no_others(self, chain: Chain) -> None:
        standings = Standings(chain, 86_400.0, 5.0)
        leaving = asyncio.create_task(standings.standing(PAYER, SIGNER, False))
        staying = asyncio.create_task(standings.standing(PAYER, SIGNER, False))
        await asyncio.sleep(0)
        leaving.cancel()
        assert (await staying).balance == 100

    async def test_an_rpc_that_does_not_know_its_own_block_is_unreachable(self, chain: Chain) -> None:
        async def behind(payer: Address, signer: Address) -> Standing:
            raise RpcFailed("eth_call", -32602, "BlockOutOfRangeError", b"")

        chain.standing = behind  # type: ignore[method-assign]
        with pytest.raises(ChainUnreachable, match="BlockOutOfRange"):
            await Standings(chain, 1.0, 5.0).standing(PAYER, SIGNER, True)


async def test_a_chain_that_began_anew_is_believed_after_minutes(redis: Redis, chain: Chain) -> None:
    now, forked = 1000.0, Chain()

    def clock() -> float:
        return now

    await spend(router(redis, chain), 60)
    chain.collect(OTHER, 60)
    await Credit(redis, Standings(chain, 1.0, 1.0).standing, clock).hold(PAYER, OTHER, "a", 1)
    credit = Credit(redis, Standings(forked, 1.0, 1.0).standing, clock)
    with pytest.raises(ChainUnreachable):
        await credit.hold(PAYER, SIGNER, "b", 1)
    now += SEEN_SECONDS + 1
    await credit.hold(PAYER, SIGNER, "b", 1)


@dataclass
class Servers:
    """Several servers behind one address: so many first answers come from one that is behind."""

    behind: int
    head: int = 7
    blocks: list[str] = field(default_factory=list)

    async def block_number(self) -> int:
        self.head += 1
        return self.head

    @property
    def escrow(self) -> Servers:
        return self

    async def account(self, payer: Address, *, block: str) -> Account:
        return Account(100, 30, 0, 0)

    async def signer(self, payer: Address, signer: Address, *, block: str) -> Signer:
        self.blocks.append(block)
        if len(self.blocks) <= self.behind:
            raise RpcFailed("eth_call", -32602, "BlockOutOfRangeError", b"")
        return Signer(50, 20, YEAR)


class TestOneBlock:
    def view(self, servers: Servers) -> OnChainView:
        deployment = SimpleNamespace(deployed_block=0, contracts={"Registry": NODE})
        chain = SimpleNamespace(deployment=deployment, block_number=servers.block_number, escrow=servers, rpc=None)
        return OnChainView(cast(Any, chain))

    @pytest.mark.parametrize("behind", [0, 1])
    async def test_all_of_a_look_is_of_it(self, behind: int) -> None:
        servers = Servers(behind)
        found = await self.view(servers).standing(PAYER, SIGNER)
        assert (found.balance, found.used, found.cap) == (70, 20, 50)
        assert (found.block, servers.blocks[-1]) == (8 + behind, hex(8 + behind))

    async def test_servers_that_stay_behind_are_no_look(self) -> None:
        with pytest.raises(RpcFailed):
            await self.view(Servers(2)).standing(PAYER, SIGNER)

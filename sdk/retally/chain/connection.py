"""One chain with all its contracts."""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import Self

from web3 import AsyncHTTPProvider, AsyncWeb3

from retally.chain.asset import Asset
from retally.chain.audits import Audits
from retally.chain.clock import ChainClock
from retally.chain.court import Court
from retally.chain.deployment import Deployment
from retally.chain.escrow import Escrow
from retally.chain.juror_pools import JurorPools
from retally.chain.registry import Registry
from retally.chain.rpc import Rpc
from retally.chain.silence import Silence
from retally.chain.staking import Staking
from retally.errors import BadRequest
from retally.protocol.eip712 import Domain


class Chain:
    """The contracts of a deployment, over one RPC endpoint."""

    def __init__(self, rpc_url: str, deployment: Deployment) -> None:
        self.rpc = Rpc(rpc_url)
        self.deployment = deployment
        self.clock = ChainClock(self.rpc)
        self.asset = Asset(self.rpc, deployment.address("Asset"))
        self.escrow = Escrow(self.rpc, deployment.address("Escrow"))
        self.staking = Staking(self.rpc, deployment.address("Staking"))
        self.registry = Registry(self.rpc, deployment.address("Registry"))
        self.court = Court(self.rpc, deployment.address("Court"))
        self.juror_pools = JurorPools(self.rpc, deployment.address("JurorPools"))
        self.silence = Silence(self.rpc, deployment.address("Silence"))
        self.audits = Audits(self.rpc, deployment.address("Audits"))

    @cached_property
    def web3(self) -> AsyncWeb3[AsyncHTTPProvider]:
        """web3's own view of the chain, for what the wrappers don't offer."""
        return AsyncWeb3(self.rpc.provider)

    @property
    def domain(self) -> Domain:
        """The EIP-712 domain of all signatures."""
        return self.deployment.domain

    async def block_number(self) -> int:
        """Number of the latest block."""
        return int(await self.rpc.request("eth_blockNumber"), 16)

    async def start(self) -> Self:
        """Checks that this is the deployment's chain and starts the clock."""
        chain_id = int(await self.rpc.request("eth_chainId"), 16)
        if chain_id != self.deployment.chain_id:
            raise BadRequest(f"the chain is {chain_id}, the deployment is for {self.deployment.chain_id}")
        await self.clock.start()
        return self

    async def close(self) -> None:
        """Stops the clock and closes the connections."""
        await self.clock.close()
        await self.rpc.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

"""One chain with all its contracts."""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from retally.chain.clock import ChainClock
from retally.chain.deployment import Deployment
from retally.chain.rpc import Exchange, Rpc
from retally.errors import BadRequest
from retally.protocol.eip712 import Domain

if TYPE_CHECKING:
    from web3 import AsyncHTTPProvider, AsyncWeb3

    from retally.chain.asset import Asset
    from retally.chain.audits import Audits
    from retally.chain.court import Court
    from retally.chain.escrow import Escrow
    from retally.chain.juror_pools import JurorPools
    from retally.chain.registry import Registry
    from retally.chain.silence import Silence
    from retally.chain.staking import Staking


class Chain:
    """The contracts of a deployment, over one RPC endpoint; each is loaded when it is first asked for."""

    def __init__(self, rpc_url: str, deployment: Deployment, exchange: Exchange | None = None) -> None:
        self.rpc = Rpc(rpc_url, exchange)
        self.deployment = deployment
        self.clock = ChainClock(self.rpc)

    @cached_property
    def asset(self) -> Asset:
        """The ERC-20 that is paid in."""
        from retally.chain.asset import Asset

        return Asset(self.rpc, self.deployment.address("Asset"))

    @cached_property
    def escrow(self) -> Escrow:
        """Deposits, channels and commits."""
        from retally.chain.escrow import Escrow

        return Escrow(self.rpc, self.deployment.address("Escrow"))

    @cached_property
    def staking(self) -> Staking:
        """Stakes."""
        from retally.chain.staking import Staking

        return Staking(self.rpc, self.deployment.address("Staking"))

    @cached_property
    def registry(self) -> Registry:
        """Nodes, models and profiles."""
        from retally.chain.registry import Registry

        return Registry(self.rpc, self.deployment.address("Registry"))

    @cached_property
    def court(self) -> Court:
        """Cases."""
        from retally.chain.court import Court

        return Court(self.rpc, self.deployment.address("Court"))

    @cached_property
    def juror_pools(self) -> JurorPools:
        """Whom juries are drawn from."""
        from retally.chain.juror_pools import JurorPools

        return JurorPools(self.rpc, self.deployment.address("JurorPools"))

    @cached_property
    def silence(self) -> Silence:
        """Challenges to answer."""
        from retally.chain.silence import Silence

        return Silence(self.rpc, self.deployment.address("Silence"))

    @cached_property
    def audits(self) -> Audits:
        """Drawn points and verdicts."""
        from retally.chain.audits import Audits

        return Audits(self.rpc, self.deployment.address("Audits"))

    @cached_property
    def web3(self) -> AsyncWeb3[AsyncHTTPProvider]:
        """web3's own view of the chain, for what the wrappers don't offer."""
        from web3 import AsyncWeb3

        from retally.chain.web3_exchange import Web3Exchange

        if not isinstance(self.rpc.exchange, Web3Exchange):
            raise BadRequest("this chain is read without web3", hint="open a Chain without an exchange of its own")
        return AsyncWeb3(self.rpc.exchange.provider)

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

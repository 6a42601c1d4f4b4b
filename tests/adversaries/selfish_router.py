"""The real router that says of every node but its own that it may collect no more: `selfish_router.py --own NODE`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from retally.chain.connection import Chain
from retally.chain.deployment import Deployment
from retally.keystore import service_key
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Address
from retally_router.bootstrap import STORE_SECONDS, Outside, RedisConnection, build_router
from retally_router.chain_exchange import PooledExchange
from retally_router.chain_view import OnChainView
from retally_router.checked_settings import CheckedSettings
from retally_router.front import Front
from retally_router.joined_redis import open_store
from retally_router.logs import configure_logs
from retally_router.node_api import HttpNodeApi
from retally_router.ports import ChainView, RegisteredNode, Standing
from retally_router.serve import serve
from retally_router.settings import RouterSettings
from retally_router.start import checked


class SelfishView:
    """The chain as it is, but for the others' free exposure."""

    def __init__(self, true: ChainView, own: Address) -> None:
        self._true = true
        self._own = own

    async def standing(self, payer: Address, signer: Address) -> Standing:
        return await self._true.standing(payer, signer)

    async def nodes(self) -> Sequence[RegisteredNode]:
        found = await self._true.nodes()
        return [each if each.node == self._own else replace(each, free_exposure=0) for each in found]


def build(settings: CheckedSettings, own: Address) -> Front:
    """The router as its own bootstrap builds it, over the false view."""
    deployment = Deployment.load(settings.deployment)
    chain = Chain(settings.rpc_url, deployment, PooledExchange(settings.rpc_url))
    redis = open_store(settings.redis_url, STORE_SECONDS)
    nodes = HttpNodeApi(
        connect_seconds=settings.connect_seconds,
        first_byte_seconds=settings.first_byte_seconds,
        idle_seconds=settings.idle_seconds,
    )
    view = SelfishView(OnChainView(chain), own)
    key, asset = SigningKey.from_hex(settings.key), deployment.address("Asset")
    outside = Outside(view, chain.clock, deployment.domain, redis, nodes, key, asset)
    return build_router(settings, outside, (RedisConnection(redis), chain)).app


def main() -> None:
    """Route and lie."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--own", type=Address, required=True, help="the node that gets everything")
    options = parser.parse_args()
    told = RouterSettings.load(options.config)
    settings = checked(told, service_key(told, Deployment.load(told.deployment).chain_id))
    configure_logs(settings.log_level)
    serve(build(settings, options.own), settings)


if __name__ == "__main__":
    main()

"""The small market of scripts/bench_router: one model, one payer, nodes by name, a chain that says what it is told."""

from __future__ import annotations

from collections.abc import Sequence

from retally.protocol.eip712 import Address, Domain, SigningKey
from retally.protocol.encoding import keccak
from retally.protocol.offer import Offer
from retally_router.ports import RegisteredNode, Standing

DOMAIN = Domain(31337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
MODEL = "m"
MODEL_ID = keccak(b"model")
PROFILE_ID = keccak(b"profile")
NOW = 1_800_000_000
PROMPT_IDS = tuple(range(256))
CHUNK_TOKENS = 16
MOST_TOKENS = 4096
PRICE_IN, PRICE_OUT = 200_000, 600_000
PLENTY = 2**50
YEAR = 365 * 86_400


def node_key(name: str) -> SigningKey:
    """A node's key, by its name."""
    return SigningKey(keccak(b"node" + name.encode()))


def payer_key() -> SigningKey:
    """The payer."""
    return SigningKey(keccak(b"payer"))


def offer_of(node: Address) -> Offer:
    """What every node offers."""
    return Offer(node, MODEL_ID, PROFILE_ID, PRICE_IN, PRICE_IN // 2, PRICE_OUT, 32_768, NOW + YEAR)


class FixedClock:
    """Chain time that stands still."""

    def now(self) -> int:
        """The one time there is."""
        return NOW


class FixedChain:
    """ChainView over a table: the chain is asked at most once in seconds, so its speed is not measured here."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self._nodes = [
            RegisteredNode(
                node=node_key(str(number)).address,
                owner=SigningKey(keccak(b"owner%d" % number)).address,
                model_id=MODEL_ID,
                profile_id=PROFILE_ID,
                endpoint=endpoint,
                stake=10**9,
                free_exposure=PLENTY,
                calibrated=True,
            )
            for number, endpoint in enumerate(endpoints)
        ]

    async def standing(self, payer: Address, signer: Address) -> Standing:
        """Everybody is rich."""
        return Standing(balance=PLENTY, used=0, cap=PLENTY, expiry=NOW + YEAR)

    async def nodes(self) -> Sequence[RegisteredNode]:
        """The nodes of the run."""
        return self._nodes

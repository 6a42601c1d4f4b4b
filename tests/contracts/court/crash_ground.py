"""The ground of the verifier's crashes: a guilty owner's commit, an honest one's, a silent one's, an empty pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retally.chain.contract import ContractCall
from retally.chain.deployment import Deployment
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Address
from retally.protocol.receipt import FinishReason
from retally.protocol.wire import AnswerBundle
from tests.contracts.court.crash_nodes import PROMPT_TOKENS, bundles_of
from tests.contracts.court.ledger import Ledger
from tests.contracts.court.transcripts import Tree
from tests.contracts.court.world import World, key, operators

KEY = key("verifier 0")
#: Events are handled that many blocks late, so the chain is always ahead of the books.
CONFIRMATIONS = 6


@dataclass(frozen=True, slots=True)
class Ground:
    """What every run finds: a guilty owner's commit, an honest one's, a silent one's, and an empty audit pool."""

    url: str
    deployment: Deployment
    node_keys: Sequence[SigningKey]
    answers: Mapping[int, Sequence[AnswerBundle]]
    refill_sender: str
    refill: ContractCall


def prepare(url: str) -> tuple[World, Ground]:
    """Sets the parties up."""
    # One verifier: of two, the seed would choose who has which duty.
    world = World(Ledger(url), verifiers=1)
    ledger = world.ledger
    operators(world, 3)
    ledger.rpc("anvil_setBalance", KEY.address, hex(10**20))
    for spender in (ledger.court, ledger.silence):
        ledger.send(ledger.asset.functions.approve(spender.address, 0), KEY.address)
    world.add_operator(world.owners[3], key("revoked node"))
    ledger.send(ledger.registry.functions.revokeNode(key("revoked node").address), world.owners[3])
    guilty = world.collect(Tree.of(world.jobs(4, node=0, prompt_tokens=PROMPT_TOKENS + 1)), node=0)
    honest = world.collect(honest_tree(world, 3), node=1)
    silent = world.collect(Tree.of(world.jobs(2, node=2)), node=2)
    ledger.mine(2 * CONFIRMATIONS)
    ledger.rpc("anvil_setBalance", ledger.audits.address, hex(10**18))
    pool = ledger.escrow.functions.auditPool().call()
    ledger.send(ledger.escrow.functions.payFromAuditPool(world.outsider, pool), ledger.audits.address)
    with ledger.reverted():
        # Whole steps of money: as many points are drawn, whatever the seed.
        tree = honest_tree(world, 2, payer=world.friend)
        late = world.collect(tree, upto=honest.record.step, node=1, payers=(world.friend,))
        block = ledger.web3.eth.get_block("latest", full_transactions=True)
        data = bytes(block["transactions"][0]["input"])  # type: ignore[index, call-overload]  # full ones
    shown = {guilty.record.id: bundles_of(guilty.tree), honest.record.id: bundles_of(honest.tree)}
    shown[late.record.id] = bundles_of(late.tree)
    assert silent.record.id not in shown
    escrow = Address(ledger.escrow.address)
    keys = [*world.nodes, *(key(f"extra node {number}") for number in range(3))]
    refill = ContractCall(escrow, data, "Escrow.collect")
    return world, Ground(url, deployment_of(ledger), keys, shown, world.owners[1], refill)


def honest_tree(world: World, amount: int, **options: Any) -> Tree:
    """Jobs of node 1 that no rule is held against."""
    jobs = world.jobs(amount, node=1, prompt_tokens=PROMPT_TOKENS, **options)
    return Tree.of([job.changed(finish_reason=FinishReason.MOVED) for job in jobs])


def deployment_of(ledger: Ledger) -> Deployment:
    """The ledger's contracts as a verifier is told of them."""
    names = ("Audits", "Court", "Escrow", "Registry", "Silence", "Staking")
    contracts = {name: Address(getattr(ledger, name.lower()).address) for name in names}
    contracts |= {"Asset": Address(ledger.asset.address), "JurorPools": Address(ledger.pools.address)}
    return Deployment(ledger.web3.eth.chain_id, 0, contracts)

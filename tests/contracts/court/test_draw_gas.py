"""The dearest draw there can be fits into one transaction: a jury that nobody can draw would hold a case for ever."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import cast

import pytest
from eth_abi.abi import encode
from web3 import HTTPProvider
from web3.contract.contract import ContractFunction
from web3.types import RPCEndpoint

from retally.protocol.encoding import keccak
from retally.protocol.voucher import NodeAuth
from tests.contracts.court.cases import Case, open_case
from tests.contracts.court.ledger import DAY, MILLION, OPERATOR, PARAMETERS, Ledger, start_anvil
from tests.contracts.court.transcripts import MODEL, PROFILE
from tests.contracts.court.world import INCONCLUSIVE, MATCH, STAKE, World, key

TRANSACTION = 16_777_216  # EIP-7825
LARGEST_FIRST, LARGEST = 7, 63
LOTS = LARGEST * 3 // 2 + 32
DEEP = 1 << 20
POOLS_SLOT, TREE, SUMS, MEMBERS = 2, 2, 3, 5


@pytest.fixture
def large_world() -> Iterator[World]:
    """A court with the largest first jury that may be, and as many operators as a draw casts lots."""
    process, url = start_anvil()
    try:
        world = World(Ledger(url, (LARGEST_FIRST, *PARAMETERS["court"][1:])))
        add_operators(world, LOTS + 1 - len(world.owners))
        yield world
    finally:
        process.terminate()
        process.wait(timeout=10)


def test_fits_into_one_transaction(large_world: World) -> None:
    world, court = large_world, large_world.ledger.court.functions
    case, parties = before_the_last_appeal(world)
    jurors = [owner for owner in world.owners if owner != world.cheat]
    sat = {juror for round_ in range(4) for juror in case.jurors(round_)}
    fresh = [owner for owner in jurors if owner not in sat]
    # One seat short: every lot is cast, each to its last check, and all but the seated are lost.
    refused = fresh[LARGEST - 1 :]
    declare(world, jurors, parties, refused)
    spread(world, jurors)
    world.ledger.mine(6)
    mined = world.ledger.send(court.draw(case.id), world.outsider)
    seated = mined.event("JurorsDrawn")["jurors"]
    assert len(seated) == LARGEST
    assert set(seated[:-1]) == set(fresh[: LARGEST - 1])
    assert seated[-1] in sat
    assert mined.gas < TRANSACTION, mined.gas


def add_operators(world: World, amount: int) -> None:
    """Operators with a stake and a node each, all in the pool."""
    ledger, deadline = world.ledger, world.ledger.now() + DAY
    owners = [key(f"sworn {number}").address for number in range(amount)]
    nodes = [key(f"sworn node {number}") for number in range(amount)]
    asset, staking = ledger.asset.functions, ledger.staking.functions
    send_each(world, [(asset.faucet(owner, STAKE), owner) for owner in owners])
    send_each(world, [(asset.approve(ledger.staking.address, STAKE), owner) for owner in owners])
    send_each(world, [(staking.stake(OPERATOR, STAKE), owner) for owner in owners])
    registrations = []
    for owner, node in zip(owners, nodes, strict=True):
        signature = node.sign(NodeAuth(owner, node.address, deadline).digest(ledger.domain))
        what = (node.address, MODEL, PROFILE, "http://node", deadline, signature[:32], signature[32:])
        registrations.append((ledger.registry.functions.registerNode(*what), owner))
    send_each(world, registrations)
    enlist = ledger.pools.functions.enlist
    send_each(world, [(enlist(node.address), owner) for owner, node in zip(owners, nodes, strict=True)])
    world.owners.extend(owners)
    assert len(ledger.pools.functions.membersOf(1).call()) == len(world.owners)


def send_each(world: World, calls: Sequence[tuple[ContractFunction, str]]) -> None:
    """Calls of different senders, mined when this returns."""
    world.ledger.send_all(calls)
    while any(world.ledger.rpc("txpool_status")[kind] != "0x0" for kind in ("pending", "queued")):
        world.ledger.mine(1)


def before_the_last_appeal(world: World) -> tuple[Case, list[str]]:
    """A case that had every round it can have but the last, and its parties."""
    ledger, court = world.ledger, world.ledger.court.functions
    case = open_case(world)
    appellants = [key(f"appellant {number}").address for number in range(2)]
    for appellant in appellants:
        ledger.send(ledger.asset.functions.faucet(appellant, 10_000 * MILLION), appellant)
        ledger.send(ledger.asset.functions.approve(ledger.court.address, 2**255), appellant)
    case.draw()
    ledger.jump(2 * DAY + 1)
    case.decide()  # nobody voted: another jury of the same size
    for round_, verdict in enumerate((INCONCLUSIVE, MATCH, MATCH), start=1):
        case.draw()
        case.vote_all(verdict, round_)
        case.decide()
        if verdict == MATCH:
            ledger.send(court.appeal(case.id), appellants[round_ - 2])
    return case, [world.cheat, world.challenger, *appellants]


def declare(world: World, jurors: Sequence[str], parties: Sequence[str], refused: Sequence[str]) -> None:
    """All jurors declare every party, so that a check reads both sides; the last party those that may not sit."""
    registry = world.ledger.registry.functions
    for party in parties:
        send_each(world, [(registry.declareSibling(party, True), juror) for juror in jurors])
    for juror in refused:
        world.ledger.send(registry.declareSibling(juror, True), parties[-1])
    assert all(registry.areSiblings(juror, parties[-1]).call() for juror in refused)


def spread(world: World, owners: Sequence[str]) -> None:
    """Put the owners, each with an equal weight, far apart into a pool of a million that have left."""
    pool = int.from_bytes(keccak(encode(["uint256", "uint256"], [1, POOLS_SLOT])), "big")
    members = int.from_bytes(keccak(encode(["uint256"], [pool + MEMBERS])), "big")
    places = sorted(Random(1).sample(range(1, DEEP), len(owners)))
    words = {pool + TREE: DEEP << 128 | STAKE * len(owners), pool + MEMBERS: DEEP}
    sums: dict[int, int] = {}
    for owner, place in zip(owners, places, strict=True):
        words[members + place - 1] = int(owner, 16)
        while place <= DEEP:
            sums[place] = sums.get(place, 0) + STAKE
            place += place & -place
    for node, total in sums.items():
        words[int.from_bytes(keccak(encode(["uint256", "uint256"], [node, pool + SUMS])), "big")] = total
    pools = world.ledger.pools
    store, provider = RPCEndpoint("anvil_setStorageAt"), cast(HTTPProvider, world.ledger.web3.provider)
    calls = [(store, [pools.address, f"0x{at:064x}", f"0x{word:064x}"]) for at, word in words.items()]
    for first in range(0, len(calls), 500):
        answers = provider.make_batch_request(calls[first : first + 500])
        assert all("error" not in answer for answer in answers)
    assert pools.functions.weightOf(1).call() == STAKE * len(owners)
    assert pools.functions.entryOf(1, owners[0]).call()[1] == STAKE

"""Who may be drawn to judge a pair, and how stakes turn into seats."""

from __future__ import annotations

from typing import Any

import pytest

from jury_lots import Entry, draw
from retally.protocol.encoding import keccak
from tests.contracts.court.cases import open_case
from tests.contracts.court.ledger import GOVERNOR, OPERATOR
from tests.contracts.court.transcripts import MODEL, PROFILE
from tests.contracts.court.world import STAKE, World, operators

OTHER_MODEL = keccak(b"another model")


def entry(world: World, owner: str) -> tuple[int, int, int, str]:
    """Leaf, weight, since, node."""
    pools = world.ledger.pools.functions
    return tuple(pools.entryOf(pools.poolOf(MODEL, PROFILE).call(), owner).call())


def jury(
    world: World, seed: bytes, size: int, *, parties: Any = (), seated: Any = (), before: int | None = None
) -> Any:
    """A draw of the contract."""
    pools = world.ledger.pools.functions
    when = world.ledger.now() + 1 if before is None else before
    return pools.draw(pools.poolOf(MODEL, PROFILE).call(), seed, size, when, parties, seated).call()


class TestEnlist:
    def test_records_stake_node_and_pair(self, world: World) -> None:
        leaf, weight, since, node = entry(world, world.owners[1])
        assert (leaf, weight, node) == (2, STAKE, world.nodes[1].address)
        assert 0 < since <= world.ledger.now()
        pools = world.ledger.pools.functions
        assert pools.weightOf(1).call() == 4 * STAKE
        assert pools.membersOf(1).call() == world.owners[:4]
        assert pools.poolOf(OTHER_MODEL, PROFILE).call() == 0

    def test_a_raised_weight_grows_old_again_and_a_lower_one_stays_old(self, world: World) -> None:
        ledger, owner = world.ledger, world.owners[1]
        pools, node = ledger.pools.functions, world.nodes[1].address
        since = entry(world, owner)[2]
        ledger.send(pools.enlist(node), owner)
        assert entry(world, owner)[2] == since
        ledger.send(ledger.staking.functions.stake(OPERATOR, STAKE), owner)
        assert entry(world, owner)[1] == STAKE
        ledger.send(pools.enlist(node), owner)
        assert entry(world, owner)[1:3] == (2 * STAKE, ledger.now())
        assert pools.weightOf(1).call() == 5 * STAKE

    def test_reverts_for_others_nodes_and_without_stake(self, world: World) -> None:
        pools, owner = world.ledger.pools.functions, world.owners[1]
        world.ledger.reverts("PoolsNotYourNode", pools.enlist(world.nodes[2].address), owner)
        world.ledger.reverts("PoolsNotYourNode", pools.enlist(world.outsider), owner)
        world.ledger.send(world.ledger.staking.functions.thaw(OPERATOR, 1), owner)
        world.ledger.reverts("PoolsNotActive", pools.enlist(world.nodes[1].address), owner)

    def test_pools_stand_still_while_a_jury_waits(self, world: World) -> None:
        pools, owner = world.ledger.pools.functions, world.owners[1]
        case = open_case(world)
        for call in (pools.enlist(world.nodes[1].address), pools.resign(MODEL, PROFILE)):
            assert world.ledger.reverts("PoolsDrawPending", call, owner) == (1,)
        case.draw()
        assert world.ledger.court.functions.pendingDraws().call() == 0
        world.ledger.send(pools.resign(MODEL, PROFILE), owner)

    def test_resigned_operators_are_not_drawn_and_may_come_back(self, world: World) -> None:
        pools, owner = world.ledger.pools.functions, world.owners[1]
        world.ledger.send(pools.resign(MODEL, PROFILE), owner)
        world.ledger.reverts("PoolsNotEnlisted", pools.resign(MODEL, PROFILE), owner)
        assert sorted(jury(world, keccak(b"seed"), 4)) == sorted({*world.owners} - {owner})
        world.ledger.send(pools.enlist(world.nodes[1].address), owner)
        assert sorted(jury(world, keccak(b"seed"), 4)) == sorted(world.owners)


class TestRefresh:
    def test_lowers_a_stale_entry_for_anybody(self, world: World) -> None:
        ledger, owner = world.ledger, world.owners[1]
        call = ledger.pools.functions.refresh(MODEL, PROFILE, owner)
        assert ledger.reverts("PoolsNothingStale", call, world.outsider)[2] == STAKE
        ledger.send(ledger.registry.functions.revokeNode(world.nodes[1].address), owner)
        assert ledger.send(call, world.outsider).event("WeightLowered")["weight"] == 0
        ledger.reverts("PoolsNotEnlisted", call, world.outsider)
        assert ledger.pools.functions.weightOf(1).call() == 3 * STAKE

    def test_leaves_what_is_still_staked(self, world: World) -> None:
        ledger, owner = world.ledger, world.owners[1]
        ledger.send(ledger.staking.functions.stake(OPERATOR, STAKE), owner)
        ledger.send(ledger.pools.functions.enlist(world.nodes[1].address), owner)
        ledger.send(ledger.staking.functions.thaw(OPERATOR, STAKE), owner)
        ready = ledger.pools.functions.readiness(MODEL, PROFILE)
        owners = ready.call()[1]
        call = ledger.pools.functions.refresh(MODEL, PROFILE, owner)
        assert ledger.send(call, world.outsider).event("WeightLowered")["weight"] == STAKE
        assert entry(world, owner)[1] == STAKE
        # It weighs less, but it still weighs.
        assert ready.call() == [True, owners, 4 * STAKE]
        assert ledger.reverts("PoolsNothingStale", call, world.outsider)[2] == STAKE


class TestDraw:
    def test_no_stake_that_changes_once_the_seed_is_known_moves_another_lot(self, world: World) -> None:
        """An owner chooses as little by topping its stake up as by leaving."""
        ledger, staking = world.ledger, world.ledger.staking.functions
        operators(world, 8)
        for owner in world.owners[2:6]:  # enlisted with more than they have
            node = entry(world, owner)[3]
            ledger.send(staking.stake(OPERATOR, 9 * STAKE), owner)
            ledger.send(ledger.pools.functions.enlist(node), owner)
            ledger.send(staking.thaw(OPERATOR, 8 * STAKE), owner)
            ledger.send(ledger.asset.functions.faucet(owner, 50 * STAKE), owner)
            ledger.send(ledger.asset.functions.approve(ledger.staking.address, 50 * STAKE), owner)
        registry = ledger.registry.functions
        changes = [
            *((staking.stake(OPERATOR, amount), owner, owner)
              for owner in world.owners[2:4] for amount in (1, STAKE, 50 * STAKE)),
            *((staking.cancelThaw(OPERATOR), owner, owner) for owner in world.owners[2:4]),
            *((staking.thaw(OPERATOR, STAKE), owner, owner) for owner in world.owners[3:8]),
            (registry.revokeNode(entry(world, world.owners[4])[3]), world.owners[4], world.owners[4]),
        ]  # fmt: skip
        seeds = [keccak(number.to_bytes(4, "big")) for number in range(6)]
        before = ledger.now() + 10**6
        drawn = [jury(world, seed, 6, before=before) for seed in seeds]
        moved = 0
        for call, sender, owner in changes:
            with ledger.reverted():
                ledger.send(call, sender)
                for seed, old in zip(seeds, drawn, strict=True):
                    new = jury(world, seed, 6, before=before)
                    moved += new != old
                    # One list goes on where the other ends: the owner alone comes in or falls out.
                    rest = [[juror for juror in each if juror != owner] for each in (old, new)]
                    least = min(map(len, rest))
                    assert rest[0][:least] == rest[1][:least]
        assert moved > 0

    def test_what_thaws_is_drawn_no_more(self, world: World) -> None:
        ledger, owner = world.ledger, world.owners[1]
        ledger.send(ledger.staking.functions.stake(OPERATOR, STAKE), owner)
        ledger.send(ledger.pools.functions.enlist(world.nodes[1].address), owner)
        ledger.send(ledger.staking.functions.thaw(OPERATOR, STAKE), owner)
        assert ledger.pools.functions.readiness(MODEL, PROFILE).call() == [True, 4, 4 * STAKE]
        ledger.send(ledger.pools.functions.enlist(world.nodes[1].address), owner)
        assert entry(world, owner)[1] == STAKE
        ledger.send(ledger.staking.functions.thaw(OPERATOR, 1), owner)
        assert all(owner not in jury(world, keccak(bytes([number])), 3) for number in range(8))
        refresh = ledger.pools.functions.refresh(MODEL, PROFILE, owner)
        assert ledger.send(refresh, world.outsider).event("WeightLowered")["weight"] == 0

    def test_agrees_with_the_twin(self, crowded: tuple[World, list[Entry]]) -> None:
        world, entries = crowded
        for number in range(40):
            seed, size = keccak(number.to_bytes(4, "big")), 1 + number % 12
            seated = [each.owner for each in entries[: number % 5]]
            assert jury(world, seed, size, seated=seated) == draw(seed, size, entries, seated)

    @pytest.fixture
    def crowded(self, world: World) -> tuple[World, list[Entry]]:
        """Operators of different weights, some with less stake than they enlisted with."""
        ledger = world.ledger
        extra = operators(world, 8)
        entries = []
        for place, owner in enumerate(world.owners):
            if owner in extra:
                number = extra.index(owner)
                ledger.send(ledger.staking.functions.stake(OPERATOR, number * STAKE), owner) if number else None
                node = ledger.pools.functions.entryOf(1, owner).call()[3]
                ledger.send(ledger.pools.functions.enlist(node), owner)
            weight = entry(world, owner)[1]
            leaves = weight // 3 if place % 3 == 0 and weight > 2 * STAKE else 0
            if leaves:
                ledger.send(ledger.staking.functions.thaw(OPERATOR, leaves), owner)
            entries.append(Entry(owner, weight, weight - leaves))
        assert any(each.worth < each.weight for each in entries)
        return world, entries

    def test_seats_nobody_of_the_parties_their_siblings_or_too_young(self, world: World) -> None:
        ledger, seed = world.ledger, keccak(b"seed")
        first, second = world.owners[0], world.owners[1]
        assert first not in jury(world, seed, 4, parties=[first])
        ledger.send(ledger.registry.functions.declareSibling(second, True), first)
        assert second in jury(world, seed, 4, parties=[first])
        ledger.send(ledger.registry.functions.declareSibling(first, True), second)
        assert sorted(jury(world, seed, 4, parties=[first])) == sorted(world.owners[2:4])
        since = entry(world, world.owners[2])[2]
        assert jury(world, seed, 4, before=since, parties=[first, second]) == []
        assert jury(world, seed, 4, before=since + 1, parties=[first, second]) == [world.owners[2]]

    def test_seats_nobody_whose_node_serves_something_else(self, world: World) -> None:
        registry, owner = world.ledger.registry.functions, world.owners[1]
        world.ledger.send(registry.addModel(OTHER_MODEL, 200, "other", ""), GOVERNOR)
        world.ledger.send(registry.updateNode(world.nodes[1].address, "http://n", OTHER_MODEL, PROFILE), owner)
        assert owner not in jury(world, keccak(b"seed"), 4)


class TestReadiness:
    def test_counts_owners_that_are_no_siblings_and_their_stake(self, world: World) -> None:
        ledger, readiness = world.ledger, world.ledger.pools.functions.readiness(MODEL, PROFILE)
        assert readiness.call() == [True, 4, 4 * STAKE]
        registry = ledger.registry.functions
        ledger.send(registry.declareSibling(world.owners[1], True), world.owners[0])
        ledger.send(registry.declareSibling(world.owners[0], True), world.owners[1])
        assert readiness.call() == [False, 3, 3 * STAKE]
        assert ledger.pools.functions.parameters().call() == (4, 4 * STAKE)
        assert ledger.pools.functions.readiness(OTHER_MODEL, PROFILE).call() == [False, 0, 0]

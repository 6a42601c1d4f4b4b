"""Stories of cases before a pool that is not the accused's: it judges nobody, and whoever opened them pays."""

from __future__ import annotations

from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak
from retally.protocol.voucher import NodeAuth
from tests.contracts.court.cases import BOND, DECIDED, DRAWING, FEE, TIP, Case, locked, open_case
from tests.contracts.court.ledger import GOVERNOR, MILLION, OPERATOR
from tests.contracts.court.transcripts import MODEL, PROFILE
from tests.contracts.court.wealth import wealth
from tests.contracts.court.world import INCONCLUSIVE, STAKE, World, key

STRANGE_MODEL = keccak(b"a model that only sybils serve")


def serve(world: World, owner: str, node: SigningKey, model: bytes = STRANGE_MODEL) -> None:
    """Give an owner a node of this model and stand for jury duty with it."""
    ledger = world.ledger
    deadline = ledger.now() + 600
    signature = node.sign(NodeAuth(owner, node.address, deadline).digest(ledger.domain))
    register = ledger.registry.functions.registerNode(
        node.address, model, PROFILE, "http://node", deadline, signature[:32], signature[32:]
    )
    ledger.send(register, owner)
    ledger.send(ledger.pools.functions.enlist(node.address), owner)


def sybils(world: World, amount: int) -> int:
    """A pool of this many owners that nobody else is in."""
    ledger = world.ledger
    ledger.send(ledger.registry.functions.addModel(STRANGE_MODEL, 200, "strange", ""), GOVERNOR)
    for number in range(amount):
        owner = key(f"sybil {number}").address
        ledger.send(ledger.asset.functions.faucet(owner, 10_000 * MILLION), owner)
        ledger.send(ledger.asset.functions.approve(ledger.staking.address, 2**255), owner)
        ledger.send(ledger.staking.functions.stake(OPERATOR, STAKE), owner)
        serve(world, owner, key(f"sybil node {number}"))
        world.owners.append(owner)
    return pool_of(world, STRANGE_MODEL)


def pool_of(world: World, model: bytes) -> int:
    """The pool of a model."""
    return int(world.ledger.pools.functions.poolOf(model, PROFILE).call())


def accuse(world: World, pool: int, own_job: bool = False) -> Case:
    """A case of invented fees against an honest owner before a pool."""
    thief = world.friend.address
    entries = [(0, keccak(b"invented"), thief, 2**90)]
    court = world.ledger.court.functions
    what = (world.owners[1], pool, entries, keccak(b"evidence"), "")
    mined = world.ledger.send(court.openOwnJob(what) if own_job else court.open(what), thief)
    return Case(world, mined.event("CaseOpened")["caseId"], [], entries)


def ends_at_once(world: World, case: Case) -> None:
    """The first draw, which waits for no block, ends the case; it costs the accused nothing and its opener the fee."""
    court, thief, accused = world.ledger.court.functions, world.friend.address, world.owners[1]
    assert case.status == DRAWING
    world.ledger.send(court.draw(case.id), world.outsider)
    assert (case.status, case.record[4]) == (DECIDED, INCONCLUSIVE)
    assert court.pendingDraws().call() == 0
    world.ledger.send(court.execute(case.id, case.shown), world.outsider)
    assert case.credit(accused) == FEE
    assert case.reward(thief) == 0
    assert world.ledger.staking.functions.slashable(accused, OPERATOR).call() == STAKE
    assert locked(world, accused) == 0
    world.supply()


class TestSybils:
    def test_a_pool_of_strangers_judges_nobody(self, world: World) -> None:
        pool = sybils(world, 4)
        assert world.ledger.pools.functions.readiness(STRANGE_MODEL, PROFILE).call()[0]
        assert not world.ledger.pools.functions.mayJudge(pool, world.owners[1]).call()
        thief = wealth(world, world.friend.address)
        ends_at_once(world, accuse(world, pool))
        assert wealth(world, world.friend.address) - thief == -(FEE + 2 * TIP)

    def test_a_pool_that_is_not_ready_judges_nobody(self, world: World) -> None:
        """Three sybils join the pair that the accused alone serves: two votes of three would convict it."""
        pool = sybils(world, 2)
        serve(world, world.owners[1], key("second node"))
        pools = world.ledger.pools.functions
        assert not pools.mayJudge(pool, world.owners[1]).call()
        ends_at_once(world, accuse(world, pool))

    def test_one_owners_weight_stands_for_no_other(self, world: World) -> None:
        pools, staking, rich = world.ledger.pools.functions, world.ledger.staking.functions, world.owners[2]
        assert pools.mayJudge(1, world.cheat).call()
        world.ledger.send(staking.stake(OPERATOR, STAKE), rich)
        world.ledger.send(pools.enlist(world.nodes[2].address), rich)
        world.ledger.send(pools.resign(MODEL, PROFILE), world.owners[3])
        assert pools.weightOf(1).call() == 4 * STAKE
        assert not pools.mayJudge(1, world.cheat).call()
        world.ledger.send(pools.enlist(world.nodes[3].address), world.owners[3])
        assert pools.mayJudge(1, world.cheat).call()
        world.ledger.send(world.ledger.registry.functions.revokeNode(world.nodes[1].address), world.owners[1])
        world.ledger.send(pools.refresh(MODEL, PROFILE, world.owners[1]), world.outsider)
        assert not pools.mayJudge(1, world.cheat).call()


class TestServed:
    def test_what_was_once_served_may_be_judged_for_ever(self, world: World) -> None:
        registry, cheat = world.ledger.registry.functions, world.cheat
        world.ledger.send(registry.addModel(STRANGE_MODEL, 200, "strange", ""), GOVERNOR)
        assert not registry.hasServed(cheat, STRANGE_MODEL, PROFILE).call()
        world.ledger.send(registry.updateNode(world.nodes[0].address, "http://n", STRANGE_MODEL, PROFILE), cheat)
        world.ledger.send(registry.revokeNode(world.nodes[0].address), cheat)
        assert registry.hasServed(cheat, STRANGE_MODEL, PROFILE).call()
        assert registry.hasServed(cheat, MODEL, PROFILE).call()
        assert not registry.hasServed(world.owners[1], STRANGE_MODEL, PROFILE).call()
        assert world.ledger.pools.functions.mayJudge(1, cheat).call()


class TestNobodySits:
    """A case that no jury can hear costs its opener the case fee: it kept a stake locked and the pools still."""

    def test_of_a_pool_that_does_not_exist_the_fee_is_the_accuseds(self, world: World) -> None:
        case = accuse(world, 999_999)
        ends_at_once(world, case)
        assert case.credit(world.friend.address) == BOND + 5 * TIP

    def test_of_an_own_job_the_fee_is_the_accuseds(self, world: World) -> None:
        case = accuse(world, 999_999, own_job=True)
        ends_at_once(world, case)
        assert case.credit(world.friend.address) == 5 * TIP

    def test_pools_stand_still_only_until_anybody_draws(self, world: World) -> None:
        pools, owner = world.ledger.pools.functions, world.owners[2]
        case = accuse(world, 999_999)
        call = pools.enlist(world.nodes[2].address)
        world.ledger.reverts("PoolsDrawPending", call, owner)
        world.ledger.send(world.ledger.court.functions.advance(case.id), owner)
        world.ledger.send(call, owner)
        assert case.credit(owner) == TIP

    def test_where_all_jurors_leave_the_fee_is_the_accuseds_too(self, world: World) -> None:
        case = open_case(world)
        for owner, node in zip(world.owners[1:], world.nodes[1:], strict=True):
            world.ledger.send(world.ledger.registry.functions.revokeNode(node.address), owner)
        assert case.draw() == []
        assert case.status == DRAWING
        assert case.draw() == []
        assert case.execute()["verdict"] == INCONCLUSIVE
        assert case.credit(world.cheat) == FEE
        assert case.credit(world.challenger) == BOND + 4 * TIP
        world.supply()

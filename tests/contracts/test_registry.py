"""Nodes and their owners, what may be served, and how densely an owner is audited."""

from __future__ import annotations

import pytest

from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak
from tests.contracts.world import BIG_MODEL, DAY, DOLLAR, MODEL, OTHER_PROFILE, PROFILE, UNIT, World

NEW = [5, 300_000]
ESTABLISHED = [50, 30_000]
OTHER = keccak(b"unknown")


@pytest.fixture
def owner(world: World) -> SigningKey:
    return world.operator()


@pytest.fixture
def governor(world: World) -> str:
    """The timelock, able to send."""
    world.rpc("anvil_setBalance", world.timelock.address, hex(10**20))
    return str(world.timelock.address)


class TestRegisterNode:
    def test_stores_what_the_node_serves(self, world: World, owner: SigningKey) -> None:
        node = SigningKey.generate()
        receipt = world.send(owner, world.register_call(owner, node))
        expected = [owner.address, MODEL, PROFILE, world.now, 0, "http://node"]
        assert world.registry.functions.node(node.address).call() == expected
        assert world.registry.functions.nodeOwner(node.address).call() == owner.address
        (event,) = world.events(world.registry, "NodeRegistered", receipt)
        assert (event["node"], event["owner"], event["endpoint"]) == (node.address, owner.address, "http://node")

    def test_reverts_when_taken_even_after_revocation(self, world: World, owner: SigningKey) -> None:
        node, rival = world.node(owner), world.operator()
        world.send(owner, world.registry.functions.revokeNode(node.address))
        with world.reverts("RegistryNodeTaken"):
            world.send(rival, world.register_call(rival, node))

    def test_reverts_when_the_node_did_not_sign_for_this_owner(self, world: World, owner: SigningKey) -> None:
        rival = world.operator()
        with world.reverts("SignatureNotBy"):
            world.send(rival, world.register_call(owner, SigningKey.generate()))

    def test_reverts_when_the_proof_is_late(self, world: World, owner: SigningKey) -> None:
        with world.reverts("RegistryAuthExpired"):
            world.send(owner, world.register_call(owner, SigningKey.generate(), deadline=world.now - 1))

    def test_reverts_when_the_stake_is_short(self, world: World) -> None:
        poor = world.operator(stake=999 * DOLLAR)
        with world.reverts("RegistryOwnerNotActive", poor.address.lower(), 999 * DOLLAR, 1_000 * DOLLAR):
            world.send(poor, world.register_call(poor, SigningKey.generate()))

    def test_reverts_when_model_or_profile_is_unknown(self, world: World, owner: SigningKey) -> None:
        node = SigningKey.generate()
        with world.reverts("RegistryUnknownModel", OTHER):
            world.send(owner, world.register_call(owner, node, model=OTHER))
        with world.reverts("RegistryUnknownProfile", OTHER):
            world.send(owner, world.register_call(owner, node, profile=OTHER))


class TestUpdateNode:
    def test_changes_what_and_where(self, world: World, owner: SigningKey) -> None:
        node = world.node(owner)
        update = world.registry.functions.updateNode(node.address, "http://new", BIG_MODEL, OTHER_PROFILE)
        world.send(owner, update)
        served = world.registry.functions.node(node.address).call()
        assert (served[1], served[2], served[5]) == (BIG_MODEL, OTHER_PROFILE, "http://new")

    def test_reverts_for_a_long_endpoint(self, world: World, owner: SigningKey) -> None:
        node, functions = world.node(owner), world.registry.functions
        world.send(owner, functions.updateNode(node.address, "x" * 256, MODEL, PROFILE))
        with world.reverts("RegistryEndpointTooLong", 257, 256):
            world.send(owner, functions.updateNode(node.address, "x" * 257, MODEL, PROFILE))

    def test_says_what_a_living_node_serves(self, world: World, owner: SigningKey) -> None:
        node, serves = world.node(owner), world.registry.functions.serves
        assert serves(node.address, owner.address, MODEL, PROFILE).call()
        for other in (
            (world.party().address, owner.address, MODEL, PROFILE),
            (node.address, world.party().address, MODEL, PROFILE),
            (node.address, owner.address, BIG_MODEL, PROFILE),
            (node.address, owner.address, MODEL, OTHER_PROFILE),
        ):
            assert not serves(*other).call()
        world.send(owner, world.registry.functions.revokeNode(node.address))
        assert not serves(node.address, owner.address, MODEL, PROFILE).call()

    def test_never_thins_the_audits(self, world: World, owner: SigningKey) -> None:
        node, big = world.node(owner), world.node(owner, BIG_MODEL)
        terms = world.registry.functions.commitTerms
        assert terms(big.address, owner.address).call() == [owner.address, 5 * 9_000, NEW[1], True]
        for key, model in ((node, BIG_MODEL), (big, MODEL)):
            world.send(owner, world.registry.functions.updateNode(key.address, "", model, PROFILE))
            assert terms(key.address, owner.address).call()[1] == 5 * UNIT

    def test_reverts_when_not_the_owners_living_node(self, world: World, owner: SigningKey) -> None:
        node, rival = world.node(owner), world.party()
        arguments = (node.address, "", MODEL, PROFILE)
        with world.reverts("RegistryNotNodeOwner"):
            world.send(rival, world.registry.functions.updateNode(*arguments))
        with world.reverts("RegistryUnknownNode"):
            world.send(owner, world.registry.functions.updateNode(rival.address, *arguments[1:]))
        world.send(owner, world.registry.functions.revokeNode(node.address))
        with world.reverts("RegistryNodeIsRevoked"):
            world.send(owner, world.registry.functions.updateNode(*arguments))


class TestIsDelegate:
    def test_a_node_acts_for_nobody_until_it_is_named(self, world: World, owner: SigningKey) -> None:
        node, payer = SigningKey.generate(), world.payer()
        world.rpc("anvil_setBalance", node.address, hex(10**20))
        world.send(owner, world.register_call(owner, node))
        check, name = world.registry.functions.isDelegate, world.registry.functions.setDelegate
        assert not check(owner.address, node.address).call()
        with world.reverts("EscrowNotCollector"):
            world.collect(node, world.item(payer, node, 100))
        world.send(owner, name(node.address, True))
        assert check(owner.address, node.address).call()
        assert world.collect(node, world.item(payer, node, 100)).paid == 100
        # A stranger that names it gains nothing, and takes nothing from it.
        for allowed in (True, False):
            world.send(payer, name(node.address, allowed))
            assert check(payer.address, node.address).call() == allowed
            assert check(owner.address, node.address).call()
        world.send(owner, name(node.address, False))
        assert not check(owner.address, node.address).call()

    def test_a_node_may_be_named_before_it_is_registered(self, world: World, owner: SigningKey) -> None:
        node = SigningKey.generate()
        world.send(owner, world.registry.functions.setDelegate(node.address, True))
        world.send(owner, world.register_call(owner, node))
        assert world.registry.functions.isDelegate(owner.address, node.address).call()

    def test_reverts_when_a_revoked_node_is_named(self, world: World, owner: SigningKey) -> None:
        node = world.node(owner)
        world.send(owner, world.registry.functions.revokeNode(node.address))
        with world.reverts("RegistryNodeIsRevoked"):
            world.send(owner, world.registry.functions.setDelegate(node.address, True))

    def test_owner_live_nodes_and_named_ones(self, world: World, owner: SigningKey) -> None:
        node, named, stranger = world.node(owner), world.party(), world.party()
        world.send(owner, world.registry.functions.setDelegate(named.address, True))
        check = world.registry.functions.isDelegate
        for who, expected in ((owner, True), (node, True), (named, True), (stranger, False)):
            assert check(owner.address, who.address).call() == expected
        world.send(owner, world.registry.functions.setDelegate(named.address, False))
        world.send(owner, world.registry.functions.revokeNode(node.address))
        assert not check(owner.address, named.address).call()
        assert not check(owner.address, node.address).call()
        assert not check("0x" + "00" * 20, stranger.address).call()


class TestSiblings:
    def test_count_when_both_said_so(self, world: World) -> None:
        a, b = world.party(), world.party()
        world.send(a, world.registry.functions.declareSibling(b.address, True))
        assert not world.registry.functions.areSiblings(a.address, b.address).call()
        world.send(b, world.registry.functions.declareSibling(a.address, True))
        assert world.registry.functions.areSiblings(b.address, a.address).call()

    def test_taking_it_back_ends_it_only_after_28_days(self, world: World) -> None:
        a, b = world.party(), world.party()
        declare, siblings = world.registry.functions.declareSibling, world.registry.functions.areSiblings
        # What was never declared is not declared by taking it back.
        world.send(a, declare(b.address, False))
        world.send(b, declare(a.address, True))
        assert not siblings(a.address, b.address).call()
        world.send(a, declare(b.address, True))
        world.send(a, declare(b.address, False))
        world.jump(27 * DAY)
        # Taken back twice it ends no later.
        world.send(a, declare(b.address, False))
        assert siblings(a.address, b.address).call()
        world.jump(DAY)
        assert not siblings(a.address, b.address).call()
        world.send(a, declare(b.address, True))
        assert siblings(b.address, a.address).call()

    def test_are_not_transitive(self, world: World) -> None:
        a, b, c = world.party(), world.party(), world.party()
        for one, other in ((a, b), (b, a), (b, c), (c, b)):
            world.send(one, world.registry.functions.declareSibling(other.address, True))
        assert not world.registry.functions.areSiblings(a.address, c.address).call()


class TestAuditLevel:
    def test_thins_after_28_days_and_thickens_with_a_warning(self, world: World, owner: SigningKey) -> None:
        level = world.registry.functions.auditLevel(owner.address)
        assert level.call() == NEW
        world.jump(60 * DAY)
        world.node(owner)
        assert level.call() == NEW
        world.jump(28 * DAY + 60)
        assert level.call() == ESTABLISHED
        world.send(world.slasher, world.registry.functions.warn(owner.address))
        assert level.call() == NEW
        assert world.registry.functions.warnedUntil(owner.address).call() == world.now + 28 * DAY
        world.jump(28 * DAY + 60)
        assert level.call() == ESTABLISHED

    def test_reverts_when_the_caller_may_not_warn(self, world: World, owner: SigningKey) -> None:
        with world.reverts("RegistryNotSlasher"):
            world.send(owner, world.registry.functions.warn(owner.address))


class TestCatalogue:
    def test_is_added_to_by_the_timelock(self, world: World, governor: str) -> None:
        functions = world.registry.functions
        world.send(governor, functions.addModel(OTHER, 7, "m", "ipfs://"))
        world.send(governor, functions.addProfile(OTHER, "ipfs://"))
        world.send(governor, functions.addCalibration(OTHER, OTHER, OTHER, PROFILE, "ipfs://"))
        assert functions.modelUnit(OTHER).call() == 7
        assert functions.isProfile(OTHER).call()
        assert functions.calibrationFrom(OTHER).call() == world.now

    def test_calibrations_wait_28_days_once_somebody_serves(
        self, world: World, governor: str, owner: SigningKey
    ) -> None:
        world.node(owner)
        functions = world.registry.functions
        world.send(governor, functions.addCalibration(OTHER, MODEL, PROFILE, PROFILE, ""))
        assert functions.calibrationFrom(OTHER).call() == world.now + 28 * DAY

    def test_is_never_changed(self, world: World, governor: str) -> None:
        functions = world.registry.functions
        with world.reverts("RegistryModelKnown", MODEL):
            world.send(governor, functions.addModel(MODEL, 7, "m", ""))
        with world.reverts("RegistryProfileKnown", PROFILE):
            world.send(governor, functions.addProfile(PROFILE, ""))
        world.send(governor, functions.addCalibration(OTHER, MODEL, PROFILE, PROFILE, ""))
        with world.reverts("RegistryCalibrationKnown", OTHER):
            world.send(governor, functions.addCalibration(OTHER, MODEL, PROFILE, PROFILE, ""))

    def test_reverts_when_incomplete(self, world: World, governor: str) -> None:
        functions = world.registry.functions
        for call in (
            functions.addModel(bytes(32), 7, "", ""),
            functions.addProfile(bytes(32), ""),
            functions.addCalibration(bytes(32), MODEL, PROFILE, PROFILE, ""),
        ):
            with world.reverts("RegistryZeroId"):
                world.send(governor, call)
        with world.reverts("RegistryZeroUnit", OTHER):
            world.send(governor, functions.addModel(OTHER, 0, "", ""))
        with world.reverts("RegistryUnknownModel", OTHER):
            world.send(governor, functions.addCalibration(OTHER, OTHER, PROFILE, PROFILE, ""))
        with world.reverts("RegistryUnknownProfile", OTHER):
            world.send(governor, functions.addCalibration(OTHER, MODEL, OTHER, PROFILE, ""))

    def test_reverts_when_the_caller_is_not_the_timelock(self, world: World, owner: SigningKey) -> None:
        functions = world.registry.functions
        for call in (
            functions.addModel(OTHER, 7, "", ""),
            functions.addProfile(OTHER, ""),
            functions.addCalibration(OTHER, MODEL, PROFILE, PROFILE, ""),
        ):
            with world.reverts("OwnableUnauthorizedAccount"):
                world.send(owner, call)


class TestConstruction:
    @pytest.mark.parametrize("field", ["newSharePpm", "establishedSharePpm"])
    def test_reverts_when_a_share_is_more_than_all(self, world: World, field: str) -> None:
        parameters = tuple((world.deployment["parameters"]["Registry"] | {field: 1_000_001}).values())
        parts = (world.at["Staking"], world.at["Escrow"], world.at["Timelock"])
        with world.reverts("RegistryShareTooLarge", 1_000_001):
            world.create_named("Registry", *parts, parameters)

    def test_reverts_when_stakers_could_not_leave_before_a_calibration(self, world: World) -> None:
        parameters = tuple((world.deployment["parameters"]["Registry"] | {"calibrationDelay": 21 * DAY}).values())
        parts = (world.at["Staking"], world.at["Escrow"], world.at["Timelock"])
        with world.reverts("RegistryDelayTooShort", 21 * DAY, 21 * DAY):
            world.create_named("Registry", *parts, parameters)

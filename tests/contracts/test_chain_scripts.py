"""Third parties' scripts: audit points and the asset's conservation from chain data alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from chain_logs import Logs
from check_supply import check
from compile_contracts import Artifact
from recompute_audit_points import recompute
from retally.protocol.audit_points import drawn_points
from retally.protocol.case import unpack_ranges
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak, to_hex
from tests.contracts.world import DAY, DOLLAR, VERIFIER, World


def write_deployment(world: World, folder: Path, **contracts: str) -> Path:
    """The deployment file that scripts read."""
    path = folder / "deployment.json"
    content = {**world.deployment, "contracts": {**world.deployment["contracts"], **contracts}}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def busy_world(world: World) -> tuple[World, SigningKey, SigningKey]:
    """A world in which all kinds of money have moved."""
    payer, owner, verifier = world.payer(), world.operator(), world.party()
    node = world.node(owner)
    world.send(verifier, world.staking.functions.stake(VERIFIER, 2_000 * DOLLAR))
    world.send(payer, world.escrow.functions.thaw(5 * DOLLAR))
    world.send(node, world.reserve_call(payer, node, 7 * DOLLAR))
    world.collect(node, world.item(payer, node, 30_000), sender=owner)
    world.collect(node, world.item(payer, node, 75_000), sender=owner)
    world.send(owner, world.escrow.functions.withdrawCredit())
    world.jump(3 * DAY + 1)
    world.send(payer, world.escrow.functions.withdraw())
    return world, payer, node


class TestRecomputeAuditPoints:
    def test_agrees_with_contract_and_services(
        self, busy_world: tuple[World, SigningKey, SigningKey], tmp_path: Path
    ) -> None:
        world, payer, node = busy_world
        collection = world.collect(node, world.item(payer, node, 100_000))
        args = collection.commit
        world.mine(6)
        audits = world.contract("Audits", world.at["Audits"])
        names = ("commitId", "node", "owner", "receiptsRoot", "step", "sharePpm", "seedBlock", "time")
        commit_id, node_address, owner, root, step, share, block, time = (args[name] for name in names)
        commit = (commit_id, node_address, owner, root, keccak(args["ranges"]), step, share, block, time)
        world.send(payer, audits.functions.fixSeed(commit))
        (found,) = recompute(Logs(world.url, write_deployment(world, tmp_path)), commit_id)
        seed = audits.functions.seedOf(commit_id).call()
        assert found["seed"] == to_hex(seed)
        assert found["seedMatchesBlock"] is True
        drawn = drawn_points(seed, unpack_ranges(args["ranges"]), node.address, step)
        assert drawn
        assert [(p["rangeIndex"], p["k"], p["point"], p["channel"]) for p in found["points"]] == [
            (p.range_index, p.k, str(p.point), to_hex(p.channel)) for p in drawn
        ]
        assert audits.functions.countDrawn(commit, args["ranges"]).call() == len(drawn)

    def test_shows_commits_without_a_seed(
        self, busy_world: tuple[World, SigningKey, SigningKey], tmp_path: Path
    ) -> None:
        world, _, _ = busy_world
        commits = recompute(Logs(world.url, write_deployment(world, tmp_path)), None)
        assert len(commits) == 2
        assert all(commit["seed"] is None and not commit["points"] for commit in commits)


class TestCheckSupply:
    def test_is_conserved_while_money_moves(
        self, busy_world: tuple[World, SigningKey, SigningKey], tmp_path: Path
    ) -> None:
        world, _, _ = busy_world
        result = check(Logs(world.url, write_deployment(world, tmp_path)))
        assert result["supply_conserved"], result

    def test_sees_a_leak(self, world: World, test_contracts: Mapping[str, Artifact], tmp_path: Path) -> None:
        parts = (world.at[name] for name in ("Asset", "Timelock", "Timelock", "Staking", "Registry", "Randomness"))
        leaky = world.create_test(test_contracts["LeakyEscrow"], *parts, (3 * DAY, 7 * DAY, 21 * DAY, 4))
        payer = world.party()
        world.send(payer, world.asset.functions.approve(leaky.address, DOLLAR))
        world.send(payer, leaky.functions.deposit(payer.address, DOLLAR))
        deployment = write_deployment(world, tmp_path, Escrow=leaky.address)
        assert check(Logs(world.url, deployment))["supply_conserved"]
        world.send(payer, leaky.functions.leak(payer.address, 1))
        result = check(Logs(world.url, deployment))
        assert not result["supply_conserved"]
        assert int(result["owed"]["Escrow"]) == int(result["held"]["Escrow"]) + 1

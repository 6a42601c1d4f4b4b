"""`retally node …` against a real chain: from nothing to a staked, registered node and out again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import RunningAnvil
from typer.testing import CliRunner

from retally.chain.connection import Chain
from retally.chain.deployment import Deployment
from retally.chain.transactions import TxSender
from retally.cli.main import app
from retally.devnet.catalogue import CALIBRATIONS, devnet_market, profile_files
from retally.errors import BadRequest
from retally.keystore import Keystore
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak
from retally_node.collector import check_authorised
from retally_node.engine_process import vllm_command
from retally_node.engine_start import check_endpoint
from retally_node.settings import NodeSettings

OWNER = SigningKey(keccak(b"node commands owner"))
RUSD = 10**6


class Shell:
    """Runs commands as the owner would."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self.rpc_url = environment["RETALLY_RPC_URL"]
        self.deployment = Path(environment["RETALLY_DEPLOYMENT"])

    def __call__(self, *words: str, code: int = 0) -> dict[str, Any]:
        result = CliRunner().invoke(app, [*words, "--json"], env=self._environment)
        assert result.exit_code == code, result.output
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer


@pytest.fixture
def shell(anvil: RunningAnvil, chain_deployment: Path, tmp_path: Path) -> Shell:
    async def fund() -> None:
        async with Chain(anvil.url, Deployment.load(chain_deployment)) as chain:
            await chain.rpc.request("anvil_setBalance", OWNER.address, hex(10**19))
            await TxSender(chain, OWNER).send(chain.asset.call("faucet", OWNER.address, 3_000 * RUSD))

    asyncio.run(fund())
    return Shell(
        {
            "RETALLY_HOME": str(tmp_path / "home"),
            "RETALLY_RPC_URL": anvil.url,
            "RETALLY_DEPLOYMENT": str(chain_deployment),
            "RETALLY_KEY": OWNER.secret.hex(),
        }
    )


def test_a_node_comes_and_goes(shell: Shell, tmp_path: Path, model_dir: Path) -> None:
    made = shell("node", "init", str(tmp_path / "node"), "--model-dir", str(model_dir))
    config = made["config"]
    before = shell("node", "status", "--config", config)
    assert (before["registered"], before["serving"]) == (False, False)

    staked = shell("node", "stake", "--config", config, "--amount", "1500", "--endpoint", "http://127.0.0.1:8100")
    assert (staked["entry"], staked["bonded"]) == ("registered", str(1_500 * RUSD))
    assert shell("node", "stake", "--config", config, "--endpoint", "http://127.0.0.1:8100")["entry"] == "unchanged"
    assert shell("node", "stake", "--config", config, "--endpoint", "http://127.0.0.1:8200")["entry"] == "updated"
    after = shell("node", "status", "--config", config)
    assert (after["registered"], after["endpoint"], after["owner"]) == (True, "http://127.0.0.1:8200", OWNER.address)
    assert (after["collector"], after["authorised"]) == (made["node"], True)

    earned = shell("node", "earnings", "--config", config)
    assert (earned["owner"], earned["credit"]) == (OWNER.address, "0")
    thawing = shell("node", "unstake", "500", "--config", config)
    assert (thawing["action"], thawing["thawing"]) == ("thawing", str(500 * RUSD))
    assert shell("node", "unstake", "--config", config, code=1)["error"]["contractError"].startswith("Staking")
    assert shell("node", "unstake", "--cancel", "--config", config)["thawing"] == "0"


def test_a_node_for_embeddings_is_set_up_as_one(shell: Shell, tmp_path: Path, model_dir: Path) -> None:
    init = ("node", "init", str(tmp_path / "node"), "--model-dir", str(model_dir), "--serves", "embeddings")
    assert "input alone" in shell(*init, "--price-out", "1", code=2)["error"]["message"]
    completions, embeddings = map(str, profile_files())
    assert "for completions" in shell(*init, "--profile-file", completions, code=2)["error"]["message"]
    made = shell(*init)
    assert made["serves"] == "embeddings"
    settings = NodeSettings.load(Path(made["config"]))
    assert (settings.embeds, settings.price_out, str(settings.profile_file)) == (True, 0, embeddings)
    check_endpoint(settings)
    assert "--runner" in vllm_command(model_dir, made["model"], 8000, settings.max_context, embeds=settings.embeds)

    shell("node", "stake", "--config", made["config"], "--amount", "1500")
    profile_id = devnet_market(model_dir).embeddings_profile_id

    async def registered() -> tuple[bytes, int]:
        async with Chain(shell.rpc_url, Deployment.load(shell.deployment)) as chain:
            entry = await chain.registry.node(made["node"])
            return entry.profile_id, await chain.juror_pools.pool_of(entry.model_id, entry.profile_id)

    # It could judge nothing, so it stands for no jury.
    assert asyncio.run(registered()) == (profile_id, 0)


def enlisted(shell: Shell, node: str) -> bool:
    """Whether the node's owner may be drawn for juries."""

    async def look() -> bool:
        async with Chain(shell.rpc_url, Deployment.load(shell.deployment)) as chain:
            entry = await chain.registry.node(node)
            pool = await chain.juror_pools.pool_of(entry.model_id, entry.profile_id)
            return bool(pool) and (await chain.juror_pools.entry_of(pool, OWNER.address)).weight > 0

    return asyncio.run(look())


def test_only_who_can_judge_stands_for_jury_duty(shell: Shell, tmp_path: Path, model_dir: Path) -> None:
    """Who is drawn and does not vote, or votes inconclusive, pays for it (R-65)."""
    made = shell("node", "init", str(tmp_path / "node"), "--model-dir", str(model_dir))
    config, written = Path(made["config"]), Path(made["config"]).read_text()
    stake = ("node", "stake", "--config", str(config))
    assert shell(*stake, "--amount", "1500")["noJuror"] is None
    assert enlisted(shell, made["node"])
    config.write_text(written.replace("jury = true", "jury = false"))
    assert shell(*stake)["noJuror"] == "jury is false in its settings"
    assert not enlisted(shell, made["node"])
    config.write_text(written)
    assert shell(*stake)["noJuror"] is None
    assert enlisted(shell, made["node"])
    (tmp_path / "empty").mkdir()
    config.write_text(written.replace(str(CALIBRATIONS), str(tmp_path / "empty")))
    assert "no calibration" in shell(*stake)["noJuror"]
    assert not enlisted(shell, made["node"])


def test_where_routers_find_the_node_is_written_and_registered(shell: Shell, tmp_path: Path, model_dir: Path) -> None:
    init = ("node", "init", str(tmp_path / "node"), "--model-dir", str(model_dir))
    made = shell(*init, "--public-url", "https://node.example.org", "--calibration-dir", str(tmp_path))
    settings = NodeSettings.load(Path(made["config"]))
    assert (settings.public_url, settings.calibration_dir) == ("https://node.example.org", tmp_path)
    staked = shell("node", "stake", "--config", made["config"], "--amount", "1500")
    assert staked["endpoint"] == "https://node.example.org"


def test_a_verifier_and_a_router_bond_with_their_own_key(shell: Shell) -> None:
    first = shell("bond", "verifier", "600")
    assert (first["owner"], first["bonded"], first["role"]) == (OWNER.address, str(600 * RUSD), "verifier")
    assert int(first["least"]) == 1_000 * RUSD
    assert shell("bond", "verifier", "400")["bonded"] == str(1_000 * RUSD)
    assert shell("bond", "router", "1000")["bonded"] == str(1_000 * RUSD)
    assert shell("bond", "router", "1000000", code=4)["error"]["code"] == "insufficient_funds"
    thawing = shell("unbond", "verifier", "400")
    assert (thawing["action"], thawing["thawing"]) == ("thawing", str(400 * RUSD))
    assert shell("unbond", "verifier", code=1)["error"]["contractError"].startswith("Staking")
    assert shell("unbond", "verifier", "--cancel")["thawing"] == "0"
    router = shell("unbond", "router", "1")
    assert (router["bonded"], router["thawing"]) == (str(999 * RUSD), str(RUSD))


def test_too_little_money_is_exit_code_4(shell: Shell, tmp_path: Path, model_dir: Path) -> None:
    config = shell("node", "init", str(tmp_path / "node"), "--model-dir", str(model_dir))["config"]
    answer = shell("node", "stake", "--config", config, "--amount", "1000000", code=4)
    assert answer["error"]["code"] == "insufficient_funds"


def test_the_key_that_collects_is_named_by_the_owner(shell: Shell, tmp_path: Path, model_dir: Path) -> None:
    config = shell("node", "init", str(tmp_path / "node"), "--model-dir", str(model_dir))["config"]
    other = SigningKey(keccak(b"node commands collector")).address
    stake = ("node", "stake", "--config", config, "--endpoint", "http://127.0.0.1:8100")
    assert shell(*stake, "--amount", "1500", "--collector", "none")["collector"] is None
    assert shell("node", "status", "--config", config)["authorised"] is False
    assert shell(*stake)["collector"] == shell("node", "status", "--config", config)["node"]
    assert shell("node", "status", "--config", config)["authorised"] is True
    # Whoever else is named acts instead of the node's key.
    assert shell(*stake, "--collector", other)["collector"] == other
    assert shell("node", "status", "--config", config)["authorised"] is False


def test_a_collector_of_its_own_is_read_from_the_settings(shell: Shell, tmp_path: Path, model_dir: Path) -> None:
    config = Path(shell("node", "init", str(tmp_path / "node"), "--model-dir", str(model_dir))["config"])
    collector = SigningKey(keccak(b"node commands second collector"))
    stored = Keystore(tmp_path / "keys").add(collector, "word")
    (tmp_path / "word").write_text("word\n")
    lines = f'collector_key_file = "{stored.path}"\ncollector_key_password_file = "{tmp_path / "word"}"\n'
    config.write_text(lines + config.read_text())
    staked = shell("node", "stake", "--config", str(config), "--amount", "1500")
    assert staked["collector"] == collector.address
    after = shell("node", "status", "--config", str(config))
    assert (after["collector"], after["authorised"]) == (collector.address, True)


def test_the_key_that_appeals_is_given_the_money_for_it(shell: Shell, tmp_path: Path, model_dir: Path) -> None:
    config = shell("node", "init", str(tmp_path / "node"), "--model-dir", str(model_dir))["config"]
    stake = ("node", "stake", "--config", config, "--endpoint", "http://127.0.0.1:8100", "--amount", "1500")
    refused = shell(*stake, "--collector", "none", "--appeals", "110", code=2)
    assert "nobody is named who could appeal" in refused["error"]["message"]
    # Nothing was sent: the node is registered by the next one.
    assert shell(*stake, "--appeals", "110")["entry"] == "registered"
    assert shell(*stake[:-2], "--appeals", "1000000000", code=4)["error"]["code"] == "insufficient_funds"
    after = shell("node", "status", "--config", config)
    assert after["appealFunds"] == str(110 * RUSD)
    assert int(after["appealCost"]) > 100 * RUSD


async def test_nobody_serves_whose_key_could_not_answer(
    anvil: RunningAnvil, chain_deployment: Path, shell: Shell
) -> None:
    async with Chain(anvil.url, Deployment.load(chain_deployment)) as chain:
        stranger = SigningKey(keccak(b"node commands stranger")).address
        await check_authorised(chain, OWNER.address, OWNER.address)
        with pytest.raises(BadRequest, match="not authorised to collect"):
            await check_authorised(chain, OWNER.address, stranger)

"""`deploy` wires all contracts, and its command writes the deployment file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from eth_account import Account
from typer.testing import CliRunner

import deploy as deploy_script
from retally.chain.deploy import artifact
from retally.chain.deployment import Deployment
from retally.chain.parameters import default_parameters, devnet_parameters
from tests.contracts.world import MODEL, PROFILE, World

app = typer.Typer()
app.command()(deploy_script.main)


class TestDeploy:
    def test_wires_every_contract(self, world: World) -> None:
        functions = world.escrow.functions
        assert functions.asset().call() == world.at["Asset"]
        assert functions.domainSeparator().call() == world.domain.separator
        assert world.registry.functions.owner().call() == world.at["Timelock"]
        assert world.staking.functions.owner().call() == world.at["Timelock"]
        assert world.staking.functions.asset().call() == world.at["Asset"]
        assert world.registry.functions.isProfile(PROFILE).call()
        assert world.registry.functions.modelUnit(MODEL).call() == 200

    def test_says_what_the_contracts_say(self, world: World) -> None:
        parameters = world.deployment["parameters"]
        for contract, name in ((world.escrow, "Escrow"), (world.staking, "Staking"), (world.registry, "Registry")):
            assert tuple(contract.functions.parameters().call()) == tuple(parameters[name].values())
        assert world.timelock.functions.getMinDelay().call() == parameters["Timelock"]["minDelay"]

    def test_deploys_the_bytes_of_the_artifacts(self, world: World) -> None:
        for name, stem in (("Asset", "DevAsset"), ("Escrow", "Escrow"), ("Court", "Court")):
            assert world.web3.eth.get_code(world.web3.to_checksum_address(world.at[name]))
            assert len(artifact(stem)["bytecode"]) > 100

    def test_keeps_real_time_windows_on_the_devnet(self) -> None:
        real, devnet = default_parameters(), devnet_parameters()
        assert real["Escrow"] == devnet["Escrow"]
        assert real["Staking"] == devnet["Staking"]
        assert real["Timelock"]["minDelay"] == 7 * 86_400


class TestCommand:
    def test_writes_a_file_that_loads(self, contract_chain_url: str, world: World, tmp_path: Path) -> None:
        output, catalogue = tmp_path / "31337.json", tmp_path / "catalogue.json"
        entry = {"model_id": "0x" + MODEL.hex(), "unit": 3, "name": "tiny", "uri": ""}
        catalogue.write_text(json.dumps({"models": [entry]}))
        arguments = ["--rpc", contract_chain_url, "--output", str(output), "--catalogue", str(catalogue)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        deployment = Deployment.load(output)
        assert deployment.chain_id == 31337
        assert deployment.models[0]["unit"] == "3"
        assert deployment.address("Escrow") != world.at["Escrow"]

    def test_refuses_real_chains_without_keystore_or_asset(
        self, contract_chain_url: str, world: World, tmp_path: Path
    ) -> None:
        world.rpc("anvil_setChainId", 77)
        try:
            result = CliRunner().invoke(app, ["--rpc", contract_chain_url])
            assert result.exit_code == 2
            assert "--keystore" in result.output
            keystore, password = tmp_path / "key.json", tmp_path / "password"
            account = Account.create()
            keystore.write_text(json.dumps(Account.encrypt(account.key, "secret", iterations=2)))
            password.write_text("secret\n")
            unlock = ["--rpc", contract_chain_url, "--keystore", str(keystore), "--password-file", str(password)]
            result = CliRunner().invoke(app, unlock)
            assert result.exit_code == 2
            assert "--asset" in result.output
            result = CliRunner().invoke(app, [*unlock, "--asset", world.at["Asset"]], input="n\n")
            assert result.exit_code == 1
            world.rpc("anvil_setBalance", account.address, hex(10**20))
            output = tmp_path / "77.json"
            everything = [*unlock, "--asset", world.at["Asset"], "--yes", "--output", str(output)]
            result = CliRunner().invoke(app, everything)
            assert result.exit_code == 0, result.output
            assert Deployment.load(output).address("Asset") == world.at["Asset"]
            password.write_text("wrong")
            assert CliRunner().invoke(app, everything).exit_code == 2
        finally:
            world.rpc("anvil_setChainId", 31337)

    @pytest.mark.parametrize("url", ["http://127.0.0.1:9"])
    def test_says_when_no_chain_answers(self, url: str) -> None:
        result = CliRunner().invoke(app, ["--rpc", url])
        assert result.exit_code == 5
        assert "no chain answers" in result.output

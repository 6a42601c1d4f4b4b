"""`deploy` wires all contracts, and its command writes the deployment file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from eth_account import Account
from typer.testing import CliRunner

import deploy as deploy_script
from retally.chain.deploy import ANVIL_KEY, artifact, deploy
from retally.chain.deployment import Deployment
from retally.chain.parameters import (
    DelaysDoNotFit,
    check_delays,
    default_parameters,
    devnet_parameters,
    longest_case_seconds,
    scale_delays,
)
from tests.contracts.world import DAY, MODEL, PROFILE, World

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
        assert world.deployment["guardian"] == world.staking.functions.guardian().call()
        assert world.timelock.functions.getMinDelay().call() == parameters["Timelock"]["minDelay"]

    def test_deploys_the_bytes_of_the_artifacts(self, world: World) -> None:
        for name, stem in (("Asset", "DevAsset"), ("Escrow", "Escrow"), ("Court", "Court")):
            assert world.web3.eth.get_code(world.web3.to_checksum_address(world.at[name]))
            assert len(artifact(stem)["bytecode"]) > 100

    def test_keeps_real_delays_on_the_devnet_unless_told_otherwise(self) -> None:
        real, devnet = default_parameters(), devnet_parameters()
        for name in ("Timelock", "Staking", "Registry", "Escrow", "Faults", "Silence"):
            assert real[name] == devnet[name]
        # Nobody waits to grow old there.
        assert {**real["Audits"], "ageSeconds": 0} == devnet["Audits"]


class TestDelays:
    def test_of_a_real_chain_are_the_designs(self) -> None:
        real = default_parameters()
        shown = {
            "payer thaw": real["Escrow"]["thawPeriod"],
            "evidence": real["Silence"]["windowSeconds"],
            "timelock": real["Timelock"]["minDelay"],
            "stake thaw": real["Staking"]["thawPeriod"],
            "slashers": real["Staking"]["slasherDelay"],
            "calibrations": real["Registry"]["calibrationDelay"],
        }
        days = {"payer thaw": 3, "evidence": 7, "timelock": 7, "stake thaw": 21, "slashers": 28, "calibrations": 28}
        assert shown == {name: count * DAY for name, count in days.items()}
        assert longest_case_seconds(real["Court"]) <= 8 * DAY

    @pytest.mark.parametrize("factor", [1, 24, 1000])
    def test_fit_together_at_any_scale(self, factor: int) -> None:
        scaled = devnet_parameters(factor)
        check_delays(scaled)
        assert scaled["Staking"]["thawPeriod"] == 21 * DAY // factor
        assert scaled["Staking"]["mismatchPpm"] == default_parameters()["Staking"]["mismatchPpm"]

    def test_that_are_longer_than_an_hour_are_scaled_all(self) -> None:
        real, scaled = default_parameters(), scale_delays(default_parameters(), 60)
        untouched = {
            field
            for name, values in real.items()
            for field, value in values.items()
            if value == scaled[name][field] and field.endswith(("Seconds", "Period", "Delay", "Window"))
        }
        # A number of blocks.
        assert untouched == {"seedDelay"}

    @pytest.mark.parametrize(
        ("contract", "field", "value"),
        [
            ("Escrow", "thawPeriod", 7 * DAY),
            ("Timelock", "minDelay", 3 * DAY),
            ("Timelock", "minDelay", 21 * DAY),
            ("Staking", "slasherDelay", 21 * DAY),
            ("Registry", "calibrationDelay", 27 * DAY),
            ("Silence", "windowSeconds", 14 * DAY),
        ],
    )
    def test_that_do_not_fit_are_not_deployed(
        self, contract_chain_url: str, contract: str, field: str, value: int
    ) -> None:
        parameters = default_parameters()
        parameters[contract][field] = value
        with pytest.raises(DelaysDoNotFit):
            deploy(contract_chain_url, ANVIL_KEY, parameters)

    def test_of_a_scaled_devnet_are_taken_by_every_contract(self, contract_chain_url: str, world: World) -> None:
        deployed = deploy(contract_chain_url, ANVIL_KEY, devnet_parameters(1000))
        staking = world.contract("Staking", deployed["contracts"]["Staking"])
        assert staking.functions.parameters().call()[3] == 21 * DAY // 1000


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

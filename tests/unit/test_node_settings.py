"""Settings, keys and the folder of a new node."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from eth_account import Account
from pydantic import ValidationError
from tests.fakes import FakeEngine
from tests.fakes_node import NODE_KEY, node_settings

from retally.cli.session import DEVNET_CHAIN
from retally.devnet.catalogue import CALIBRATIONS
from retally.devnet.tools import devnet_model_dir
from retally.errors import RetallyError
from retally.inference.model_files import ModelFiles
from retally.keystore import service_key
from retally.protocol.eip712 import SigningKey, keccak
from retally_node.commands import _endpoint, _warnings
from retally_node.engine_start import check_abilities
from retally_node.jury_duty import warn_if_blind, why_no_juror
from retally_node.new_node import NewNode, make_node
from retally_node.settings import NodeSettings

EXAMPLES = Path(__file__).parents[2] / "node" / "examples"
OTHER = SigningKey(keccak(b"another collector")).address
EXACT_PROFILE = CALIBRATIONS.parent / "profiles" / "vllm-cuda-bfloat16-exact.json"


class TestExamples:
    def test_minimal_leaves_everything_else_to_defaults(self) -> None:
        settings = NodeSettings.load(EXAMPLES / "minimal.toml")
        assert settings.data_dir == EXAMPLES / "data"
        assert settings.chunk_tokens == 16

    def test_complete_names_every_setting(self) -> None:
        text = (EXAMPLES / "complete.toml").read_text()
        assert {name for name in NodeSettings.model_fields if f"\n{name} = " not in text} == {"key"}
        NodeSettings.load(EXAMPLES / "complete.toml")


class TestSettings:
    def test_environment_wins_over_the_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RETALLY_NODE_PORT", "9999")
        assert NodeSettings.load(EXAMPLES / "minimal.toml").port == 9999

    @pytest.mark.parametrize(
        "changes",
        [
            {"price_cached": 3_000_000},
            {"appeal_budget_epoch": 749_999_999},
            {"key": None},
            {"port": 70_000},
            {"unknown": 1},
            {"credit_total": -1},
            {"collector_key_file": Path("k")},
        ],
    )
    def test_refuses_what_makes_no_sense(self, tmp_path: Path, changes: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            node_settings(tmp_path, **changes)

    def test_secrets_do_not_show(self, tmp_path: Path) -> None:
        shown = repr(node_settings(tmp_path))
        assert NODE_KEY.secret.hex() not in shown
        assert "'secret'" not in shown


class TestKeys:
    def test_raw_keys_are_for_the_development_chain(self, tmp_path: Path) -> None:
        settings = node_settings(tmp_path)
        assert service_key(settings, 31337).address == NODE_KEY.address
        with pytest.raises(RetallyError, match="31337 only"):
            service_key(settings, 1)

    def test_new_node_opens_its_own_key(self, tmp_path: Path) -> None:
        new = NewNode(
            folder=tmp_path / "node",
            rpc_url="http://127.0.0.1:8545",
            deployment=tmp_path / "deployment.json",
            model_dir=tmp_path,
            max_context=1024,
            price_in=2,
            price_cached=1,
            price_out=6,
            engine_url=None,
            port=8100,
        )
        config, address = make_node(new)
        settings = NodeSettings.load(config)
        assert settings.start_engine
        assert service_key(settings, 1).address == address
        assert config.stat().st_mode & 0o077 == 0
        with pytest.raises(RetallyError, match="exists already"):
            make_node(new)

    def test_a_new_node_says_in_its_file_what_it_lacks(self, tmp_path: Path) -> None:
        new = NewNode(tmp_path / "node", "http://127.0.0.1:8545", tmp_path / "d.json", tmp_path, 1024, 2, 1, 6, None, 1)
        config, _ = make_node(new)
        text = config.read_text()
        assert '# public_url = "https://node.example.org"' in text
        assert '# calibration_dir = "calibrations"' in text
        settings = NodeSettings.load(config)
        assert (settings.public_url, settings.calibration_dir, settings.jury) == (None, None, True)

    def test_wrong_password_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "password").write_text("wrong")
        key_file = tmp_path / "key.json"
        key_file.write_text(json.dumps(Account.encrypt(SigningKey.generate().secret, "right", iterations=2)))
        settings = node_settings(tmp_path, key=None, key_file=key_file, key_password_file=tmp_path / "password")
        with pytest.raises(RetallyError, match="wrong password"):
            service_key(settings, 1)


class TestJuryDuty:
    """Who can't judge stands for no jury, and hears why."""

    MODEL = ModelFiles.load(devnet_model_dir()).model_id

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"calibration_dir": CALIBRATIONS}, None),
            ({"calibration_dir": CALIBRATIONS, "jury": False}, "jury is false"),
            ({}, "calibration_dir is not set"),
            ({"calibration_dir": EXAMPLES}, "holds no calibration"),
            ({"profile_file": EXACT_PROFILE}, None),
            ({"serves": "embeddings", "price_out": 0, "profile_file": EXACT_PROFILE}, "makes vectors"),
        ],
    )
    def test_says_why(self, tmp_path: Path, changes: dict[str, object], why: str | None) -> None:
        found = why_no_juror(node_settings(tmp_path, **changes), self.MODEL)
        assert (found is None) == (why is None)
        assert why is None or why in str(found)

    def test_a_calibration_of_another_model_is_none(self, tmp_path: Path) -> None:
        assert why_no_juror(node_settings(tmp_path, calibration_dir=CALIBRATIONS), keccak(b"another")) is not None

    def test_what_is_no_calibration_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text("{")
        with pytest.raises(RetallyError, match=r"a\.json is no calibration"):
            why_no_juror(node_settings(tmp_path, calibration_dir=tmp_path), self.MODEL)

    @pytest.mark.parametrize(("changes", "is_warned"), [({}, True), ({"calibration_dir": CALIBRATIONS}, False)])
    def test_a_blind_node_says_so_at_start(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, object], is_warned: bool
    ) -> None:
        warn_if_blind(node_settings(tmp_path, **changes), self.MODEL)
        assert ("votes inconclusive" in caplog.text) == is_warned


class TestEndpoint:
    """What goes on chain as the node's address must mean something elsewhere."""

    def test_only_a_devnets_may_be_this_machines(self, tmp_path: Path) -> None:
        settings = node_settings(tmp_path)
        assert _endpoint(None, settings, DEVNET_CHAIN).startswith("http://127.0.0.1:")
        with pytest.raises(RetallyError, match="routers elsewhere can't reach"):
            _endpoint(None, settings, 1)
        assert _endpoint("https://n", settings, 1) == "https://n"
        assert _endpoint(None, node_settings(tmp_path, public_url="https://p"), 1) == "https://p"
        assert _endpoint(None, node_settings(tmp_path, host="10.0.0.1"), 1).startswith("http://10.0.0.1:")


class TestWarnings:
    """What an owner hears of how its node stands, once it staked."""

    @pytest.mark.parametrize(
        ("collector", "acting", "lack", "said"),
        [
            (None, NODE_KEY.address, None, ["own key may now collect"]),
            (OTHER, OTHER, None, ["the node will not start"]),
            ("none", None, None, ["the node will not start"]),
            (NODE_KEY.address, NODE_KEY.address, None, ["own key may now collect"]),
            (None, OTHER, "jury is false", ["jury duty: jury is false"]),
            (None, OTHER, None, []),
        ],
    )
    def test_are_for_what_may_go_wrong(
        self, tmp_path: Path, collector: str | None, acting: str | None, lack: str | None, said: list[str]
    ) -> None:
        deployment = tmp_path / "deployment.json"
        deployment.write_text(json.dumps({"chainId": DEVNET_CHAIN, "contracts": {}}))
        settings = node_settings(tmp_path, deployment=deployment)
        data = {"node": NODE_KEY.address, "collector": acting, "noJuror": lack}
        found = list(_warnings(data, settings, collector))
        assert len(found) == len(said)
        assert all(part in each for part, each in zip(said, found, strict=True))


class TestEngineAbilities:
    async def test_names_what_is_missing(self) -> None:
        info = await FakeEngine().check()
        check_abilities(info)
        with pytest.raises(RetallyError, match="sampler plugin"):
            check_abilities(replace(info, has_sampler=False))
        with pytest.raises(RetallyError, match="64 prompt logprobs"):
            check_abilities(replace(info, has_prompt_logprobs=False))

"""Settings and what the router may import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from retally.errors import BadRequest
from retally.keystore import service_key
from retally_router.settings import RouterSettings

EXAMPLES = Path(__file__).parents[2] / "router" / "examples"
REQUIRED = {"rpc_url": "http://127.0.0.1:1", "deployment": Path("d.json")}


class TestExamples:
    @pytest.mark.parametrize("name", ["minimal", "complete"])
    def test_loads_with_paths_beside_the_file(self, name: str) -> None:
        settings = RouterSettings.load(EXAMPLES / f"{name}.toml")
        assert settings.key_file == EXAMPLES / "router-key.json"

    def test_complete_names_every_setting_at_its_default(self) -> None:
        minimal, complete = (RouterSettings.load(EXAMPLES / f"{name}.toml") for name in ("minimal", "complete"))
        assert minimal.model_dump() == complete.model_dump()
        assert complete.model_fields_set >= RouterSettings.model_fields.keys() - {"key"}

    def test_environment_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RETALLY_ROUTER_PORT", "9999")
        assert RouterSettings.load(EXAMPLES / "complete.toml").port == 9999


class TestKey:
    @pytest.mark.parametrize("keys", [{}, {"key": "0x" + "11" * 32, "key_file": Path("k")}, {"key_file": Path("k")}])
    def test_exactly_one_and_with_its_password(self, keys: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            RouterSettings(**REQUIRED, **keys)  # type: ignore[arg-type]  # wrong on purpose

    def test_raw_key_is_for_the_development_chain(self) -> None:
        settings = RouterSettings(**REQUIRED, key="0x" + "11" * 32)  # type: ignore[arg-type]  # parsed to a secret
        assert service_key(settings, 31337).address
        with pytest.raises(BadRequest):
            service_key(settings, 1)

    def test_unknown_setting_is_refused(self) -> None:
        with pytest.raises(ValidationError):
            RouterSettings(**REQUIRED, key="0x11", colour="blue")  # type: ignore[arg-type, call-arg]  # wrong on purpose


class TestImports:
    def test_hot_path_knows_no_web3_openai_or_engine(self) -> None:
        code = (
            "import sys, retally_router.hot_path\n"
            "print(sorted({'web3', 'openai', 'torch', 'vllm', 'retally.inference'} & sys.modules.keys()))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.strip() == "[]"

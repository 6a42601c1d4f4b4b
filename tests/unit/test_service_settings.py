"""What the settings of all services have in common: where they come from, and how they are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from retally.errors import BadRequest
from retally.service_settings import ServiceSettings

GOOD = 'rpc_url = "http://127.0.0.1:8545"\ndeployment = "deployment.json"\n'
SECRET = "0x" + "11" * 32


def written(folder: Path, text: str) -> Path:
    path = folder / "service.toml"
    path.write_text(text)
    return path


class TestLoad:
    def test_paths_lie_beside_the_file(self, tmp_path: Path) -> None:
        settings = ServiceSettings.load(written(tmp_path, GOOD + 'key_file = "k.json"\nkey_password_file = "/p"\n'))
        assert settings.deployment == tmp_path / "deployment.json"
        assert settings.key_file == tmp_path / "k.json"
        assert settings.key_password_file == Path("/p")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("x = [", "no TOML"),
            (GOOD, "exactly one of key_file and key"),
            (GOOD + 'key_file = "k.json"\n', "needs key_password_file"),
            (GOOD + f'key = "{SECRET}"\ncolour = 1\n', "colour: Extra inputs"),
            (f'key = "{SECRET}"\nrpc_url = 3\n', "rpc_url: .*; deployment: Field required"),
            (GOOD + f'key = "{SECRET}"\npoll_seconds = 0\n', "poll_seconds: Input should be greater than 0"),
        ],
    )
    def test_names_every_fault_and_no_secret(self, tmp_path: Path, text: str, said: str) -> None:
        with pytest.raises(BadRequest, match=said) as caught:
            ServiceSettings.load(written(tmp_path, text))
        assert SECRET not in str(caught.value)

    def test_a_missing_file_is_no_empty_one(self, tmp_path: Path) -> None:
        with pytest.raises(BadRequest, match="no settings file"):
            ServiceSettings.load(tmp_path / "none.toml")


@pytest.mark.parametrize("service", ["retally_node", "retally_router", "retally_verifier"])
def test_a_service_says_what_is_wrong_and_ends(tmp_path: Path, service: str) -> None:
    path = written(tmp_path, f'key = "{SECRET}"\ncolour = 1\n')
    command = [sys.executable, "-m", service, "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "rpc_url: Field required" in done.stderr
    assert "colour: Extra inputs are not permitted" in done.stderr
    assert SECRET not in done.stderr

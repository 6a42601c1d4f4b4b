"""Settings and what the router may import."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from pydantic import ValidationError

from retally.errors import BadRequest
from retally.keystore import Keystore, service_key
from retally.protocol.eip712 import SigningKey
from retally_router.settings import RouterSettings
from retally_router.start import checked

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


class TestStart:
    @pytest.mark.parametrize("url", ["memcached://127.0.0.1", "127.0.0.1:6379", "redis://", ""])
    def test_a_store_of_another_kind_is_refused(self, url: str) -> None:
        with pytest.raises(ValidationError, match="redis_url"):
            RouterSettings(**REQUIRED, key="0x" + "11" * 32, redis_url=url)  # type: ignore[arg-type]  # parsed

    def test_a_worker_that_nobody_started_says_how(self) -> None:
        command = [sys.executable, "-m", "retally_router.worker"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1
        assert "retally router serve" in done.stderr
        assert "Traceback" not in done.stderr


class TestImports:
    def test_hot_path_knows_no_web3_openai_or_engine(self) -> None:
        code = (
            "import sys, retally_router.hot_path\n"
            "print(sorted({'web3', 'openai', 'torch', 'vllm', 'retally.inference'} & sys.modules.keys()))"
        )
        assert run_code(code) == "[]"

    def test_worker_of_the_native_server_has_no_large_library_it_can_do_without(self) -> None:
        code = (
            "import sys, retally_router.worker, retally_router.serve\n"
            "heavy = {'web3', 'eth_abi', 'eth_account', 'eth_keyfile', 'aiohttp', 'httpx', 'redis'}\n"
            "heavy |= {'fastapi', 'opentelemetry', 'pydantic', 'uvicorn', 'typer', 'numpy', 'openai'}\n"
            "print(sorted(heavy & sys.modules.keys()))"
        )
        assert run_code(code) == "[]"


class TestHandOver:
    def test_worker_knows_every_setting_but_where_the_key_was(self) -> None:
        settings = RouterSettings.load(EXAMPLES / "complete.toml")
        handed = msgspec.to_builtins(checked(settings, SigningKey.from_hex("11" * 32)))
        assert handed.pop("key") == "11" * 32
        assert handed.pop("deployment") == str(settings.deployment.resolve())
        assert handed == settings.model_dump(exclude={"deployment", "key", "key_file", "key_password_file"})

    def test_key_is_shown_to_nobody(self) -> None:
        settings = RouterSettings.load(EXAMPLES / "complete.toml")
        assert "1111" not in repr(checked(settings, SigningKey.from_hex("11" * 32)))

    def test_start_opens_the_key_and_goes_on_as_the_worker_with_its_modules_and_without_its_libraries(
        self, tmp_path: Path
    ) -> None:
        stored = Keystore(tmp_path / "keys", iterations=2).add(SigningKey.from_hex("22" * 32), "secret")
        (tmp_path / "password").write_text("secret\n")
        (tmp_path / "only_here.py").write_text(
            "import os, sys\nfrom retally_router.worker import taken_settings\n"
            "settings = taken_settings(sys.argv[1])\n"
            "print(os.getpid(), settings.key, settings.replica, sys.argv[2], 'pydantic' in sys.modules)"
        )
        code = (
            f"import os, sys\nsys.path.append({str(tmp_path)!r})\n"
            "from pathlib import Path\n"
            "from retally.keystore import service_key\n"
            "from retally_router.settings import RouterSettings\n"
            "from retally_router.start import checked\n"
            "from retally_router.worker import become_worker\n"
            f"folder = Path({str(tmp_path)!r})\n"
            f"settings = RouterSettings(rpc_url='http://127.0.0.1:1', deployment=folder / 'd.json', replica=7,"
            f" key_file=Path({str(stored.path)!r}), key_password_file=folder / 'password')\n"
            "print(os.getpid(), flush=True)\n"
            "become_worker(checked(settings, service_key(settings, 1)), 'only_here', 'more')"
        )
        before, after = run_code(code).splitlines()
        assert after == f"{before} {'22' * 32} 7 more False"

    @pytest.mark.parametrize("as_json", [True, False])
    def test_worker_that_can_not_serve_says_why_as_the_command_would(self, tmp_path: Path, *, as_json: bool) -> None:
        (tmp_path / "d.json").write_text(json.dumps({"chainId": 31337, "contracts": {"Asset": "0x" + "a5" * 20}}))
        (tmp_path / "r.toml").write_text(
            'rpc_url = "ws://127.0.0.1:1"\ndeployment = "d.json"\nkey = "' + "11" * 32 + '"'
        )
        command = [sys.executable, "-m", "retally", "router", *(["--json"] if as_json else []), "serve"]
        done = subprocess.run(
            [*command, "--config", str(tmp_path / "r.toml")], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 2, done.stderr
        said = json.loads(done.stdout)["error"]["message"] if as_json else done.stderr
        assert "rpc_url must be an http or https address" in said

    @pytest.mark.parametrize("slow", ["sitecustomize", "uvloop"], ids=["before its first line", "while it imports"])
    def test_an_interrupt_while_the_worker_starts_is_no_traceback(self, tmp_path: Path, slow: str) -> None:
        (tmp_path / f"{slow}.py").write_text("import time\nprint('starting', flush=True)\ntime.sleep(1)")
        code = (
            f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
            "from pathlib import Path\n"
            "from retally.keystore import service_key\n"
            "from retally_router.settings import RouterSettings\n"
            "from retally_router.start import checked\n"
            "from retally_router.worker import become_worker\n"
            "settings = RouterSettings(rpc_url='http://127.0.0.1:1', deployment=Path('d.json'), key='0x' + '11' * 32)\n"
            "become_worker(checked(settings, service_key(settings, 31337)))"
        )
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as router:
            assert router.stdout is not None
            assert router.stdout.readline() == "starting\n"
            router.send_signal(signal.SIGINT)
            _, told = router.communicate(timeout=60)
        assert (router.returncode, told) == (130, "")


def run_code(code: str) -> str:
    """What that code prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()

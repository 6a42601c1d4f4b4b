"""The settings files of the devnet's services."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tomli_w

from retally.devnet.catalogue import CALIBRATIONS, profile_files
from retally.devnet.engine_server import MAX_CONTEXT
from retally.devnet.keys import derive_key, derive_secret
from retally.devnet.options import NetworkOptions, NodeSpec
from retally.devnet.ports import HOST


def node_settings(
    options: NetworkOptions, spec: NodeSpec, *, port: int, rpc_url: str, deployment: Path, engine_url: str
) -> dict[str, object]:
    """Settings of one node; the spec's own win."""
    vectors: dict[str, object] = {"serves": spec.serves, "profile_file": str(profile_files()[1]), "price_out": 0}
    return {
        "rpc_url": rpc_url,
        "deployment": str(deployment),
        "key": "0x" + derive_key(options.seed, spec.name).secret.hex(),
        "host": HOST,
        "port": port,
        "public_url": f"http://{HOST}:{port}",
        "engine_url": engine_url,
        "model_dir": str(options.model_dir),
        "data_dir": str(options.home / "data" / spec.name),
        "price_in": options.prices.price_in,
        "price_cached": options.prices.price_cached,
        "price_out": options.prices.price_out,
        "max_context": MAX_CONTEXT,
        "calibration_dir": str(CALIBRATIONS),
        "admin_token": derive_secret(options.seed, spec.name),
        "poll_seconds": options.poll_seconds,
        "log_level": options.log_level,
        **(vectors if spec.embeds else {}),
        **spec.settings,
    }


def router_settings(
    options: NetworkOptions, *, port: int, rpc_url: str, deployment: Path, redis_url: str
) -> dict[str, object]:
    """Settings of the router."""
    return {
        "rpc_url": rpc_url,
        "deployment": str(deployment),
        "redis_url": redis_url,
        "key": "0x" + derive_key(options.seed, "router").secret.hex(),
        "host": HOST,
        "port": port,
        # Without a measured table there is no calibrated profile to insist on; calibrating needs such a network.
        "audited_owners": max(1, min(3, sum(not node.embeds for node in options.nodes))),
        "require_calibration": any(CALIBRATIONS.glob("*.json")),
        "poll_seconds": options.poll_seconds,
        # Low: on one machine all nodes are about as fast, so jobs spread by stake.
        "value_of_second": 20,
        "log_level": options.log_level,
        **options.router_settings,
    }


def verifier_settings(options: NetworkOptions, *, port: int, rpc_url: str, deployment: Path) -> dict[str, object]:
    """Settings of the verifier; it is told where models lie, and nothing about who serves what."""
    return {
        "rpc_url": rpc_url,
        "deployment": str(deployment),
        "key": "0x" + derive_key(options.seed, "verifier").secret.hex(),
        "host": HOST,
        "port": port,
        "public_url": f"http://{HOST}:{port}",
        "data_dir": str(options.home / "data" / "verifier"),
        "model_dirs": [str(options.model_dir)],
        "calibration_dir": str(CALIBRATIONS),
        "log_level": options.log_level,
        **options.verifier_settings,
    }


def write_config(path: Path, settings: Mapping[str, object]) -> Path:
    """Write one settings file, readable by its owner only: it holds a key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(tomli_w.dumps(settings), encoding="utf-8")
    return path

"""A new node's folder: hot key, its password, an admin token and the settings file."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from retally.chain.deployment import Deployment
from retally.devnet.catalogue import CALIBRATIONS
from retally.errors import BadRequest
from retally.inference.profile_files import ProfileFile
from retally.keystore import Keystore
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Address
from retally.protocol.params import EMBEDDINGS
from retally_node.jury_duty import has_calibration

TEMPLATE = """\
# A retally node. Paths are relative to this file; RETALLY_NODE_<NAME> in the environment wins.
rpc_url = {rpc_url}
deployment = {deployment}
key_file = {key_file}
key_password_file = "password"
host = "127.0.0.1"
port = {port}
# Where routers reach this node, once it stands behind TLS; `retally node stake` puts it on chain:
{public_url}
admin_token = {admin_token}

{engine}
model_dir = {model_dir}
data_dir = "data"
max_context = {max_context}

# The asset's smallest units (rUSD has 6 decimals) per million tokens.
price_in = {price_in}
price_cached = {price_cached}
price_out = {price_out}

# Work delivered before it is collected, without a reservation.
credit_per_payer = 100_000_000
credit_total = 1_000_000_000

# What it judges others by, and its owner's own cases; without calibrations of its model its owner is no juror.
{calibration_dir}
jury = true
"""


@dataclass(frozen=True, slots=True)
class NewNode:
    """What a new node is told."""

    folder: Path
    rpc_url: str
    deployment: Path
    model_dir: Path
    max_context: int
    price_in: int
    price_cached: int
    price_out: int
    engine_url: str | None
    port: int
    serves: str = "completions"
    profile_file: Path | None = None
    public_url: str | None = None
    calibration_dir: Path | None = None


def shipped_calibrations(model_id: bytes) -> Path | None:
    """The folder of the calibrations that come with retally, if one is of this model."""
    return CALIBRATIONS if has_calibration(CALIBRATIONS, model_id) else None


def make_node(new: NewNode) -> tuple[Path, Address]:
    """Write the folder; return its settings file and the node's address."""
    config = new.folder / "node.toml"
    if config.exists():
        raise BadRequest(f"{config} exists already", hint="choose another folder")
    if new.serves == EMBEDDINGS and new.price_out:
        raise BadRequest("embeddings bill their input alone", param="price_out", hint="leave --price-out out")
    new.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    password = secrets.token_urlsafe(24)
    _write_private(new.folder / "password", password + "\n")
    stored = Keystore(new.folder / "keystore").add(SigningKey.generate(), password)
    _write_private(config, _settings(new, stored.path.relative_to(new.folder)))
    return config, stored.address


def profile_for_embeddings(deployment: Deployment, named: Path | None) -> Path:
    """The file of a profile for embeddings (R-76): the one that was named, or the deployment's only one."""
    known = [str(each.get("uri")) for each in deployment.profiles if each.get("serves") == EMBEDDINGS]
    path = named or (Path(known[0]) if len(known) == 1 else None)
    if path is None or not path.is_file():
        hint = "pass --profile-file with the JSON whose hash the Registry holds"
        raise BadRequest("the deployment names no file of one profile for embeddings", param="profile_file", hint=hint)
    if not ProfileFile.load(path).embeds:
        hint = 'a profile for embeddings says so in its JSON: "endpoint": "embeddings"'
        raise BadRequest(f"{path} is a profile for completions", param="profile_file", hint=hint)
    return path


def _settings(new: NewNode, key_file: Path) -> str:
    port = new.port + 1000
    engine = f'start_engine = true\nengine_url = "http://127.0.0.1:{port}"'
    if new.engine_url is not None:
        engine = f"engine_url = {_text(new.engine_url)}"
    if new.serves == EMBEDDINGS:
        engine += f"\nserves = {_text(new.serves)}"
    if new.profile_file is not None:
        engine += f"\nprofile_file = {_text(new.profile_file.resolve())}"
    return TEMPLATE.format(
        rpc_url=_text(new.rpc_url),
        deployment=_text(new.deployment.resolve()),
        key_file=_text(key_file),
        port=new.port,
        admin_token=_text(secrets.token_urlsafe(24)),
        engine=engine,
        model_dir=_text(new.model_dir.resolve()),
        max_context=new.max_context,
        price_in=new.price_in,
        price_cached=new.price_cached,
        price_out=new.price_out,
        public_url=_line("public_url", new.public_url, "https://node.example.org"),
        calibration_dir=_line("calibration_dir", new.calibration_dir and new.calibration_dir.resolve(), "calibrations"),
    )


def _line(name: str, value: object, example: str) -> str:
    return f"# {name} = {_text(example)}" if value is None else f"{name} = {_text(value)}"


def _text(value: object) -> str:
    # A JSON string without escapes beyond \\uXXXX is a TOML string.
    return json.dumps(str(value))


def _write_private(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)

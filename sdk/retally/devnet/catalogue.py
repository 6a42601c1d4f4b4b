"""What a devnet's Registry knows from the start: its model, this machine's profile, the measured calibrations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from retally.chain.deploy import CalibrationEntry, Catalogue, Model, Profile
from retally.devnet.engine_server import is_cpu_build
from retally.inference.model_files import ModelFiles
from retally.protocol.encoding import Bytes32, keccak, to_hex
from retally.protocol.job import canonical_json
from retally.protocol.params import EMBEDDINGS

MODEL_UNIT = 200
"""About the fee of a short job, so that a new owner's audit step is about one such job."""

_FOLDER = Path(__file__).resolve().parent
CALIBRATIONS = _FOLDER / "calibrations"


@dataclass(frozen=True)
class Market:
    """The model and the profile that a devnet's nodes serve."""

    model_id: Bytes32
    profile_id: Bytes32
    #: That of nodes for embeddings (R-76).
    embeddings_profile_id: Bytes32
    catalogue: Catalogue


def devnet_market(model_dir: Path) -> Market:
    """Read the files and hash them as the protocol does (R-12)."""
    model = ModelFiles.load(model_dir)
    profile_path, embeddings_path = profile_files()
    profile_id, embeddings_id = _hash_of(profile_path), _hash_of(embeddings_path)
    pair = (to_hex(model.model_id), to_hex(profile_id), to_hex(profile_id))
    catalogue = Catalogue(
        models=[Model(to_hex(model.model_id), MODEL_UNIT, model.name, str(model_dir / "manifest.json"))],
        profiles=[
            Profile(to_hex(profile_id), str(profile_path)),
            Profile(to_hex(embeddings_id), str(embeddings_path), serves=EMBEDDINGS),
        ],
        calibrations=[CalibrationEntry(digest, *pair, str(path)) for path, digest in _calibrations().items()],
    )
    return Market(model.model_id, profile_id, embeddings_id, catalogue)


def profile_files() -> tuple[Path, Path]:
    """This machine's profile, and that of its nodes for embeddings."""
    name = "vllm-cpu-float32" if is_cpu_build() else "vllm-cuda-bfloat16"
    return _FOLDER / "profiles" / f"{name}.json", _FOLDER / "profiles" / f"{name}-embeddings.json"


def _calibrations() -> dict[Path, str]:
    return {path: to_hex(_hash_of(path)) for path in sorted(CALIBRATIONS.glob("*.json"))}


def _hash_of(path: Path) -> Bytes32:
    return keccak(canonical_json(json.loads(path.read_text(encoding="utf-8"))))

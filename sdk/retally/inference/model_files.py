"""A model's folder: its manifest, its id and the check of its files (R-12)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retally.errors import BadRequest
from retally.protocol.encoding import Bytes32, keccak
from retally.protocol.job import canonical_json

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A folder with weights, tokenizer and template, and the public manifest that names them by hash."""

    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def load(cls, model_dir: Path | str) -> ModelFiles:
        """Read the manifest of a model's folder."""
        folder = Path(model_dir)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadRequest(
                f"{folder} has no readable {MANIFEST}", hint="write one with ModelFiles.describe"
            ) from error
        return cls(folder, manifest)

    @staticmethod
    def describe(model_dir: Path | str, name: str, max_context: int) -> dict[str, Any]:
        """Return a manifest for a model's folder: every file that shapes its answers, by SHA-256."""
        folder = Path(model_dir)
        wanted = ("*.safetensors", "config.json", "generation_config.json", "tokenizer*", "*.jinja")
        paths = sorted({path for pattern in wanted for path in folder.glob(pattern)})
        return {"name": name, "maxContext": max_context, "sha256": {path.name: _sha256(path) for path in paths}}

    @property
    def name(self) -> str:
        """The model's name for users."""
        return str(self.manifest["name"])

    @property
    def max_context(self) -> int:
        """The most tokens of prompt and answer together."""
        return int(self.manifest["maxContext"])

    @property
    def shorter_vectors(self) -> tuple[int, ...]:
        """To how many components the model's vectors may be cut, as its configuration says."""
        try:
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return ()
        sizes = config.get("matryoshka_dimensions") or []
        return tuple(size for size in sizes if type(size) is int)

    @property
    def model_id(self) -> Bytes32:
        """The hash of the manifest."""
        return keccak(canonical_json(self.manifest))

    def check_unchanged(self) -> None:
        """Raise BadRequest unless every file is the one that the manifest names."""
        if changed := self.changed_files():
            raise BadRequest(
                f"files of the model in {self.folder} differ from its manifest: {', '.join(changed)}",
                hint="fetch the model's files again, or serve your own under a manifest of its own",
            )

    def changed_files(self) -> list[str]:
        """Return the files that are missing or differ from the manifest."""
        paths = {name: self.folder / name for name in self.manifest["sha256"]}
        return [
            name for name, path in paths.items() if not path.exists() or _sha256(path) != self.manifest["sha256"][name]
        ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

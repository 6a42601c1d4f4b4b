"""A profile's public JSON and its id (R-12)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retally.errors import BadRequest
from retally.protocol.encoding import Bytes32, keccak
from retally.protocol.exact import is_exact
from retally.protocol.job import canonical_json
from retally.protocol.params import EMBEDDINGS


@dataclass(frozen=True, slots=True)
class ProfileFile:
    """What an engine promises to be."""

    path: Path
    profile: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path) -> ProfileFile:
        """Read a profile; raises BadRequest for what is none."""
        try:
            profile = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadRequest(f"{path} is no readable profile: {error}", param="profile_file") from error
        if not isinstance(profile, dict):
            raise BadRequest(f"{path} is no profile: it must hold one JSON object", param="profile_file")
        return cls(path, profile)

    @property
    def profile_id(self) -> Bytes32:
        """The hash of the profile."""
        return keccak(canonical_json(self.profile))

    @property
    def is_exact(self) -> bool:
        """Whether its answers are judged by equality (R-72)."""
        return is_exact(self.profile)

    @property
    def embeds(self) -> bool:
        """Whether its nodes serve embeddings, and no others do (R-76)."""
        return self.profile.get("endpoint") == EMBEDDINGS

    def check_declared(self, declared: Bytes32) -> None:
        """Raise BadRequest unless this is the profile that the node is registered with."""
        if self.profile_id != declared:
            raise BadRequest(
                f"{self.path} is profile 0x{self.profile_id.hex()}, the node is registered with 0x{declared.hex()}",
                param="profile_file",
                hint="name the registered profile's file, or register again with --profile",
            )


def exact_profiles(paths: Iterable[Path]) -> frozenset[Bytes32]:
    """Which of these profiles are judged by equality (R-72); raises BadRequest for a file that is none."""
    return frozenset(each.profile_id for each in map(ProfileFile.load, paths) if each.is_exact)

"""Which calibration judges which pair of profiles."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from retally.chain.registry import Registry
from retally.errors import BadRequest
from retally.protocol.calibration import Calibration
from retally.protocol.encoding import Bytes32, to_hex

log = logging.getLogger(__name__)


class CalibrationFiles:
    """The calibrations of folders, by model and pair of profiles."""

    def __init__(self) -> None:
        self._by_pair: dict[tuple[bytes, bytes, bytes], Calibration] = {}

    def load(self, folder: Path) -> int:
        """Reads all calibrations of a folder and returns how many are known."""
        for path in sorted(folder.glob("*.json")):
            try:
                found = Calibration.from_json(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, BadRequest) as error:
                raise BadRequest(f"{path} is no calibration: {error}") from error
            self._by_pair[found.model_id, found.node_profile, found.verifier_profile] = found
        return len(self._by_pair)

    def covers(self, model_id: bytes) -> bool:
        """Whether any of them is for this model."""
        return any(model == model_id for model, _, _ in self._by_pair)

    def of_pair(self, model_id: bytes, node_profile: bytes, verifier_profile: bytes) -> Calibration | None:
        """The calibration for a pair, whether or not it may judge."""
        return self._by_pair.get((model_id, node_profile, verifier_profile))


class Calibrations:
    """The calibrations of a folder; one judges only what was committed once the Registry let it (R-41)."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._files = CalibrationFiles()
        self._since: dict[Bytes32, int] = {}

    def load(self, folder: Path) -> int:
        """Reads all calibrations of a folder and returns their number."""
        return self._files.load(folder)

    async def find(
        self, model_id: bytes, node_profile: bytes, verifier_profile: bytes, committed_at: int
    ) -> Calibration | None:
        """The calibration for a pair, if it may judge what was committed then."""
        found = self._files.of_pair(model_id, node_profile, verifier_profile)
        if found is None:
            return None
        if not self._since.get(found.hash):
            self._since[found.hash] = await self._registry.calibration_from(found.hash)
        since = self._since[found.hash]
        if since == 0 or since > committed_at:
            log.warning("calibration %s does not judge what was committed at %d", to_hex(found.hash), committed_at)
            return None
        return found

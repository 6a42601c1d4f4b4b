"""Which calibration judges which pair of profiles."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from retally.chain.clock import Clock
from retally.chain.registry import Registry
from retally.errors import BadRequest
from retally.protocol.calibration import Calibration
from retally.protocol.encoding import Bytes32, to_hex

log = logging.getLogger(__name__)


class Calibrations:
    """The calibrations of a folder; only one whose hash the Registry holds and has aged is used."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._by_pair: dict[tuple[bytes, bytes, bytes], Calibration] = {}
        self._active: set[Bytes32] = set()

    def load(self, folder: Path) -> int:
        """Reads all calibrations of a folder and returns their number."""
        for path in sorted(folder.glob("*.json")):
            try:
                found = Calibration.from_json(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, BadRequest) as error:
                raise BadRequest(f"{path} is no calibration: {error}") from error
            self._by_pair[found.model_id, found.node_profile, found.verifier_profile] = found
        return len(self._by_pair)

    async def find(self, model_id: bytes, node_profile: bytes, verifier_profile: bytes) -> Calibration | None:
        """The calibration for a pair, if it may be used now."""
        found = self._by_pair.get((model_id, node_profile, verifier_profile))
        if found is None:
            return None
        if found.hash not in self._active:
            since = await self._registry.calibration_from(found.hash)
            if since == 0 or since > self._clock.now():
                log.warning("calibration %s is not active in the Registry", to_hex(found.hash))
                return None
            self._active.add(found.hash)
        return found

"""Whether a node can judge cases: an owner that is drawn as a juror and can't is fined for its votes."""

from __future__ import annotations

import logging
from pathlib import Path

from retally.chain.calibrations import CalibrationFiles
from retally.inference.profile_files import ProfileFile
from retally_node.settings import NodeSettings

log = logging.getLogger(__name__)


def why_no_juror(settings: NodeSettings, model_id: bytes) -> str | None:
    """Why the owner should not stand for jury duty, if so (R-65: who votes inconclusive often pays for it)."""
    return why_blind(settings, model_id) if settings.jury else "jury is false in its settings"


def why_blind(settings: NodeSettings, model_id: bytes) -> str | None:
    """Why the node can't judge replays of this model, if so."""
    if settings.embeds:
        return "an engine that makes vectors replays nothing"
    if settings.profile_file is not None and ProfileFile.load(settings.profile_file).is_exact:
        return None
    if settings.calibration_dir is None:
        return "calibration_dir is not set"
    if not has_calibration(settings.calibration_dir, model_id):
        return f"{settings.calibration_dir} holds no calibration of its model"
    return None


def warn_if_blind(settings: NodeSettings, model_id: bytes) -> None:
    """Says at start what a node without calibrations will do."""
    lack = why_blind(settings, model_id)
    if lack is not None and not settings.embeds:
        log.warning("this node votes inconclusive on juries and appeals every mismatch of its owner's: %s", lack)


def has_calibration(folder: Path, model_id: bytes) -> bool:
    """Whether a file there is for this model; raises BadRequest for one that is no calibration."""
    files = CalibrationFiles()
    files.load(folder)
    return files.covers(model_id)

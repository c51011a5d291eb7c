"""Puts a detector together as a checkpoint: what was learnt, features of good images, and the description."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zsad.detector import checkpoints
from zsad.detector.checkpoints import CheckpointInfo
from zsad.files.plain import to_plain

if TYPE_CHECKING:
    from zsad.detector.decision import Decision
    from zsad.detector.fitting.good_images import GoodImages
    from zsad.detector.thresholds import Calibration
    from zsad.images.looking import Looking
    from zsad.methods.base import Method


def save(
    path: str | Path,
    method: Method,
    looking: Looking,
    decision: Decision[Calibration],
    good: GoodImages | None,
    *,
    fingerprint: str,
    auxiliary_data: str,
    auxiliary_pictures: str,
) -> Path:
    """Writes everything that a detector is made of, except backbone weights.

    Args:
        path: file to write; an older file is replaced in one step.
        method: the system, with what it has learnt.
        looking: how images are read, cut and prepared.
        decision: thresholds, with their calibration if they have one.
        good: good images that the detector was fitted to; None for none.
        fingerprint: digest of the backbone's weights.
        auxiliary_data: description of the training data.
        auxiliary_pictures: digests of the training image files.

    Returns:
        Path of the file.

    Raises:
        WeightsError: the file cannot be written, or the backbone has no name.
    """
    info = CheckpointInfo(
        method=method.INFO.name,
        backbone=method.backbone.record.name if method.backbone.record else "",
        fingerprint=fingerprint,
        image_size=int(looking.preparation.size),
        config=to_plain(method.config),
        auxiliary_data=auxiliary_data,
        auxiliary_pictures=auxiliary_pictures,
        threshold=decision.threshold,
        map_threshold=decision.map_threshold,
        calibration=None if decision.calibration is None else decision.calibration.to_dict(),
        class_name=decision.class_name,
        bits=looking.bits,
        tile=looking.tile,
        roi=None if looking.roi is None else looking.roi.to_text(),
        good_images=() if good is None else good.images,
        augment_references=good is not None and good.are_turned,
    )
    file = Path(path).expanduser()
    checkpoints.write(file, method.learned_state(), info, None if good is None else good.tensors())
    return file

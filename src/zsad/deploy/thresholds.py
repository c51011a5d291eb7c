"""What becomes of a detector's thresholds when its graphs answer a little differently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zsad.deploy.bundle import Bundle, Promise, write_bundle
from zsad.deploy.runtime import load_exported
from zsad.detector.calibration.choice import choose_thresholds
from zsad.detector.calibration.measuring import Example, measure_scores
from zsad.detector.calibration.options import Aim, CalibrateOptions
from zsad.detector.calibration.wording import counted, describe
from zsad.detector.decision import Decision
from zsad.detector.support import images_given
from zsad.errors import DataError

if TYPE_CHECKING:
    from zsad.deploy.parity import Difference
    from zsad.detector.detector import Detector
    from zsad.detector.support import Images
    from zsad.detector.thresholds import Calibration

NEAR = 0.1
"""Largest difference of a score that thresholds survive, as a share of `ScoreScale.distance`."""

NEAR_BY_HAND = 1e-3
"""Largest difference of a score that a threshold set by hand survives."""

Tell = Callable[[str, int, int], None]


def promise_of(decision: Decision[Calibration]) -> Promise | None:
    """What the thresholds of a decision promise; None without a calibration."""
    calibration = decision.calibration
    if calibration is None:
        return None
    is_rate = calibration.rule == "rate"
    return Promise(
        calibration.false_alarm_rate if is_rate else None,
        calibration.confidence if is_rate else None,
        tuple(describe(calibration)),
        calibration.warnings,
    )


def decided_again(
    bundle: Bundle,
    folder: Path,
    detector: Detector,
    difference: Difference,
    good: Images | None,
    tell: Tell,
) -> tuple[Bundle, list[str]]:
    """The thresholds for what the graphs answer, and sentences that say what became of them.

    Args:
        bundle: what the folder holds, with the thresholds of the detector.
        folder: folder of the graphs.
        detector: the detector that was exported.
        difference: how far the graphs are from it.
        good: known-normal images that are no references; None without any.
        tell: told what is being done.

    Raises:
        DataError: the good images give no threshold.
    """
    lines = [] if bundle.precision == "fp32" else [_effect(bundle, difference)]
    if good is not None:
        calibration = _calibrated(bundle, folder, detector, good, tell)
        lines += [*describe(calibration), *calibration.warnings]
        return _with_decision(bundle, calibration.decision), lines
    if bundle.threshold is None or bundle.precision == "fp32":
        return bundle, lines
    near = NEAR_BY_HAND if bundle.score_scale is None else NEAR * bundle.score_scale.distance
    if bundle.precision != "int8" and difference.score <= near:
        lines.append(
            f"The thresholds stay: no score moved by more than {near:.2g}, which is little beside the "
            "distance of normal images from the threshold"
        )
        return bundle, lines
    lines.append(
        "The thresholds of the detector do not hold for these scores and were left out: --good FOLDER, with "
        "good images that are no references, makes new ones"
    )
    return _with_decision(bundle, Decision()), lines


def _effect(bundle: Bundle, difference: Difference) -> str:
    """What another precision does to scores, maps and verdicts of the images that were compared."""
    python, graph = difference.scores.T
    moved = np.abs(python - graph)
    text = (
        f"{bundle.precision} moves scores by {moved.mean():.2g} on average and {moved.max():.2g} at most, "
        f"and maps by at most {difference.map:.2g} of their range"
    )
    if bundle.threshold is None:
        return text
    changed = int(((python >= bundle.threshold) != (graph >= bundle.threshold)).sum())
    return f"{text}; {changed} of {len(moved)} verdicts change at the old threshold"


def _with_decision(bundle: Bundle, decision: Decision[Calibration]) -> Bundle:
    """The bundle with other thresholds."""
    return replace(
        bundle,
        decision_class_name=decision.class_name,
        threshold=decision.threshold,
        map_threshold=decision.map_threshold,
        score_scale=decision.scale,
        promise=promise_of(decision),
        calibration=None if decision.calibration is None else decision.calibration.to_dict(),
    )


def _calibrated(bundle: Bundle, folder: Path, detector: Detector, good: Images, tell: Tell) -> Calibration:
    """A calibration of the graphs on good images, with the aim of the detector's own."""
    own = detector.calibration
    keeps_rate = own is not None and own.rule == "rate"
    aim = {field.name: getattr(own, field.name) for field in fields(Aim)} if keeps_rate else {}
    options = CalibrateOptions(**aim)
    examples = [Example(item) for item in images_given(good)]
    write_bundle(bundle, folder)
    measurement = measure_scores(
        load_exported(folder, providers="cpu"),
        examples,
        options,
        bundle.class_name,
        detector.reference_fingerprints,
        lambda done, total: tell("Scoring good images", done, total),
    )
    if not measurement.images:
        raise DataError(
            f"none of the {counted(len(examples), 'good image')} can make a threshold: "
            f"{measurement.references} are among the references, whose scores say nothing about new images, "
            f"and {len(measurement.failed)} cannot be read; give others"
        )
    return choose_thresholds(measurement, options)

"""Chooses the thresholds of a calibration from measured scores, and warns of what limits them."""

from __future__ import annotations

from dataclasses import fields
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from zsad.detector.calibration.options import Aim
from zsad.detector.calibration.statistics import (
    alarms_allowed,
    best_f1,
    images_needed,
    lowest_cost,
    promised_confidence,
    threshold_above,
)
from zsad.detector.calibration.wording import UNREADABLE, counted, percent
from zsad.detector.thresholds import Calibration, MapRule
from zsad.errors import ConfigError, DataError

if TYPE_CHECKING:
    from zsad.detector.calibration.measurement import Measurement
    from zsad.detector.calibration.options import CalibrateOptions

FEWEST_NORMAL = 2


def choose_thresholds(measurement: Measurement, options: CalibrateOptions) -> Calibration:
    """The calibration that follows from measured scores.

    Errors are those of `zsad.detector.calibration.calibrating.calibrate`.
    """
    normal = np.array([one.score for one in measurement.of(False)])
    anomalous = np.array([one.score for one in measurement.of(True)])
    _check_scores(normal, anomalous, measurement, options)
    allowed = alarms_allowed(max(1, normal.size), options.false_alarm_rate, options.confidence)
    if options.rule == "rate":
        threshold = threshold_above(normal, allowed)
    elif options.rule == "f1":
        threshold = best_f1(normal, anomalous).threshold
    else:
        costs = (options.cost_miss or 0.0, options.cost_false_alarm or 0.0)
        threshold = lowest_cost(normal, anomalous, *costs, options.prevalence).threshold
    map_rule: MapRule = "rate"
    map_threshold = threshold_above([one.map_height for one in measurement.of(False)], allowed)
    if options.rule != "rate" and measurement.pixel_threshold is not None:
        map_rule, map_threshold = "f1", measurement.pixel_threshold
    return Calibration(
        **{field.name: getattr(options, field.name) for field in fields(Aim)},
        threshold=threshold,
        map_rule=map_rule,
        map_threshold=map_threshold,
        normal_scores=tuple(np.sort(normal).tolist()),
        anomalous_scores=tuple(np.sort(anomalous).tolist()),
        class_name=measurement.class_name,
        settings=measurement.settings,
        pictures=tuple(one.fingerprint for one in measurement.images),
        warnings=tuple(_warnings(normal, anomalous, threshold, measurement, options)),
        created=date.today().isoformat(),
    )


def _check_scores(normal: Any, anomalous: Any, measurement: Measurement, options: CalibrateOptions) -> None:
    """Refuses scores from which no threshold can be found."""
    left_out = f" ({len(measurement.failed)} could not be read or scored)" if measurement.failed else ""
    if options.rule != "rate" and not anomalous.size:
        raise DataError(
            f'there is no anomalous image{left_out}: rule "{options.rule}" needs both kinds; with normal '
            'images only, calibrate by "rate"'
        )
    if not normal.size:
        raise DataError(f"there is no normal image{left_out}: give some")
    if options.rule == "rate" and normal.size < FEWEST_NORMAL:
        needed = images_needed(options.false_alarm_rate, options.confidence)
        wanted = f"{percent(options.false_alarm_rate)} with {percent(options.confidence)} confidence"
        raise DataError(
            f"one normal image{left_out} says nothing about how scores vary: give {needed} different ones "
            f"for a false-alarm rate of {wanted}"
        )
    decisive = normal if options.rule == "rate" else np.concatenate([normal, anomalous])
    if decisive.min() == decisive.max():
        raise DataError(
            f"all {decisive.size} scores are {decisive[0]:.6g}: the detector does not tell these images "
            "apart, so there is no threshold; check the images and the method's weights"
        )
    if options.rule == "rate" and options.strict and (short := _shortage(normal.size, options)):
        raise ConfigError(f"{short}; give more, lower --confidence, or raise --rate")


def _warnings(
    normal: Any, anomalous: Any, threshold: float, measurement: Measurement, options: CalibrateOptions
) -> list[str]:
    warnings = []
    if options.rule == "rate" and (short := _shortage(normal.size, options)):
        warnings.append(short)
    if options.rule != "rate":
        flagged = int((normal >= threshold).sum() + (anomalous >= threshold).sum())
        word = {0: "no image", normal.size + anomalous.size: "every image"}.get(flagged)
        if word:
            best = "highest F1" if options.rule == "f1" else "lowest cost"
            warnings.append(
                f"the threshold with the {best} calls {word} anomalous: the scores hardly separate the two "
                "kinds"
            )
    if measurement.is_joint:
        warnings.append(
            f"{measurement.settings['method']} scores images together, so each score depends on the other "
            "images: the threshold is only a hint for batches of another size or mixture"
        )
    if measurement.copies:
        copies = counted(measurement.copies, "copy", "copies")
        warnings.append(f"{copies} of other images left out")
    if measurement.references:
        images = counted(measurement.references, "image")
        warnings.append(f"{images} left out: already among the references of the detector")
    if measurement.failed:
        more = f" and {len(measurement.failed) - 1} more" if len(measurement.failed) > 1 else ""
        warnings.append(f"{UNREADABLE}: {measurement.failed[0]}{more}")
    return warnings


def _shortage(count: int, options: CalibrateOptions) -> str:
    """A sentence that says that the images are too few for the promise; empty if they are enough."""
    allowed = alarms_allowed(count, options.false_alarm_rate, options.confidence)
    reached = promised_confidence(count, allowed, options.false_alarm_rate)
    if reached >= options.confidence:
        return ""
    needed = images_needed(options.false_alarm_rate, options.confidence)
    return (
        f"{count} normal images can promise a false-alarm rate of {percent(options.false_alarm_rate)} with "
        f"{percent(reached)} confidence only: {percent(options.confidence)} needs {needed} images"
    )

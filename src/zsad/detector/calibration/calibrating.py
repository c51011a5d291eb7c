"""Calibration: from a few normal images, or labelled ones, to a decision with a promise.

`calibrate` gives a `Calibration`; `Detector.apply_calibration` makes a detector decide by it; the methods'
own scores and maps stay as they are.

By false-alarm rate (the default): both thresholds lie just above an order statistic of the normal images,
so that with the wanted confidence no more than the wanted share of new normal images is called anomalous
(`zsad.detector.calibration.statistics` has the formula). Where the images are too few to promise that, the
threshold lies above all of them, and the calibration says what it can promise and how many are needed.
The unit of the map threshold is the image too, not the pixel: at most the same share of normal images
has more than `tolerated_area` of its pixels marked. Pixels of one image depend on each other, so a share of
pixels would come without any confidence, and what a user meets is a good part with a mark on it.

By F1 or by cost, from labelled images: the threshold that is best on them, half way to the next lower
score. The map threshold has the highest F1 of all pixels if there are masks, else it is found by rate. What
is counted on the calibration images is then too good, since the threshold was chosen on them.

The promises are about images taken like the calibration images: same product, camera and light, and
independent of each other. Ten frames of one part are one image. Copies count once; the calibration keeps
fingerprints of its images, so that `zsad predict` and evaluations can tell when they meet them again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from zsad.detector.calibration.measuring import Example, Measurement, measure
from zsad.detector.calibration.statistics import (
    alarms_allowed,
    best_f1,
    check_confidence,
    check_rate,
    images_needed,
    lowest_cost,
    promised_confidence,
    threshold_above,
)
from zsad.detector.calibration.wording import counted, describe, percent, summary
from zsad.detector.identity import image_fingerprint
from zsad.detector.thresholds import RULES, Calibration, MapRule, Rule, read_calibration, write_calibration
from zsad.errors import ConfigError, DataError, unknown_name

if TYPE_CHECKING:
    from zsad.detector.detector import Detector

__all__ = [
    "Aim",
    "Calibration",
    "calibrate",
    "choose_thresholds",
    "describe",
    "image_fingerprint",
    "read_calibration",
    "summary",
    "write_calibration",
]

FEWEST_NORMAL = 2


@dataclass(frozen=True)
class Aim:
    """What the thresholds are to achieve; the fields are arguments of `calibrate`."""

    rule: Rule = "rate"
    false_alarm_rate: float = 0.05
    confidence: float = 0.95
    tolerated_area: float = 0.0
    cost_miss: float | None = None
    cost_false_alarm: float | None = None
    prevalence: float | None = None
    is_strict: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise unknown_name("rule", str(self.rule), RULES)
        check_rate(self.false_alarm_rate)
        check_confidence(self.confidence)
        costs = (self.cost_miss, self.cost_false_alarm)
        if self.rule == "cost" and None in costs:
            raise ConfigError('rule "cost" needs both costs: give cost_miss and cost_false_alarm')
        if self.rule != "cost" and any(value is not None for value in (*costs, self.prevalence)):
            raise ConfigError(f'costs and prevalence are for rule "cost", not for "{self.rule}"')


def calibrate(
    detector: Detector,
    normal: Sequence[Any],
    anomalous: Sequence[Any] = (),
    *,
    by: Rule = "rate",
    masks: Sequence[Any] | None = None,
    false_alarm_rate: float = 0.05,
    confidence: float = 0.95,
    tolerated_area: float = 0.0,
    cost_miss: float | None = None,
    cost_false_alarm: float | None = None,
    prevalence: float | None = None,
    strict: bool = False,
    class_name: str | None = None,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Finds the thresholds of a detector for one kind of image.

    Args:
        detector: as it will be used: weights, settings, references.
        normal: images as `Detector.predict` takes them, not used for anything else.
        anomalous: likewise; rules "f1" and "cost" need them, rule "rate" only counts how many it finds.
        by: "rate": a false-alarm rate that is kept; "f1": the highest F1; "cost": the lowest expected cost.
        masks: one for each anomalous image, a file, an (H, W) array or None; for the map threshold of rules
            "f1" and "cost".
        false_alarm_rate: share of new normal images that may be called anomalous, in (0, 0.5).
        confidence: that this is kept, in [0.5, 1).
        tolerated_area: share of a normal image's pixels that may be marked, in [0, 1).
        cost_miss: of an anomalous image that is called normal.
        cost_false_alarm: of a normal image that is called anomalous, in the same unit.
        prevalence: share of anomalous images in use, in (0, 1), for "cost"; None: as among these images.
        strict: refuse if the images are too few to promise the rate with this confidence.
        class_name: what the images show; None for "object". The thresholds are for this name only.
        batch_size: images that go through the network at once.
        progress: called with the number of images done and to do.

    Returns:
        The calibration; images that could not be read are left out and named in its warnings. The detector
        stays as it is until `Detector.apply_calibration`.

    Raises:
        ConfigError: an impossible argument, or too few images for `strict`.
        DataError: the images are unfit: fewer than two, all with the same score, one kind only.

    Example:
        >>> import zsad
        >>> from zsad.detector.calibration.calibrating import calibrate
        >>> detector = zsad.load("clip_ac")
        >>> good = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), "uint8") for seed in range(4)]
        >>> calibration = calibrate(detector, good, false_alarm_rate=0.2)
        >>> detector.apply_calibration(calibration).predict(good[0]).is_anomalous
        False
    """
    aim = Aim(
        by,
        false_alarm_rate,
        confidence,
        tolerated_area,
        cost_miss,
        cost_false_alarm,
        prevalence,
        strict,
    )
    if masks is not None and len(masks) != len(anomalous):
        raise ConfigError(f"{len(masks)} masks for {len(anomalous)} anomalous images: give one for each")
    examples = [Example(picture) for picture in normal]
    examples += [
        Example(picture, True, mask)
        for picture, mask in zip(anomalous, masks or [None] * len(anomalous), strict=True)
    ]
    measurement = measure(
        detector,
        examples,
        class_name=class_name,
        tolerated_area=tolerated_area,
        batch_size=batch_size,
        progress=progress,
    )
    return choose_thresholds(measurement, aim)


def choose_thresholds(measurement: Measurement, aim: Aim) -> Calibration:
    """The calibration that follows from scores that are there; arguments and errors as for `calibrate`."""
    normal = np.array([one.score for one in measurement.of(False)])
    anomalous = np.array([one.score for one in measurement.of(True)])
    _check_scores(normal, anomalous, measurement, aim)
    allowed = alarms_allowed(max(1, normal.size), aim.false_alarm_rate, aim.confidence)
    if aim.rule == "rate":
        threshold = threshold_above(normal, allowed)
    elif aim.rule == "f1":
        threshold = best_f1(normal, anomalous).threshold
    else:
        costs = (aim.cost_miss or 0.0, aim.cost_false_alarm or 0.0)
        threshold = lowest_cost(normal, anomalous, *costs, aim.prevalence).threshold
    map_rule: MapRule = "rate"
    map_threshold = threshold_above([one.map_height for one in measurement.of(False)], allowed)
    if aim.rule != "rate" and measurement.pixel_threshold is not None:
        map_rule, map_threshold = "f1", measurement.pixel_threshold
    return Calibration(
        rule=aim.rule,
        threshold=threshold,
        map_rule=map_rule,
        map_threshold=map_threshold,
        normal_scores=tuple(np.sort(normal).tolist()),
        anomalous_scores=tuple(np.sort(anomalous).tolist()),
        false_alarm_rate=aim.false_alarm_rate,
        confidence=aim.confidence,
        tolerated_area=aim.tolerated_area,
        cost_miss=aim.cost_miss,
        cost_false_alarm=aim.cost_false_alarm,
        prevalence=aim.prevalence,
        class_name=measurement.class_name,
        settings=measurement.settings,
        pictures=tuple(one.fingerprint for one in measurement.images),
        warnings=tuple(_warnings(normal, anomalous, threshold, measurement, aim)),
        created=date.today().isoformat(),
    )


def _check_scores(normal: Any, anomalous: Any, measurement: Measurement, aim: Aim) -> None:
    """Refuses what no threshold can be made of."""
    left_out = f" ({len(measurement.failed)} could not be read or scored)" if measurement.failed else ""
    if aim.rule != "rate" and not anomalous.size:
        raise DataError(
            f'there is no anomalous image{left_out}: rule "{aim.rule}" needs both kinds; with normal '
            'images only, calibrate by "rate"'
        )
    if not normal.size:
        raise DataError(f"there is no normal image{left_out}: give some")
    if aim.rule == "rate" and normal.size < FEWEST_NORMAL:
        raise DataError(
            f"one normal image{left_out} says nothing about how scores vary: give "
            f"{images_needed(aim.false_alarm_rate, aim.confidence)} different ones for a false-alarm rate "
            f"of {percent(aim.false_alarm_rate)} with {percent(aim.confidence)} confidence"
        )
    decisive = normal if aim.rule == "rate" else np.concatenate([normal, anomalous])
    if decisive.min() == decisive.max():
        raise DataError(
            f"all {decisive.size} scores are {decisive[0]:.6g}: the detector does not tell these images "
            "apart, so there is no threshold; check the images and the method's weights"
        )
    if aim.rule == "rate" and aim.is_strict and (short := _shortage(normal.size, aim)):
        raise ConfigError(f"{short}; give more, lower --confidence, or raise --rate")


def _warnings(normal: Any, anomalous: Any, threshold: float, measurement: Measurement, aim: Aim) -> list[str]:
    warnings = []
    if aim.rule == "rate" and (short := _shortage(normal.size, aim)):
        warnings.append(short)
    if aim.rule != "rate":
        flagged = int((normal >= threshold).sum() + (anomalous >= threshold).sum())
        word = {0: "no image", normal.size + anomalous.size: "every image"}.get(flagged)
        if word:
            best = "highest F1" if aim.rule == "f1" else "lowest cost"
            warnings.append(
                f"the threshold with the {best} calls {word} anomalous: the scores hardly tell the two kinds "
                "apart here"
            )
    if measurement.is_joint:
        warnings.append(
            f"{measurement.settings['method']} scores images together, so that scores change with the "
            "images beside them: the threshold is only a hint for batches of another size or mixture"
        )
    if measurement.copies:
        copies = counted(measurement.copies, "copy", "copies")
        warnings.append(f"{copies} of other images left out")
    if measurement.references:
        pictures = counted(measurement.references, "image")
        warnings.append(f"{pictures} left out that the detector has as references")
    if measurement.failed:
        more = f" and {len(measurement.failed) - 1} more" if len(measurement.failed) > 1 else ""
        warnings.append(f"left out, since it could not be read or scored: {measurement.failed[0]}{more}")
    return warnings


def _shortage(pictures: int, aim: Aim) -> str:
    """The sentence that says that the images are too few for the promise; empty if they are enough."""
    allowed = alarms_allowed(pictures, aim.false_alarm_rate, aim.confidence)
    reached = promised_confidence(pictures, allowed, aim.false_alarm_rate)
    if reached >= aim.confidence:
        return ""
    needed = images_needed(aim.false_alarm_rate, aim.confidence)
    return (
        f"{pictures} normal images can promise a false-alarm rate of {percent(aim.false_alarm_rate)} with "
        f"{percent(reached)} confidence only: {percent(aim.confidence)} needs {needed} images"
    )

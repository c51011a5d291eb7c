"""Finds thresholds from normal images, or from labelled ones, and says what they promise.

`calibrate` gives a `Calibration`, and `Detector.apply_calibration` makes a detector decide by it. The scores
and maps of the method stay unchanged.

By false-alarm rate (the default), both thresholds lie just above an order statistic of the normal images, so
that with the wanted confidence no more than the wanted share of new normal images is called anomalous
(`zsad.detector.calibration.statistics` has the formula). If the images are too few to promise that, the
threshold lies above all of them, and the calibration says what it can promise and how many are needed.
The unit of the map threshold is the image too, not the pixel: at most the same share of normal images
has more than `tolerated_area` of its pixels marked. Pixels of one image depend on each other, so a share of
pixels would come without any confidence, and a user sees good parts with a mark on them, not pixels.

By F1 or by cost, from labelled images: the threshold that is best on these images, half way to the next lower
score. The map threshold has the highest F1 of all pixels if there are masks; without masks it is found by
rate. Error counts on the calibration images are too low for new images, because the threshold was chosen on
them.

The promises hold for images taken like the calibration images: same product, camera and light, and
independent of each other. Ten frames of one part are one image. Copies count once. The calibration keeps
fingerprints of its images, so that `zsad predict` and evaluations recognise them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from zsad.detector.calibration.measuring import Example, Measurement, measure
from zsad.detector.calibration.options import Aim, CalibrateOptions
from zsad.detector.calibration.statistics import (
    alarms_allowed,
    best_f1,
    images_needed,
    lowest_cost,
    promised_confidence,
    threshold_above,
)
from zsad.detector.calibration.wording import counted, percent
from zsad.detector.support import images_given
from zsad.detector.thresholds import Calibration, MapRule
from zsad.errors import ConfigError, DataError

if TYPE_CHECKING:
    from zsad.detector.detector import Detector
    from zsad.detector.support import Images

FEWEST_NORMAL = 2


def calibrate(
    detector: Detector,
    normal: Images,
    anomalous: Images = (),
    options: CalibrateOptions = CalibrateOptions(),
    *,
    masks: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Finds the thresholds of a detector for one kind of image.

    Args:
        detector: the detector with the weights, settings and references that it will be used with.
        normal: a folder, a pattern, an image as `Detector.predict` takes it, or several of these, that are
            not used for anything else.
        anomalous: anomalous images, given as the normal ones are. Rules "f1" and "cost" need them; rule
            "rate" only counts how many of them it finds.
        options: what the thresholds are to achieve, and how the images are scored.
        masks: one mask for each anomalous image, a file, an (H, W) array or None; for the map threshold of
            rules "f1" and "cost".
        progress: called with the number of images done and the total.

    Returns:
        The calibration. Images that cannot be read are left out and named in its warnings. The detector
        stays unchanged until `Detector.apply_calibration`.

    Raises:
        ConfigError: masks and anomalous images differ in number, or `options.strict` and too few images.
        DataError: no threshold can be found: fewer than two normal images, equal scores, or one kind only.

    Example:
        >>> import zsad
        >>> from zsad.detector.calibration.calibrating import calibrate
        >>> from zsad.detector.calibration.options import CalibrateOptions
        >>> detector = zsad.load("clip_ac")
        >>> good = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), "uint8") for seed in range(4)]
        >>> calibration = calibrate(detector, good, options=CalibrateOptions(false_alarm_rate=0.2))
        >>> detector.apply_calibration(calibration).predict(good[0]).is_anomalous
        False
    """
    good, bad = images_given(normal), images_given(anomalous)
    if masks is not None and len(masks) != len(bad):
        raise ConfigError(f"{len(masks)} masks for {len(bad)} anomalous images: give one for each")
    examples = [Example(image) for image in good]
    examples += [
        Example(image, True, mask) for image, mask in zip(bad, masks or [None] * len(bad), strict=True)
    ]
    return choose_thresholds(measure(detector, examples, options, progress), options)


def choose_thresholds(measurement: Measurement, options: CalibrateOptions) -> Calibration:
    """The calibration that follows from measured scores; see `calibrate` for errors."""
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
        warnings.append(f"left out because it could not be read or scored: {measurement.failed[0]}{more}")
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

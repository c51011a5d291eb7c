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
from typing import TYPE_CHECKING, Any

from zsad.detector.calibration.choice import choose_thresholds
from zsad.detector.calibration.measuring import Example, measure
from zsad.detector.calibration.options import CalibrateOptions
from zsad.detector.support import images_given
from zsad.errors import ConfigError

if TYPE_CHECKING:
    from zsad.detector.detector import Detector
    from zsad.detector.support import Images
    from zsad.detector.thresholds import Calibration


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
        >>> import numpy as np
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

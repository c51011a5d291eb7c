"""Puts images that were wrongly called anomalous among the good ones, and says what that changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zsad.detector.identity import image_fingerprint
from zsad.errors import ConfigError, ImageReadError, printable

if TYPE_CHECKING:
    from zsad.detector.detector import Detector
    from zsad.detector.fitting.fit import Fitting


@dataclass(frozen=True)
class Change:
    """What became of an image that was wrongly called anomalous.

    Attributes:
        name: file of the image.
        score: score before.
        threshold: threshold before.
        new_score: score now that the image is a reference.
        new_threshold: threshold now.
    """

    name: str
    score: float
    threshold: float
    new_score: float
    new_threshold: float

    def sentences(self) -> list[str]:
        """What changed, for a reader."""
        was = "called anomalous" if self.score >= self.threshold else "not called anomalous"
        now = "anomalous" if self.new_score >= self.new_threshold else "normal"
        lines = [
            f"{self.name}: before, score {self.score:.4g}, {was} at the threshold {self.threshold:.4g}; now "
            f"one of the good images, score {self.new_score:.4g}, {now} at the threshold "
            f"{self.new_threshold:.4g}."
        ]
        if self.new_threshold > self.threshold:
            lines.append(
                f"The threshold rose from {self.threshold:.4g} to {self.new_threshold:.4g}: anomalies with "
                "scores between them are no longer found. Check that the image is really good."
            )
        return lines


def add_false_alarms(
    detector: Detector,
    false_alarms: Sequence[Any],
    more: Sequence[Any] = (),
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> tuple[Fitting, list[Change]]:
    """Fits a detector to its good images, to wrongly accused ones, and to further good images.

    Args:
        detector: fitted detector, which changes.
        false_alarms: images that it wrongly called anomalous.
        more: further good images.
        progress: called with the number of images done and the total.
        **options: options of `Detector.fit`.

    Returns:
        What was found, and the change for each false alarm that can be read.

    Raises:
        ConfigError: the detector has no threshold.
        DataError: as for `Detector.fit`.
    """
    threshold = detector.threshold
    if threshold is None:
        raise ConfigError("only a detector that decides can raise a false alarm: fit it to good images first")
    before = {}
    for image in false_alarms:
        try:
            before[printable(image)] = detector.predict(image)
        except ImageReadError:
            continue  # `fit` names it
    found = detector.fit([*more, *false_alarms], add=True, progress=progress, **options)
    kept = {image.fingerprint for image in found.good.images}
    new_threshold = found.calibration.threshold
    changes = [
        Change(name, one.score, threshold, detector.predict(one.image).score, new_threshold)
        for name, one in before.items()
        if image_fingerprint(one.image) in kept
    ]
    return found, changes

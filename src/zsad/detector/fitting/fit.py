"""Fits a detector to good images: they become its references, and their scores give its thresholds.

The score that a threshold rests on is computed without its own image among the references, since an image
that finds itself there looks far better than a new one. `zsad.detector.fitting.statistics` says what that
promises. Near-copies (frames of one part) are left out together and count as one image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from zsad.detector.calibration.choice import choose_thresholds
from zsad.detector.calibration.measurement import Measured, Measurement, map_height
from zsad.detector.fitting.encoding import encode
from zsad.detector.fitting.good_images import joined
from zsad.detector.fitting.leaving_out import scores_left_out
from zsad.detector.fitting.statistics import OUTLIER, folds, log_odds, near_copies, robust_z
from zsad.detector.fitting.wording import near_copy_warning, outlier_warning
from zsad.detector.support import images_given
from zsad.errors import DataError
from zsad.methods.base import DEFAULT_CLASS
from zsad.methods.functional.maps import upsample

if TYPE_CHECKING:
    from zsad.detector.fitting.encoding import Look
    from zsad.detector.fitting.good_images import GoodImage, GoodImages
    from zsad.detector.fitting.options import FitOptions
    from zsad.detector.support import Images
    from zsad.detector.thresholds import Calibration
    from zsad.images.preparing import Preparation
    from zsad.methods.base import Method

MOST_FOLDS = 100
"""Up to so many images are left out one by one; more are shared out to so many folds."""

NEAR_COPY_SHARE = 0.2
FEWEST_IMAGES = 3


@dataclass(frozen=True)
class Fitting:
    """What came of fitting a detector.

    Attributes:
        calibration: thresholds and what they promise.
        good: the good images, references and held-out ones.
        scores: (n,) score of each image without itself among the references; NaN for a reference that
            decides nothing because others are held out.
        outliers: numbers of the images that stand out, from the highest score on.
        near_copies: numbers of the images of each group of near-copies.
        failed: one line for each image that could not be used.
        copies: number of images left out because another image has the same content.
        dropped: images that were left out because they stand out.
        thumbnails: small JPEG files of the images that were read, by fingerprint.
    """

    calibration: Calibration
    good: GoodImages = field(repr=False)
    scores: tuple[float, ...] = field(repr=False)
    outliers: tuple[int, ...]
    near_copies: tuple[tuple[int, ...], ...]
    failed: tuple[str, ...]
    copies: int
    dropped: tuple[GoodImage, ...]
    thumbnails: dict[str, bytes] = field(repr=False)


@dataclass(frozen=True)
class _Scored:
    """Scores of good images, each without itself among the references.

    Attributes:
        scores: (n,) image scores; NaN for images that are not scored.
        heights: (n,) heights of the maps; NaN for images that are not scored.
        groups: group of near-copies of each image.
        together: largest number of groups that were left out together; 0 for held-out images.
    """

    scores: list[float]
    heights: list[float]
    groups: list[int]
    together: int

    @property
    def numbers(self) -> list[int]:
        """The images that are scored."""
        return [number for number, score in enumerate(self.scores) if not np.isnan(score)]

    def outliers(self) -> tuple[int, ...]:
        """The images that stand out, from the highest score on."""
        numbers = self.numbers
        apart = robust_z(log_odds([self.scores[number] for number in numbers]))
        found = [number for number, z in zip(numbers, apart, strict=True) if z >= OUTLIER]
        return tuple(sorted(found, key=lambda number: -self.scores[number]))


def fit(
    method: Method,
    preparation: Preparation,
    look: Look,
    settings_with: Callable[[GoodImages], dict[str, Any]],
    source: Images | None,
    options: FitOptions,
    earlier: GoodImages | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fitting:
    """Finds references and thresholds.

    Args:
        method: the system, with what it has learnt.
        preparation: how images become the network's input.
        look: reads an image; gives the whole, and the part that the detector looks at.
        settings_with: everything that the scores depend on once a detector has some good images.
        source: good images, given as to `Detector.set_references`; may be None with earlier ones.
        options: what the thresholds are to achieve.
        earlier: good images that the detector has been fitted to and that remain; None to begin.
        progress: called with the number of images done and the total.

    Raises:
        ConfigError: the method cannot score a single image, or `options.strict` and too few images.
        DataError: fewer than three different images, or equal scores.
    """
    name = options.class_name or DEFAULT_CLASS
    items = images_given(source)
    known = frozenset(image.fingerprint for image in earlier.images) if earlier else frozenset()
    failed: tuple[str, ...] = ()
    thumbnails: dict[str, bytes] = {}
    copies = 0
    if earlier is not None and not items:
        good = earlier
    else:
        new = encode(method, preparation, look, items, name, options.batch_size, known, progress)
        failed, thumbnails, copies = new.failed, new.thumbnails, new.copies
        good = new.good if earlier is None else joined([earlier, new.good])
    scored, good = _scored(method, good, options, name)
    outliers = scored.outliers()
    dropped: tuple[GoodImage, ...] = ()
    if outliers and options.drop_outliers:
        dropped = tuple(good.images[number] for number in outliers)
        scored, good = _scored(method, good.without(outliers), options, name)
        outliers = scored.outliers()
    uses_names = method.INFO.uses_class_names
    options = replace(options, class_name=name if uses_names else None)
    return Fitting(
        calibration=_calibration(scored, good, settings_with(good), options, failed, copies),
        good=good,
        scores=tuple(scored.scores),
        outliers=outliers,
        near_copies=_of_several(scored.groups),
        failed=failed,
        copies=copies,
        dropped=dropped,
        thumbnails=thumbnails,
    )


def _scored(
    method: Method, good: GoodImages, options: FitOptions, class_name: str
) -> tuple[_Scored, GoodImages]:
    """Scores good images, and the images with those marked that are held out."""
    groups = near_copies(good.unlikeness().numpy(), NEAR_COPY_SHARE)
    if len(set(groups)) < FEWEST_IMAGES:
        raise DataError(
            f"{len(set(groups))} different good images are too few to fit to: give at least {FEWEST_IMAGES}, "
            "better 20, each of another part"
        )
    left_out, together = folds(groups, MOST_FOLDS), -(-len(set(groups)) // MOST_FOLDS)
    good = good.with_held_out(())
    if options.split:
        held_out = folds(groups, 2)[1]  # every second image, near-copies on one side
        good, left_out, together = good.with_held_out(held_out), [held_out], 0
    scores, heights = ([float("nan")] * len(groups) for _ in range(2))
    for number, score, raw_map in scores_left_out(method, good, left_out, class_name):
        image = good.images[number]
        if not (np.isfinite(score) and bool(raw_map.isfinite().all())):
            raise DataError(f"{image.name}: the method gave values that are not finite (try precision fp32)")
        scores[number] = score
        heights[number] = map_height(
            upsample(raw_map, (image.height, image.width)).cpu().numpy(), options.tolerated_area
        )
    return _Scored(scores, heights, groups, together), good


def _calibration(
    scored: _Scored,
    good: GoodImages,
    settings: dict[str, Any],
    options: FitOptions,
    failed: Sequence[str],
    copies: int,
) -> Calibration:
    """The thresholds, from the highest score of each group of near-copies."""
    measured: dict[int, Measured] = {}
    for number in scored.numbers:
        image, group = good.images[number], scored.groups[number]
        one = Measured(image.name, False, scored.scores[number], scored.heights[number], image.fingerprint)
        twin = measured.get(group, one)
        measured[group] = replace(
            one, score=max(one.score, twin.score), map_height=max(one.map_height, twin.map_height)
        )
    measurement = Measurement(
        tuple(measured.values()),
        tuple(failed),
        copies,
        references=0,
        pixel_threshold=None,
        settings=settings,
        class_name=options.class_name,
    )
    calibration = choose_thresholds(measurement, options)
    names = [image.name for image in good.images]
    warnings = list(calibration.warnings)
    if outliers := scored.outliers():
        warnings.append(outlier_warning([names[number] for number in outliers], len(names)))
    if twins := _of_several(scored.groups):
        warnings.append(near_copy_warning([[names[number] for number in group] for group in twins]))
    return replace(
        calibration,
        warnings=tuple(warnings),
        left_out=scored.together,
        pictures=tuple(image.fingerprint for image in good.images),
    )


def _of_several(groups: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The images of each group of more than one."""
    found: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        found.setdefault(group, []).append(number)
    return tuple(tuple(numbers) for numbers in found.values() if len(numbers) > 1)

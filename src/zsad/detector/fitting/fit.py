"""Fits a detector to good images: they become its references, and their scores give its thresholds.

The score that a threshold rests on is computed without its own image among the references, since an image
that finds itself there looks far better than a new one. `zsad.detector.fitting.statistics` says what that
promises. Near-copies (frames of one part) are left out together and count as one image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from zsad.detector.calibration.choice import choose_thresholds
from zsad.detector.calibration.measurement import Measured, Measurement, map_height
from zsad.detector.comparison import Comparison
from zsad.detector.fitting.gathering import gathered
from zsad.detector.fitting.leaving_out import scores_left_out
from zsad.detector.fitting.statistics import OUTLIER, folds, log_odds, near_copies, robust_z
from zsad.detector.fitting.wording import near_copy_warning, outlier_warning
from zsad.errors import DataError
from zsad.methods.base import DEFAULT_CLASS
from zsad.methods.functional.maps import upsample

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from zsad.detector.fitting.good_images import GoodImage, GoodImages
    from zsad.detector.fitting.options import FitOptions
    from zsad.detector.support import Images
    from zsad.detector.thresholds import Calibration
    from zsad.images.looking import Looking
    from zsad.methods.base import Method

    Folds = Sequence[Sequence[int]]
    LeftOut = Callable[[GoodImages, Folds], Iterator[tuple[int, float, NDArray[np.float32]]]]

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
    looking: Looking,
    fingerprint: str,
    source: Images | None,
    options: FitOptions,
    earlier: GoodImages | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fitting:
    """Finds references and thresholds.

    Args:
        method: the system, with what it has learnt.
        looking: how images are read, cut and prepared.
        fingerprint: digest of the backbone's weights, for the calibration.
        source: good images, given as to `Detector.set_references`; may be None with earlier ones.
        options: what the thresholds are to achieve.
        earlier: good images that the detector has been fitted to and that remain; None to begin.
        progress: called with the number of images done and the total, and again whenever one has been scored
            without itself; what it raises ends the fit.

    Raises:
        ConfigError: the method cannot score a single image, `options.strict` and too few images, or
            references are to be turned although earlier ones are not.
        DataError: fewer than three different images, equal scores, or earlier images that have to be read
            again and are not there.
    """
    name = options.class_name or DEFAULT_CLASS
    new = gathered(method, looking, source, options, earlier, progress)
    good = new.good

    def left_out(good: GoodImages, folds: Folds) -> Iterator[tuple[int, float, NDArray[np.float32]]]:
        if good.tiles is not None:

            def read(number: int) -> Image.Image:
                return looking.read_part(new.items[good.images[number].fingerprint])

            found = _predicted_left_out(method, looking, good, folds, name, read)
        else:
            found = _enlarged(good, scores_left_out(method, good, folds, name))
        for one in found:
            if progress is not None:
                progress(len(good.images), len(good.images))
            yield one

    scored, good = _scored(good, options, left_out)
    outliers = scored.outliers()
    dropped: tuple[GoodImage, ...] = ()
    if outliers and options.drop_outliers:
        dropped = tuple(good.images[number] for number in outliers)
        scored, good = _scored(good.without(outliers), options, left_out)
        outliers = scored.outliers()
    uses_names = method.INFO.uses_class_names
    options = replace(options, class_name=name if uses_names else None)
    settings = Comparison.of_good(method, good).settings(looking, fingerprint)
    return Fitting(
        calibration=_calibration(scored, good, settings, options, new.failed, new.copies),
        good=good,
        scores=tuple(scored.scores),
        outliers=outliers,
        near_copies=_of_several(scored.groups),
        failed=new.failed,
        copies=new.copies,
        dropped=dropped,
        thumbnails=new.thumbnails,
    )


def _enlarged(
    good: GoodImages, scores: Iterator[tuple[int, float, Tensor]]
) -> Iterator[tuple[int, float, NDArray[np.float32]]]:
    """Scores with their maps at the size of the images."""
    for number, score, raw_map in scores:
        size = good.images[number].height, good.images[number].width
        yield number, score, upsample(raw_map, size).cpu().numpy()


def _predicted_left_out(
    method: Method,
    looking: Looking,
    good: GoodImages,
    left_out: Folds,
    class_name: str,
    read: Callable[[int], Image.Image],
) -> Iterator[tuple[int, float, NDArray[np.float32]]]:
    """What a detector without the images of a fold says of these, cut into tiles.

    Images are read a second time, because the tiles of all of them would not fit into memory.

    Args:
        method: the system, with what it has learnt.
        looking: how images are cut and prepared.
        good: the images; those that are held out are references of none.
        left_out: numbers of the images of each fold.
        class_name: name of what the images show.
        read: reads the part of an image, by its number, that the detector looks at.

    Yields:
        Number, score and (H, W) map of each image, fold by fold.
    """
    for fold in left_out:
        compared = Comparison.of_good(method, good.without(set(fold) | set(good.held_out)))
        for number in fold:
            (answer,) = compared.answers([read(number)], [class_name], looking)
            yield number, answer.score, answer.anomaly_map


def _scored(good: GoodImages, options: FitOptions, score: LeftOut) -> tuple[_Scored, GoodImages]:
    """Scores good images, and the images with those marked that are held out."""
    groups = near_copies(good.unlikeness().numpy(), NEAR_COPY_SHARE)
    if len(set(groups)) < FEWEST_IMAGES:
        raise DataError(
            f"too few different good images to fit to: got {len(set(groups))}, expected at least "
            f"{FEWEST_IMAGES}; give better 20, each of another part"
        )
    left_out, together = folds(groups, MOST_FOLDS), -(-len(set(groups)) // MOST_FOLDS)
    good = good.with_held_out(())
    if options.split:
        held_out = folds(groups, 2)[1]  # every second image, near-copies on one side
        good, left_out, together = good.with_held_out(held_out), [held_out], 0
    good = good.thinned()
    scores, heights = ([float("nan")] * len(groups) for _ in range(2))
    for number, value, found in score(good, left_out):
        image = good.images[number]
        if not (np.isfinite(value) and bool(np.isfinite(found).all())):
            raise DataError(f"{image.name}: the method gave values that are not finite (try precision fp32)")
        scores[number] = value
        heights[number] = map_height(found, options.tolerated_area)
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

"""Measures the images of a calibration: score, height of the map, and fingerprint of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zsad.detector.calibration.measurement import Measured, Measurement, map_height
from zsad.detector.calibration.statistics import best_f1
from zsad.detector.identity import image_fingerprint
from zsad.errors import DataError, ImageReadError, ZsadError, printable
from zsad.images.reading import read_image
from zsad.images.region import check_region
from zsad.images.scoring import score_batch
from zsad.metrics.sketch import PixelGroups, compress, group_pixels, join

if TYPE_CHECKING:
    from PIL import Image

    from zsad.detector.calibration.options import CalibrateOptions
    from zsad.detector.detector import Detector
    from zsad.detector.scorer import Scorer
    from zsad.types import Prediction

MOST_PIXEL_GROUPS = 20_000


@dataclass(frozen=True)
class Example:
    """An image to calibrate from.

    Attributes:
        image: image as `Detector.predict` takes it.
        is_anomalous: label of the image.
        mask: file or (H, W) array of the image's size that marks the anomalous pixels; None if unknown.
    """

    image: Any
    is_anomalous: bool = False
    mask: Any = None


def measure(
    detector: Detector,
    examples: Sequence[Example],
    options: CalibrateOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Scores the images of a calibration; one that fails does not stop the others.

    Args:
        detector: detector with the settings that it will be used with.
        examples: images with labels.
        options: class name, tolerated area and batch size are used here.
        progress: called with the number of images done and to do.

    Raises:
        ConfigError: the detector is not trained.
        DataError: an image is given as normal and as anomalous.
    """
    from zsad.methods.base import DEFAULT_CLASS

    class_name = options.class_name or DEFAULT_CLASS
    found = measure_scores(detector, examples, options, class_name, detector.reference_fingerprints, progress)
    return found if detector.method.INFO.uses_class_names else replace(found, class_name=None)


def measure_scores(
    scorer: Scorer,
    examples: Sequence[Example],
    options: CalibrateOptions,
    class_name: str | None,
    reference_fingerprints: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Scores the images of a calibration with whatever scores images.

    Args:
        scorer: what will be used, with its settings.
        examples: images with labels.
        options: tolerated area and batch size are used here.
        class_name: class name of the images; None where the scores do not depend on one.
        reference_fingerprints: images that are left out, because the scorer compares with them.
        progress: called with the number of images done and to do.

    Raises:
        DataError: an image is given as normal and as anomalous.
    """
    report = progress or (lambda done, total: None)
    pixels = _PixelPool()
    kept: dict[str, Measured] = {}
    failed: list[str] = []
    copies = references = done = 0
    report(0, len(examples))
    is_joint = scorer.scores_jointly
    step = max(1, len(examples)) if is_joint else options.batch_size
    for start in range(0, len(examples), step):
        batch = list(enumerate(examples[start : start + step], start=start + 1))
        for number, example, outcome in _outcomes(scorer, batch, class_name):
            done += 1
            if isinstance(outcome, str):
                failed.append(outcome)
                continue
            name = _name(example.image, number)
            fingerprint = image_fingerprint(outcome.image)
            twin = kept.get(fingerprint)
            if twin is not None and twin.is_anomalous != example.is_anomalous:
                raise DataError(f"{name} is given as normal and as anomalous (copy of {twin.name}): keep one")
            if twin is not None:
                copies += 1
            elif fingerprint in reference_fingerprints:
                references += 1
            else:
                try:
                    pixels.add(outcome, example, name)
                except ZsadError as error:
                    failed.append(f"{error}; the score of the image counts")
                inside = ... if outcome.roi is None else outcome.roi
                height = map_height(outcome.anomaly_map[inside], options.tolerated_area)
                kept[fingerprint] = Measured(
                    name, example.is_anomalous, float(outcome.score), height, fingerprint
                )
        report(done, len(examples))
    return Measurement(
        tuple(kept.values()),
        tuple(failed),
        copies,
        references,
        pixels.threshold(),
        scorer.scoring_settings(),
        class_name,
        is_joint,
    )


class _PixelPool:
    """Collects pixels of labelled images in bounded memory and finds the map value with the highest F1."""

    def __init__(self) -> None:
        self._groups: PixelGroups | None = None

    def add(self, prediction: Prediction, example: Example, name: str) -> None:
        """Adds the pixels of an image in the region of interest; one that is anomalous without a mask is not.

        Raises:
            DataError: the mask has another size than the image.
            ImageReadError: the mask cannot be read.
        """
        if example.is_anomalous and example.mask is None:
            return
        anomaly_map = prediction.anomaly_map
        mask = np.zeros(anomaly_map.shape, np.bool_) if not example.is_anomalous else _mask(example.mask)
        if mask.shape != anomaly_map.shape:
            raise DataError(f"{name}: the mask is {mask.shape} and the image {anomaly_map.shape} pixels")
        if example.is_anomalous and not mask.any():
            raise DataError(f"{name}: the mask marks nothing, but the image is anomalous; mark the defect")
        inside = np.ones_like(mask) if prediction.roi is None else prediction.roi
        marked, normal = (anomaly_map[inside & kind].astype(np.float64) for kind in (mask, ~mask))
        groups = group_pixels(marked, np.ones(marked.size), normal)
        both = groups if self._groups is None else join([self._groups, groups])
        self._groups = compress(both, MOST_PIXEL_GROUPS, 1.0)

    def threshold(self) -> float | None:
        """The map value with the highest F1; None without anomalous or normal pixels."""
        groups = self._groups
        if groups is None or not groups.anomalous.any() or not groups.normal.any():
            return None
        values = groups.low.astype(np.float64)
        counts = (groups.normal.astype(np.float64), groups.anomalous.astype(np.float64))
        cut = best_f1(values, values, counts).threshold
        return float(values[values >= cut].min())  # not half way to the next lower group, which has a width


def _outcomes(
    scorer: Scorer, batch: Sequence[tuple[int, Example]], class_name: str | None
) -> Iterator[tuple[int, Example, Prediction | str]]:
    """The prediction of each image, or a line that says why there is none."""
    images: dict[int, Image.Image] = {}
    outcomes: dict[int, Prediction | str] = {}
    for number, example in batch:
        try:
            image = read_image(example.image, bits=scorer.bits, for_tiles=scorer.tile is not None)
            check_region(image, scorer.roi, None)
            images[number] = image
        except ImageReadError as error:
            outcomes[number] = str(error)

    def predict(some: Sequence[Image.Image]) -> Sequence[Prediction]:
        return scorer.predict(list(some), classes=class_name, batch_size=len(some))

    predictions = score_batch(predict, list(images.values()), is_joint=scorer.scores_jointly)
    outcomes |= zip(images, predictions, strict=True)
    for number, example in batch:
        outcome = outcomes[number]
        name = _name(example.image, number)
        if isinstance(outcome, str):
            outcome = outcome if outcome.startswith(name) else f"{name}: {outcome}"
        elif not (np.isfinite(outcome.score) and np.isfinite(outcome.anomaly_map).all()):
            outcome = f"{name}: the method gave values that are not finite (try precision fp32)"
        yield number, example, outcome


def _mask(mask: Any) -> NDArray[np.bool_]:
    if isinstance(mask, str | Path):
        from zsad.data.masks import read_mask

        return read_mask(mask)
    array: NDArray[np.bool_] = np.asarray(mask) > 0
    return array


def _name(image: Any, number: int) -> str:
    return printable(image) if isinstance(image, str | Path) else f"image {number}"

"""AUROC, average precision and F1-max: exact, from one sort of each class.

All three follow from the numbers of normal values above and at each distinct *anomalous* value. Between two
such values only false positives change: the ROC curve is horizontal, recall stays and F1 falls. The normal
values are therefore sorted once (NumPy's vectorised sort of plain floats, no argsort) and looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.errors import DataError

EXACT_WHOLE = 2**53  # up to here float64 holds every whole number
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class RankedCounts:
    """Counts at every distinct value of the anomalous examples, in falling order.

    Attributes:
        thresholds: (T,) distinct anomalous values, in falling order.
        true_positives: (T,) int64, anomalous examples at or above the threshold.
        false_positives: (T,) int64, normal examples at or above the threshold.
        false_positives_above: (T,) int64, normal examples strictly above the threshold.
        positives: number of anomalous examples.
        negatives: number of normal examples.
    """

    thresholds: Floats
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    false_positives_above: NDArray[np.int64]
    positives: int
    negatives: int


def rank(anomalous: Floats, normal: Floats) -> RankedCounts:
    """Ranks two groups of values against each other.

    Args:
        anomalous: (P,) finite values of the anomalous examples, in any order.
        normal: (N,) finite values of the normal examples, in any order; rising order saves time.

    Returns:
        The counts from which every metric of this module follows.
    """
    normal = sorted_upwards(normal)
    values, counts = np.unique(anomalous, return_counts=True)
    values, counts = values[::-1], counts[::-1]
    return RankedCounts(
        thresholds=values,
        true_positives=np.cumsum(counts, dtype=np.int64),
        false_positives=normal.size - np.searchsorted(normal, values, side="left"),
        false_positives_above=normal.size - np.searchsorted(normal, values, side="right"),
        positives=anomalous.size,
        negatives=normal.size,
    )


def sorted_upwards(values: Floats) -> Floats:
    """Returns values in rising order; the array itself if it is sorted already."""
    in_order = bool(np.all(values[1:] >= values[:-1]))
    return values if in_order else np.sort(values)


def auroc(counts: RankedCounts) -> float:
    """Area under the ROC curve: the share of pairs in which the anomalous value is higher; ties count half.

    Returns:
        A fraction in [0, 1]; NaN if a class is missing.
    """
    if counts.positives == 0 or counts.negatives == 0:
        return float("nan")
    gained = np.diff(counts.true_positives, prepend=0).astype(np.float64)
    below = counts.negatives - (counts.false_positives + counts.false_positives_above) / 2
    return float(gained @ below / counts.positives / counts.negatives)


def average_precision(counts: RankedCounts) -> float:
    """Average precision: the sum of precision times gain in recall, without interpolation.

    Source: the definition of scikit-learn's `average_precision_score`, which all evaluation scripts call.

    Returns:
        A fraction in [0, 1]; NaN if a class is missing (with anomalous examples alone it would be 1 for any
        values).
    """
    if counts.positives == 0 or counts.negatives == 0:
        return float("nan")
    gained = np.diff(counts.true_positives, prepend=0)
    precision = counts.true_positives / (counts.true_positives + counts.false_positives)
    return float(gained @ precision / counts.positives)


def f1_max(counts: RankedCounts) -> float:
    """F1-max: the largest F1 = 2 TP / (2 TP + FP + FN) over all thresholds.

    Returns:
        A fraction in [0, 1]; NaN if a class is missing.
    """
    if counts.positives == 0 or counts.negatives == 0:
        return float("nan")
    predicted = counts.true_positives + counts.false_positives
    return float(np.max(2 * counts.true_positives / (predicted + counts.positives)))


def image_auroc(scores: Any, labels: Any) -> float:
    """AUROC of image scores.

    Args:
        scores: (N,) finite image scores; higher is more anomalous.
        labels: (N,) in {0, 1}, 1 for an anomalous image.

    Returns:
        A fraction in [0, 1]; NaN if a class is missing.

    Raises:
        DataError: shapes do not match, scores are NaN or infinite, or labels are not 0 or 1.
    """
    return auroc(rank(*split_scores(scores, labels)))


def image_ap(scores: Any, labels: Any) -> float:
    """Average precision of image scores.

    Args:
        scores: (N,) finite image scores; higher is more anomalous.
        labels: (N,) in {0, 1}, 1 for an anomalous image.

    Returns:
        A fraction in [0, 1]; NaN if a class is missing.

    Raises:
        DataError: shapes do not match, scores are NaN or infinite, or labels are not 0 or 1.
    """
    return average_precision(rank(*split_scores(scores, labels)))


def image_f1max(scores: Any, labels: Any) -> float:
    """F1-max of image scores.

    Args:
        scores: (N,) finite image scores; higher is more anomalous.
        labels: (N,) in {0, 1}, 1 for an anomalous image.

    Returns:
        A fraction in [0, 1]; NaN if a class is missing.

    Raises:
        DataError: shapes do not match, scores are NaN or infinite, or labels are not 0 or 1.
    """
    return f1_max(rank(*split_scores(scores, labels)))


def pixel_auroc(maps: Any, masks: Any) -> float:
    """AUROC over all pixels of all images together.

    Args:
        maps: (N, H, W) finite anomaly maps, or a sequence of (H, W) arrays whose sizes may differ.
        masks: masks of the shapes of the maps, values in {0, 1}, 1 where anomalous.

    Returns:
        A fraction in [0, 1]; NaN if a class is missing.

    Raises:
        DataError: shapes do not match, values are NaN or infinite, or masks have other values than 0 and 1.
    """
    return auroc(rank(*split_pixels(*check_maps(maps, masks))))


def pixel_ap(maps: Any, masks: Any) -> float:
    """Average precision over all pixels of all images together.

    Args:
        maps: (N, H, W) finite anomaly maps, or a sequence of (H, W) arrays whose sizes may differ.
        masks: masks of the shapes of the maps, values in {0, 1}, 1 where anomalous.

    Returns:
        A fraction in [0, 1]; NaN if a class is missing.

    Raises:
        DataError: shapes do not match, values are NaN or infinite, or masks have other values than 0 and 1.
    """
    return average_precision(rank(*split_pixels(*check_maps(maps, masks))))


def pixel_f1max(maps: Any, masks: Any) -> float:
    """F1-max over all pixels of all images together.

    Args:
        maps: (N, H, W) finite anomaly maps, or a sequence of (H, W) arrays whose sizes may differ.
        masks: masks of the shapes of the maps, values in {0, 1}, 1 where anomalous.

    Returns:
        A fraction in [0, 1]; NaN if a class is missing.

    Raises:
        DataError: shapes do not match, values are NaN or infinite, or masks have other values than 0 and 1.
    """
    return f1_max(rank(*split_pixels(*check_maps(maps, masks))))


def split_scores(scores: Any, labels: Any) -> tuple[Floats, Floats]:
    """Checks image scores and labels.

    Returns:
        Scores of the anomalous and of the normal images.

    Raises:
        DataError: shapes do not match, scores are NaN or infinite, or labels are not 0 or 1.
    """
    values = _floats(scores, "scores")
    truth = _binary(labels, "labels")
    if values.ndim != 1 or truth.shape != values.shape:
        raise DataError(
            f"scores and labels must both be of shape (N,), got {values.shape} and {truth.shape}; "
            "give one score and one label per image"
        )
    return values[truth], values[~truth]


def check_maps(maps: Any, masks: Any) -> tuple[list[Floats], list[NDArray[np.bool_]]]:
    """Checks anomaly maps and masks.

    Returns:
        A list of (H, W) floating-point maps and one of (H, W) bool masks.

    Raises:
        DataError: shapes do not match, values are NaN or infinite, or masks have other values than 0 and 1;
            the message names the image by its position.
    """
    checked_maps = [_floats(one, f"map {index}") for index, one in enumerate(_images(maps, "maps"))]
    checked_masks = [_binary(one, f"mask {index}") for index, one in enumerate(_images(masks, "masks"))]
    if len(checked_maps) != len(checked_masks):
        raise DataError(f"got {len(checked_maps)} maps and {len(checked_masks)} masks; give one mask per map")
    for index, (one, mask) in enumerate(zip(checked_maps, checked_masks, strict=True)):
        if one.ndim != 2 or one.shape != mask.shape:
            raise DataError(
                f"map {index} has shape {one.shape} and its mask {mask.shape}; both must be the same (H, W)"
            )
    return checked_maps, checked_masks


def split_pixels(maps: Sequence[Floats], masks: Sequence[NDArray[np.bool_]]) -> tuple[Floats, Floats]:
    """Pools the pixels of checked maps.

    Returns:
        Values of the anomalous pixels, image after image in row-major order, and values of the normal pixels
        in rising order.
    """
    if not maps:
        return np.empty(0), np.empty(0)
    anomalous = [one[mask] for one, mask in zip(maps, masks, strict=True)]
    normal = np.concatenate([one[~mask] for one, mask in zip(maps, masks, strict=True)])
    normal.sort()
    return np.concatenate(anomalous), normal


def _images(values: Any, what: str) -> Iterable[Any]:
    """Returns the images of a stack or a sequence."""
    if values is None or isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise DataError(f"{what} must be an (N, H, W) array or a list of (H, W) arrays, got {values!r:.60}")
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) != 3:
        raise DataError(f"{what} must have the shape (N, H, W), got {tuple(shape)}")
    images: Iterable[Any] = values
    return images


def _array(values: Any, what: str) -> NDArray[Any]:
    """Converts an array, a list or a tensor on any device to NumPy."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()  # NumPy has no bfloat16
        return np.asarray(values.numpy())
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{what} is not a rectangular array: {error}") from error
    if array.dtype.kind not in "buif":
        raise DataError(f"{what} must hold numbers, got {array.dtype}")
    return array


def _floats(values: Any, what: str) -> Floats:
    """Converts finite values to float32 or float64, whichever holds them exactly."""
    array = _array(values, what)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    elif array.dtype not in (np.float32, np.float64):
        _check_exact(array, what)
        array = array.astype(np.float64)
    if not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise DataError(f"{what} must be finite, but {count} of {array.size} values are NaN or infinite")
    return array


def _check_exact(array: NDArray[Any], what: str) -> None:
    """Refuses whole numbers that float64 would round, because different ones could become equal."""
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8:
        return
    large = (
        array[(array > EXACT_WHOLE) | (array < -EXACT_WHOLE)]
        if array.dtype.kind == "i"
        else (array[array > EXACT_WHOLE])
    )
    rounded = next((value for value in large.tolist() if int(float(value)) != value), None)
    if rounded is not None:
        raise DataError(
            f"{what} must be whole numbers of at most 2**53 or floating-point numbers, because "
            f"float64 rounds {rounded}; subtract a constant or divide"
        )


def _binary(values: Any, what: str) -> NDArray[np.bool_]:
    """Converts values in {0, 1} to bool."""
    array = _array(values, what)
    if array.dtype == np.bool_:
        return array
    truth: NDArray[np.bool_] = array == 1
    if not (truth | (array == 0)).all():
        other = array[~(truth | (array == 0))].flat[0]
        raise DataError(f"{what} must hold only 0 and 1, got {other}; pass `mask > 0` for masks of 0 and 255")
    return truth

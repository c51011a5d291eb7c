"""Image-level and pixel-level metrics: pure NumPy functions, and a suite for images in sequence."""

from __future__ import annotations

from typing import Any

from zsad.errors import DataError
from zsad.metrics.pro import ProVariant, aupro_of_pixels, check_pro, pixel_aupro, region_weights
from zsad.metrics.ranking import (
    auroc,
    average_precision,
    check_maps,
    f1_max,
    image_ap,
    image_auroc,
    image_f1max,
    pixel_ap,
    pixel_auroc,
    pixel_f1max,
    rank,
    split_pixels,
    split_scores,
)
from zsad.metrics.suite import MetricSuite

METRIC_NAMES = (
    "image_auroc",
    "image_ap",
    "image_f1max",
    "pixel_auroc",
    "pixel_ap",
    "pixel_f1max",
    "pixel_aupro",
)

__all__ = [
    "METRIC_NAMES",
    "MetricSuite",
    "evaluate",
    "image_ap",
    "image_auroc",
    "image_f1max",
    "pixel_ap",
    "pixel_aupro",
    "pixel_auroc",
    "pixel_f1max",
]


def evaluate(
    maps: Any,
    masks: Any,
    scores: Any,
    labels: Any,
    pro: ProVariant = "exact",
    *,
    fpr_limit: float = 0.3,
) -> dict[str, float]:
    """Computes all seven metrics of one category; the papers report their unweighted mean over categories.

    Args:
        maps: (N, H, W) finite anomaly maps, or a sequence of (H, W) arrays whose sizes may differ; None to
            leave out the pixel metrics.
        masks: masks of the shapes of the maps, values in {0, 1}; None for a set without masks.
        scores: (N,) finite image scores; None to leave out the image metrics.
        labels: (N,) in {0, 1}, 1 for an anomalous image; None if `scores` is None.
        pro: variant of AUPRO, "exact" or "script"; see `pixel_aupro`.
        fpr_limit: false-positive rate at which the PRO curve is cut, in (0, 1].

    Returns:
        Fractions in [0, 1] under the names of `METRIC_NAMES`; NaN where a metric is undefined because a class
        or the masks are missing.

    Raises:
        DataError: shapes or numbers of images do not match, values are NaN or infinite, or labels or masks
            have other values than 0 and 1.
        ConfigError: `pro` is unknown, or the limit is outside (0, 1].

    Example:
        >>> result = evaluate([[[0.1, 0.9]]], [[[0, 1]]], [0.9, 0.2, 0.4], [1, 0, 1])
        Traceback (most recent call last):
            ...
        zsad.errors.DataError: got 1 maps for 3 scores; give one map per image
        >>> result = evaluate([[[0.1, 0.9]], [[0.2, 0.3]]], [[[0, 1]], [[0, 0]]], [0.9, 0.2], [1, 0])
        >>> result["image_auroc"], result["pixel_aupro"]
        (1.0, 1.0)
    """
    check_pro(pro, fpr_limit)
    result = dict.fromkeys(METRIC_NAMES, float("nan"))
    if (scores is None) != (labels is None):
        raise DataError("scores and labels go together: give both, or None for both")
    if scores is not None:
        counts = rank(*split_scores(scores, labels))
        result.update(
            image_auroc=auroc(counts), image_ap=average_precision(counts), image_f1max=f1_max(counts)
        )
    if maps is not None and scores is not None and len(maps) != len(scores):
        raise DataError(f"got {len(maps)} maps for {len(scores)} scores; give one map per image")
    if maps is not None and masks is not None:
        checked_maps, checked_masks = check_maps(maps, masks)
        anomalous, normal = split_pixels(checked_maps, checked_masks)
        counts = rank(anomalous, normal)
        result.update(
            pixel_auroc=auroc(counts),
            pixel_ap=average_precision(counts),
            pixel_f1max=f1_max(counts),
            pixel_aupro=aupro_of_pixels(anomalous, region_weights(checked_masks), normal, pro, fpr_limit),
        )
    return result

"""Percentile bootstrap: how far the image metrics would move with other images of the same kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from zsad.metrics.ranking import Floats, RankedCounts, auroc, average_precision, f1_max, rank

IMAGE_METRICS: dict[str, Callable[[RankedCounts], float]] = {
    "image_auroc": auroc,
    "image_ap": average_precision,
    "image_f1max": f1_max,
}
LEVEL = 95.0  # per cent


def bootstrap_draws(
    anomalous: Floats, normal: Floats, draws: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Computes the image metrics of resampled images.

    Images are drawn with replacement within each class, because a resample of one class has no metrics.

    Args:
        anomalous: (P,) scores of the anomalous images.
        normal: (N,) scores of the normal images.
        draws: number of resamples.
        seed: seed of the random numbers.

    Returns:
        (draws,) values under the names of `IMAGE_METRICS`; NaN if a class is missing.
    """
    generator = np.random.default_rng(seed)
    found = {name: np.full(draws, np.nan) for name in IMAGE_METRICS}
    for number in range(draws):
        counts = rank(_resampled(anomalous, generator), _resampled(normal, generator))
        for name, metric in IMAGE_METRICS.items():
            found[name][number] = metric(counts)
    return found


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the 2.5th and 97.5th percentile, between which 95 % of values lie; NaN if any is NaN."""
    low, high = np.percentile(values, [50 - LEVEL / 2, 50 + LEVEL / 2])
    return float(low), float(high)


def _resampled(values: Floats, generator: np.random.Generator) -> Floats:
    """Draws as many values as there are, with replacement."""
    return values[generator.integers(0, values.size, values.size)] if values.size else values

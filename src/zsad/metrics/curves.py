"""Computes the curves behind the metrics, with as many points as a figure can show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from zsad.metrics.ranking import RankedCounts

CURVE_POINTS = 200


@dataclass(frozen=True)
class Curve:
    """Points of a curve from its first to its last.

    Attributes:
        x: (P,) abscissae in [0, 1].
        y: (P,) ordinates in [0, 1].
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]


def roc_curve(counts: RankedCounts) -> Curve | None:
    """Returns recall over the false-positive rate, from (0, 0) to (1, 1); None if a class is missing."""
    if counts.positives == 0 or counts.negatives == 0:
        return None
    found = counts.true_positives / counts.positives
    # The curve moves right by the normal examples strictly above an anomalous value before it rises.
    rates = np.stack([counts.false_positives_above, counts.false_positives], axis=1) / counts.negatives
    recalls = np.stack([np.concatenate([[0.0], found[:-1]]), found], axis=1)
    x = np.concatenate([[0.0], rates.ravel(), [1.0]])
    return Curve(x, np.concatenate([[0.0], recalls.ravel(), [1.0]]))


def precision_recall_curve(counts: RankedCounts) -> Curve | None:
    """Returns precision over recall; None if a class is missing.

    The curve starts at recall 0 with the precision of the first point. Between two anomalous values with only
    normal examples in between, precision falls while recall stays; these points are left out, because they
    are never the best ones at their recall.
    """
    if counts.positives == 0 or counts.negatives == 0:
        return None
    precision = counts.true_positives / (counts.true_positives + counts.false_positives)
    recall = counts.true_positives / counts.positives
    return Curve(np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision]))


def thinned(curve: Curve, points: int = CURVE_POINTS) -> Curve:
    """Picks points of a curve that are evenly spread along its length; both ends stay.

    Args:
        curve: curve with any number of points.
        points: largest number of points in the result, at least 2.

    Returns:
        The picked points, in their order.
    """
    if curve.x.size <= points:
        return curve
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(curve.x)) + np.abs(np.diff(curve.y)))])
    wanted: NDArray[Any] = np.searchsorted(length, np.linspace(0.0, length[-1], points))
    chosen = np.unique(np.concatenate([[0], wanted[1:-1], [curve.x.size - 1]]))
    return Curve(curve.x[chosen], curve.y[chosen])

"""The curves behind the metrics, thinned to what a figure can show."""

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
        x: (P,) in [0, 1].
        y: (P,) in [0, 1].
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]


def roc_curve(counts: RankedCounts) -> Curve | None:
    """Recall over the false-positive rate, from (0, 0) to (1, 1); None if a class is missing."""
    if counts.positives == 0 or counts.negatives == 0:
        return None
    found = counts.true_positives / counts.positives
    # Normal examples strictly above an anomalous value move the curve to the right before it rises.
    rates = np.stack([counts.false_positives_above, counts.false_positives], axis=1) / counts.negatives
    recalls = np.stack([np.concatenate([[0.0], found[:-1]]), found], axis=1)
    x = np.concatenate([[0.0], rates.ravel(), [1.0]])
    return Curve(x, np.concatenate([[0.0], recalls.ravel(), [1.0]]))


def precision_recall_curve(counts: RankedCounts) -> Curve | None:
    """Precision over recall, from recall 0 (at the precision of the first point); None if a class is missing.

    Where only normal examples lie between two anomalous values, precision falls at one recall; those points
    are left out, as they never are the best at their recall.
    """
    if counts.positives == 0 or counts.negatives == 0:
        return None
    precision = counts.true_positives / (counts.true_positives + counts.false_positives)
    recall = counts.true_positives / counts.positives
    return Curve(np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision]))


def thinned(curve: Curve, points: int = CURVE_POINTS) -> Curve:
    """At most so many points of a curve, evenly spread along its length; the ends always stay.

    Args:
        curve: any number of points.
        points: at least 2.

    Returns:
        Points of the curve in their order.
    """
    if curve.x.size <= points:
        return curve
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(curve.x)) + np.abs(np.diff(curve.y)))])
    wanted: NDArray[Any] = np.searchsorted(length, np.linspace(0.0, length[-1], points))
    chosen = np.unique(np.concatenate([[0], wanted[1:-1], [curve.x.size - 1]]))
    return Curve(curve.x[chosen], curve.y[chosen])

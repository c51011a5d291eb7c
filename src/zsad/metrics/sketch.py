"""Summarises the pixels of any number of images in bounded memory, with bounds of the resulting error.

A `PixelGroups` holds, for intervals of map values, the numbers of normal and anomalous pixels in each and the
contribution of the anomalous ones to PRO. It starts exact, with one group per distinct value; `compress`
joins neighbours. Only the order of the pixels inside an interval is lost. The effect of this loss is bounded:
AUROC, F1-max and AUPRO never fall when an anomalous pixel moves up or a normal one moves down. Each of them
therefore has a lower bound, with every anomalous pixel at the lower end of its interval and every normal one
at the upper end, and an upper bound, with the ends exchanged. Average precision is bounded pixel by pixel.
Half the distance between the bounds limits the error for any data.

Neighbours are joined where it matters least. Cells are equal steps of a coordinate that rises, from the
highest value down, with the recall, the PRO, the false-positive rate, the same rate up to the PRO limit, and
the logarithm of the rank, because precision at the top of the ranking depends on single pixels. A value whose
pixels fill a cell of their own (a tie, a saturated map) stays alone and exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.metrics.pro import area_up_to, exact_corners, script_area, script_thresholds
from zsad.metrics.ranking import Floats, RankedCounts, auroc, f1_max

Counts = NDArray[np.int64]
Weights = NDArray[np.float64]
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro")


@dataclass(frozen=True)
class PixelGroups:
    """Groups of pixels in rising order of `high`; the intervals may overlap.

    Attributes:
        low: (G,) lower ends of the intervals of map values, which are values that occurred.
        high: (G,) upper ends of the intervals; equal to `low` for a group of one value.
        anomalous: (G,) number of anomalous pixels in each interval.
        overlap: (G,) sum of 1 / (area of the pixel's region) over the anomalous pixels in each interval.
        normal: (G,) number of normal pixels in each interval.
    """

    low: Floats
    high: Floats
    anomalous: Counts
    overlap: Weights
    normal: Counts


def group_pixels(anomalous: Floats, overlap: Weights, normal: Floats) -> PixelGroups:
    """Makes one group per distinct value and class.

    Args:
        anomalous: (P,) values of the anomalous pixels.
        overlap: (P,) 1 / (area of the pixel's region) for each of them.
        normal: (N,) values of the normal pixels.

    Returns:
        The exact groups.
    """
    order = np.argsort(anomalous)
    values, first, counts = np.unique(anomalous[order], return_index=True, return_counts=True)
    gained = _run_sums(overlap[order], first)
    of_anomalous = PixelGroups(values, values, counts, gained, np.zeros_like(counts))
    values, counts = np.unique(normal, return_counts=True)
    of_normal = PixelGroups(values, values, np.zeros_like(counts), np.zeros(counts.size), counts)
    return join([of_anomalous, of_normal])


def join(parts: Sequence[PixelGroups]) -> PixelGroups:
    """Merges the groups of several parts, in order and without loss; groups of one interval are added."""
    high = np.concatenate([part.high for part in parts])
    order = np.argsort(high, kind="stable")  # this sort is fast because each part is in order already
    high = high[order]
    low = np.concatenate([part.low for part in parts])[order]
    starts = np.ones(high.size, dtype=np.bool_)
    starts[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    anomalous = np.concatenate([part.anomalous for part in parts])[order]
    overlap = np.concatenate([part.overlap for part in parts])[order]
    normal = np.concatenate([part.normal for part in parts])[order]
    return _fused(PixelGroups(low, high, anomalous, overlap, normal), starts)


def compress(groups: PixelGroups, bins: int, fpr_limit: float) -> PixelGroups:
    """Joins neighbouring groups until about `bins` are left.

    Args:
        groups: groups to compress; returned unchanged if there are no more than `bins`.
        bins: number of cells of the coordinate that the docstring of this module describes.
        fpr_limit: false-positive rate up to which AUPRO is computed.

    Returns:
        At most 2 `bins` groups, because a cell may hold a value that stays alone beside others.
    """
    if groups.high.size <= bins:
        return groups
    upto = _coordinate(groups, fpr_limit)
    upto *= bins / upto[0]  # falling: the coordinate of a group includes all groups above it
    above = np.append(upto[1:], 0.0)
    alone = (upto - above >= 1) & (groups.low == groups.high)
    cell = above.astype(np.int64)
    starts = np.ones(cell.size, dtype=np.bool_)
    starts[1:] = (cell[1:] != cell[:-1]) | alone[1:] | alone[:-1]
    return _fused(groups, starts)


def _coordinate(groups: PixelGroups, fpr_limit: float) -> Weights:
    """Returns the (G,) falling coordinate along which cells are equal; see the docstring of this module."""
    normal = _from_the_top(groups.normal).astype(np.float64)
    rank = _from_the_top(groups.anomalous).astype(np.float64)
    coordinate: Weights = rank / max(rank[0], 1.0)
    rank += normal
    normal /= max(normal[0], 1.0)
    coordinate += normal
    coordinate += np.minimum(normal / fpr_limit, 1.0)
    coordinate += 2 * np.log1p(rank) / np.log1p(rank[0])
    overlap = _from_the_top(groups.overlap)
    coordinate += overlap / overlap[0] if overlap[0] > 0 else 0.0
    return coordinate


def _from_the_top(counts: NDArray[Any]) -> NDArray[Any]:
    """Returns the cumulative sums from the last element back to each."""
    return np.cumsum(counts[::-1])[::-1]


def _fused(groups: PixelGroups, starts: NDArray[np.bool_]) -> PixelGroups:
    """Fuses every run of groups, from one True in `starts` up to the next, into one group."""
    first = np.flatnonzero(starts)
    if first.size == starts.size:
        return groups
    last = np.append(first[1:], starts.size) - 1
    return PixelGroups(
        low=np.minimum.reduceat(groups.low, first),
        high=groups.high[last],
        anomalous=np.add.reduceat(groups.anomalous, first),
        overlap=np.add.reduceat(groups.overlap, first),
        normal=np.add.reduceat(groups.normal, first),
    )


def pixel_metrics(groups: PixelGroups, fpr_limit: float) -> dict[str, tuple[float, float]]:
    """Computes lower and upper bounds of the pixel metrics, equal while every group holds one value.

    Args:
        groups: groups in rising order, as `join` returns them.
        fpr_limit: false-positive rate at which the PRO curve is cut.

    Returns:
        (low, high) under `pixel_auroc`, `pixel_ap`, `pixel_f1max` and `pixel_aupro` (the "exact" variant);
        NaN if a class is missing.
    """
    worst = _placed_metrics(groups, groups.low, groups.high, fpr_limit)
    best = _placed_metrics(groups, groups.high, groups.low, fpr_limit)
    result = {name: (low, best[name]) for name, low in worst.items()}
    result["pixel_ap"] = _average_precision_bounds(groups)
    # Rounding may separate the two bounds of an exact value by an ulp, in either order.
    return {name: (min(result[name]), max(result[name])) for name in PIXEL_METRICS}


def _average_precision_bounds(groups: PixelGroups) -> tuple[float, float]:
    """Bounds the average precision by bounding the precision at the value of each anomalous pixel.

    Shifting all pixels would not give bounds here, because average precision may fall when an anomalous pixel
    rises out of a tie with another one.
    """
    here = groups.anomalous > 0
    low, high, amounts = groups.low[here], groups.high[here], groups.anomalous[here]
    positives = int(amounts.sum())
    if positives == 0 or not groups.normal.any():
        return float("nan"), float("nan")
    # Pixels that surely, and that possibly, lie at or above a pixel whose value is between low and high.
    surely_found = np.maximum(
        _at_or_above(groups.low, groups.anomalous, high), 1
    )  # at least the pixel itself
    possibly_found = _at_or_above(groups.high, groups.anomalous, low)
    surely_false = _at_or_above(groups.low, groups.normal, high)
    possibly_false = _at_or_above(groups.high, groups.normal, low)
    worst = amounts @ (surely_found / (surely_found + possibly_false)) / positives
    best = amounts @ (possibly_found / (possibly_found + surely_false)) / positives
    return float(worst), float(best)


def _at_or_above(values: Floats, amounts: Counts, thresholds: Floats) -> Counts:
    """Returns the (T,) total amounts at or above each threshold."""
    values, before = _cumulative(values, amounts)
    total: Counts = before[-1] - before[np.searchsorted(values, thresholds, side="left")]
    return total


def placed_counts(
    groups: PixelGroups, anomalous_at: Floats, normal_at: Floats
) -> tuple[RankedCounts, Weights]:
    """Counts as if all pixels of one class and group had the same value.

    Args:
        groups: groups in rising order, as `join` returns them.
        anomalous_at: (G,) value to give to the anomalous pixels of each group.
        normal_at: (G,) value to give to the normal pixels of each group.

    Returns:
        The counts, and the (T,) PRO at each of their thresholds; empty if there is no anomalous pixel.
    """
    here = groups.anomalous > 0
    order = np.argsort(anomalous_at[here], kind="stable")
    values, first = np.unique(anomalous_at[here][order], return_index=True)
    values = values[::-1]
    normal, below = _cumulative(normal_at, groups.normal)
    negatives = int(below[-1])
    gained = _run_sums(groups.anomalous[here][order], first)
    counts = RankedCounts(
        thresholds=values,
        true_positives=np.cumsum(gained[::-1]),
        false_positives=negatives - below[np.searchsorted(normal, values, side="left")],
        false_positives_above=negatives - below[np.searchsorted(normal, values, side="right")],
        positives=int(gained.sum()),
        negatives=negatives,
    )
    overlap = np.cumsum(_run_sums(groups.overlap[here][order], first)[::-1])
    return counts, overlap / overlap[-1] if overlap.size else overlap


def pro_corners(counts: RankedCounts, overlap: Weights) -> tuple[Weights, Weights]:
    """Returns the corners of the PRO curve from `placed_counts` with both classes; see `exact_corners`."""
    above, at_or_above = counts.false_positives_above, counts.false_positives
    return exact_corners(above / counts.negatives, at_or_above / counts.negatives, overlap)


def _placed_metrics(
    groups: PixelGroups, anomalous_at: Floats, normal_at: Floats, fpr_limit: float
) -> dict[str, float]:
    """Computes AUROC, F1-max and AUPRO as if all pixels of one class and group had the same value."""
    counts, overlap = placed_counts(groups, anomalous_at, normal_at)
    aupro = float("nan")
    if counts.positives and counts.negatives:
        aupro = area_up_to(*pro_corners(counts, overlap), fpr_limit) / fpr_limit
    return {
        "pixel_auroc": auroc(counts),
        "pixel_f1max": f1_max(counts),
        "pixel_aupro": aupro,
    }


def script_aupro(groups: PixelGroups, fpr_limit: float) -> float:
    """Estimates the AUPRO of the scripts; each point of its curve is halfway between the bounds of the point.

    The scripts rescale the rates by the rates of the points that they keep, so their area is neither monotone
    nor continuous in the maps and has no bounds of that kind. Its error is no larger than that of its points,
    unless a point lies within rounding of the limit.

    Args:
        groups: groups in rising order, as `join` returns them.
        fpr_limit: only points with a false-positive rate strictly below it count.

    Returns:
        A fraction in [0, 1], or NaN where `zsad.metrics.pixel_aupro` gives NaN.
    """
    if not groups.anomalous.any() or not groups.normal.any():
        return float("nan")
    # Group ends are values that occurred, so the range of the maps is known exactly.
    thresholds = script_thresholds(groups.low.min(), groups.high[-1])
    rates, overlaps = np.zeros(thresholds.size), np.zeros(thresholds.size)
    for place in (groups.low, groups.high):
        values, below = _cumulative(place, groups.normal)
        rates += (1 - below[np.searchsorted(values, thresholds, side="right")] / below[-1]) / 2
        values, covered = _cumulative(place, groups.overlap)
        overlaps += (1 - covered[np.searchsorted(values, thresholds, side="right")] / covered[-1]) / 2
    return script_area(rates, overlaps, fpr_limit)


def _cumulative(values: Floats, amounts: NDArray[Any]) -> tuple[Floats, NDArray[Any]]:
    """Returns the values with an amount, in rising order, and the total before each (one element longer)."""
    here = amounts > 0
    order = np.argsort(values[here], kind="stable")
    return values[here][order], np.concatenate([amounts[:0], [0], np.cumsum(amounts[here][order])])


def _run_sums(values: NDArray[Any], first: NDArray[np.intp]) -> NDArray[Any]:
    """Sums the runs that start at the given positions; empty for no runs."""
    return np.add.reduceat(values, first) if first.size else values[:0]

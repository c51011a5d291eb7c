"""Pixels of any number of images in bounded memory: groups of neighbouring map values, with a certificate.

A `PixelGroups` holds, for intervals of map values, how many normal and anomalous pixels lie in each and what
the anomalous ones add to PRO. It starts exact (one group per distinct value); `compress` joins neighbours.
Nothing else is lost than the order of the pixels inside one interval, and this loss can be stated exactly.
AUROC, F1-max and AUPRO never fall when an anomalous pixel moves up or a normal one down. So placing every
anomalous pixel at the lower end of its interval and every normal one at the upper end gives a lower bound
of each, the reverse an upper bound; average precision is bounded pixel by pixel. Half the distance of the
bounds is a limit of the error, whatever the data.

Neighbours are joined where it matters least: cells are equal steps of a coordinate that rises from the
highest value down by the recall, the PRO, the false-positive rate, the same rate up to the PRO limit, and the
logarithm of the rank (precision at the top of the ranking depends on single pixels). A value whose pixels
fill a cell of their own (a tie, a saturated map) stays alone and exact.
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
        low: (G,) lower ends of the intervals of map values, themselves values that occurred.
        high: (G,) upper ends; equal to `low` for a group of one value.
        anomalous: (G,) number of anomalous pixels.
        overlap: (G,) sum of 1 / (area of its region) over the anomalous pixels.
        normal: (G,) number of normal pixels.
    """

    low: Floats
    high: Floats
    anomalous: Counts
    overlap: Weights
    normal: Counts


def group_pixels(anomalous: Floats, overlap: Weights, normal: Floats) -> PixelGroups:
    """One group per distinct value and class.

    Args:
        anomalous: (P,) values of the anomalous pixels.
        overlap: (P,) 1 / (area of its region) of each.
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
    """All groups of several parts in order; groups of the same interval become one, nothing is lost."""
    high = np.concatenate([part.high for part in parts])
    order = np.argsort(high, kind="stable")  # the parts are in order already, which this sort exploits
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
        groups: what to compress; returned as it is if it has no more than `bins` groups.
        bins: number of cells of the coordinate that the module's docstring describes.
        fpr_limit: up to where the false-positive rate matters to AUPRO.

    Returns:
        At most 2 `bins` groups (a cell may hold one value that stays alone and others).
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
    """(G,) the falling coordinate along which cells are equal; see the module's docstring."""
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
    """Cumulative sums from the last element back to each."""
    return np.cumsum(counts[::-1])[::-1]


def _fused(groups: PixelGroups, starts: NDArray[np.bool_]) -> PixelGroups:
    """Every run of groups from one True in `starts` up to the next becomes one group."""
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
    """Lower and upper bounds of the pixel metrics; they are equal while every group holds one value.

    Args:
        groups: as from `join`.
        fpr_limit: where the PRO curve is cut.

    Returns:
        (low, high) under `pixel_auroc`, `pixel_ap`, `pixel_f1max`, `pixel_aupro` (the "exact" variant); NaN
        where a class is missing.
    """
    worst = _placed_metrics(groups, groups.low, groups.high, fpr_limit)
    best = _placed_metrics(groups, groups.high, groups.low, fpr_limit)
    result = {name: (low, best[name]) for name, low in worst.items()}
    result["pixel_ap"] = _average_precision_bounds(groups)
    # Rounding may leave the two of an exact value an ulp apart, in either order.
    return {name: (min(result[name]), max(result[name])) for name in PIXEL_METRICS}


def _average_precision_bounds(groups: PixelGroups) -> tuple[float, float]:
    """Bounds of the average precision, from those of the precision at each anomalous pixel's value.

    Shifting all pixels does not do here: average precision may fall when an anomalous pixel rises out of a
    tie with another one.
    """
    here = groups.anomalous > 0
    low, high, amounts = groups.low[here], groups.high[here], groups.anomalous[here]
    positives = int(amounts.sum())
    if positives == 0 or not groups.normal.any():
        return float("nan"), float("nan")
    # Whatever the pixel's value between low and high: what surely, and what possibly, lies at or above it.
    surely_found = np.maximum(_at_or_above(groups.low, groups.anomalous, high), 1)  # itself at least
    possibly_found = _at_or_above(groups.high, groups.anomalous, low)
    surely_false = _at_or_above(groups.low, groups.normal, high)
    possibly_false = _at_or_above(groups.high, groups.normal, low)
    worst = amounts @ (surely_found / (surely_found + possibly_false)) / positives
    best = amounts @ (possibly_found / (possibly_found + surely_false)) / positives
    return float(worst), float(best)


def _at_or_above(values: Floats, amounts: Counts, thresholds: Floats) -> Counts:
    """(T,) the total amount at or above each threshold."""
    values, before = _cumulative(values, amounts)
    total: Counts = before[-1] - before[np.searchsorted(values, thresholds, side="left")]
    return total


def placed_counts(
    groups: PixelGroups, anomalous_at: Floats, normal_at: Floats
) -> tuple[RankedCounts, Weights]:
    """The counts if all pixels of one class and group had one value.

    Args:
        groups: as from `join`.
        anomalous_at: (G,) where to place the anomalous pixels of each group.
        normal_at: (G,) where to place the normal ones.

    Returns:
        The counts, and (T,) PRO at each of their thresholds (empty if there is no anomalous pixel).
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
    """The corners of the PRO curve from `placed_counts` with both classes; see `exact_corners`."""
    above, at_or_above = counts.false_positives_above, counts.false_positives
    return exact_corners(above / counts.negatives, at_or_above / counts.negatives, overlap)


def _placed_metrics(
    groups: PixelGroups, anomalous_at: Floats, normal_at: Floats, fpr_limit: float
) -> dict[str, float]:
    """AUROC, F1-max and AUPRO if all pixels of one class and group had one value."""
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
    """The scripts' AUPRO, each point of its curve halfway between the point's bounds.

    The scripts rescale the rates by those of the points that they keep, so their area is neither monotone
    nor continuous in the maps and has no such bounds; where no point lies within the rounding of the limit,
    it errs no more than its points do.

    Args:
        groups: as from `join`.
        fpr_limit: only points with a rate strictly below it count.

    Returns:
        A fraction in [0, 1]; NaN as `zsad.metrics.pixel_aupro` says.
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
    """The values that have an amount, in rising order, and (one longer) the total before each."""
    here = amounts > 0
    order = np.argsort(values[here], kind="stable")
    return values[here][order], np.concatenate([amounts[:0], [0], np.cumsum(amounts[here][order])])


def _run_sums(values: NDArray[Any], first: NDArray[np.intp]) -> NDArray[Any]:
    """Sums of the runs that start at the given positions; empty for no runs."""
    return np.add.reduceat(values, first) if first.size else values[:0]

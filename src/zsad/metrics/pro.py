"""AUPRO, the area under the per-region overlap curve: exact, and as the authors' scripts compute it.

PRO at a threshold is the fraction of a connected anomalous region (8-connectivity) that the prediction
covers, averaged over the regions of all images. It is plotted over the false-positive rate of all normal
pixels. Each anomalous pixel of a region of area A out of K regions adds 1 / (A K), so the whole curve is a
cumulative sum.

The regions are found by a run-based labelling of a few vectorised lines, so that the metrics need NumPy only.
SciPy's `ndimage.label` gives the same labels.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zsad.errors import ConfigError, unknown_name
from zsad.metrics.ranking import Floats, check_maps, split_pixels

ProVariant = Literal["exact", "script"]
SCRIPT_STEPS = 200


def pixel_aupro(maps: Any, masks: Any, pro: ProVariant = "exact", fpr_limit: float = 0.3) -> float:
    """Computes the area under the PRO curve up to a false-positive rate.

    Args:
        maps: (N, H, W) finite anomaly maps, or a sequence of (H, W) arrays whose sizes may differ.
        masks: masks of the shapes of the maps, values in {0, 1}, 1 where anomalous.
        pro: "exact" integrates the true curve (every distinct map value, `map >= threshold`, from (0, 0),
            linear between points, cut at the limit) and divides by the limit, as the MVTec AD evaluation
            defines it; "script" does what the scripts behind most published numbers do: 200 uniform
            thresholds from the smallest to the largest map value, `map > threshold`, points with a rate
            strictly below the limit, their rates rescaled to [0, 1] by their own minimum and maximum.
        fpr_limit: false-positive rate at which the curve is cut, in (0, 1].

    Returns:
        A fraction in [0, 1]; NaN if there is no anomalous or no normal pixel. "script" also gives NaN if
        fewer than two different rates remain, as for a constant map.

    Raises:
        DataError: shapes do not match, values are NaN or infinite, or masks have other values than 0 and 1.
        ConfigError: the variant is unknown, or the limit is outside (0, 1].
    """
    check_pro(pro, fpr_limit)
    checked_maps, checked_masks = check_maps(maps, masks)
    anomalous, normal = split_pixels(checked_maps, checked_masks)
    return aupro_of_pixels(anomalous, region_weights(checked_masks), normal, pro, fpr_limit)


def check_pro(pro: str, fpr_limit: float) -> None:
    """Refuses unknown variants and impossible limits.

    Raises:
        ConfigError: the variant is unknown, or the limit is outside (0, 1].
    """
    if pro not in ("exact", "script"):
        raise unknown_name("pro variant", str(pro), ["exact", "script"])
    is_number = isinstance(fpr_limit, numbers.Real) and not isinstance(fpr_limit, bool)
    if not is_number or not 0 < fpr_limit <= 1:
        raise ConfigError(f"the false-positive rate limit of AUPRO must lie in (0, 1], got {fpr_limit!r}")


def aupro_of_pixels(
    anomalous: Floats, weights: NDArray[np.float64], normal: Floats, pro: ProVariant, fpr_limit: float
) -> float:
    """Computes AUPRO of pooled pixels.

    Args:
        anomalous: (P,) map values of the anomalous pixels.
        weights: (P,) contribution of each anomalous pixel to PRO, summing to 1 (`region_weights`).
        normal: (N,) map values of the normal pixels, in rising order.
        pro: variant, "exact" or "script"; see `pixel_aupro`.
        fpr_limit: false-positive rate at which the curve is cut, in (0, 1].

    Returns:
        A fraction in [0, 1], or NaN where `pixel_aupro` gives NaN.
    """
    if anomalous.size == 0 or normal.size == 0:
        return float("nan")
    if pro == "exact":
        rates, overlaps = pro_curve(anomalous, weights, normal)
        return area_up_to(rates, overlaps, fpr_limit) / fpr_limit
    order = np.argsort(anomalous)
    return _script_area(anomalous[order], weights[order], normal, fpr_limit)


def pro_curve(
    anomalous: Floats, weights: NDArray[np.float64], normal: Floats
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the corners of the exact PRO curve of pooled pixels.

    Args:
        anomalous: (P,) map values of the anomalous pixels, at least one.
        weights: (P,) contribution of each anomalous pixel to PRO.
        normal: (N,) map values of the normal pixels, in rising order, at least one.

    Returns:
        False-positive rates and overlaps, (2 T + 2,) each for T distinct anomalous values.
    """
    order = np.argsort(anomalous)
    values, first = np.unique(anomalous[order], return_index=True)
    overlap = np.cumsum(np.add.reduceat(weights[order], first)[::-1])  # PRO at each value, from the top
    values = values[::-1]
    above = (normal.size - np.searchsorted(normal, values, side="right")) / normal.size
    at_or_above = (normal.size - np.searchsorted(normal, values, side="left")) / normal.size
    return exact_corners(above, at_or_above, overlap)


def exact_corners(
    above: NDArray[np.float64], at_or_above: NDArray[np.float64], overlap: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the corners of the PRO curve from (0, 0) to (1, 1).

    Thresholds at values of normal pixels only move the curve along a horizontal line. Its two ends are the
    corners at the neighbouring anomalous values, so these suffice.

    Args:
        above: (T,) false-positive rate of `map > value` at each distinct anomalous value, in falling order.
        at_or_above: (T,) false-positive rate of `map >= value`.
        overlap: (T,) PRO of `map >= value`.

    Returns:
        Rates and overlaps, (2 T + 2,) each.
    """
    before = np.concatenate([[0.0], overlap[:-1]])
    rates = np.concatenate([[0.0], np.stack([above, at_or_above], axis=1).ravel(), [1.0]])
    overlaps = np.concatenate([[0.0], np.stack([before, overlap], axis=1).ravel(), [1.0]])
    return rates, overlaps


def _script_area(anomalous: Floats, weights: NDArray[np.float64], normal: Floats, fpr_limit: float) -> float:
    """Computes the area of the scripts, from sorted anomalous pixels with weights and sorted normal ones."""
    thresholds = script_thresholds(min(anomalous[0], normal[0]), max(anomalous[-1], normal[-1]))
    rates = (normal.size - np.searchsorted(normal, thresholds, side="right")) / normal.size
    covered_from = np.concatenate([np.cumsum(weights[::-1])[::-1], [0.0]])
    overlaps = covered_from[np.searchsorted(anomalous, thresholds, side="right")]
    return script_area(rates, overlaps, fpr_limit)


def script_thresholds(low: np.floating[Any], high: np.floating[Any]) -> Floats:
    """Returns the thresholds of the scripts for `map > threshold`, in rising order.

    Args:
        low: smallest value of all maps, in the type of the maps.
        high: largest value of all maps, in the type of the maps.

    Returns:
        (about 200,) in the type of the maps; empty if all maps hold the same value.
    """
    if low == high:
        return np.empty(0, dtype=low.dtype)
    # NumPy's `arange` of float32 limits rounds the step to float32 and makes a float64 grid, which the
    # scripts compare with the maps in float64. Matching that moves the result in the fifth decimal.
    with np.errstate(over="ignore", under="ignore"):
        step = float((high - low) / low.dtype.type(SCRIPT_STEPS))
    if 0 < step < np.inf:
        return _rounded_down(np.arange(float(low), float(high), step), low.dtype)
    # The scripts fail here: in the type of the maps, the range is infinite or the step is zero. The same 200
    # thresholds as shares of the two ends need neither.
    shares = np.arange(SCRIPT_STEPS) / SCRIPT_STEPS
    return _rounded_down(float(low) * (1 - shares) + float(high) * shares, low.dtype)


def script_area(rates: NDArray[np.float64], overlaps: NDArray[np.float64], fpr_limit: float) -> float:
    """Computes the area of the scripts from points at their thresholds; NaN if under two rates remain."""
    kept = rates < fpr_limit
    rates, overlaps = rates[kept], overlaps[kept]
    if rates.size < 2 or rates[0] == rates[-1]:
        return float("nan")
    rates = (rates - rates.min()) / (rates.max() - rates.min())
    return _trapezoid(rates[::-1], overlaps[::-1])


def _rounded_down(grid: NDArray[np.float64], dtype: np.dtype[Any]) -> Floats:
    """Rounds a grid down to values of a type, so that `map > value` gives the same result."""
    rounded: Floats = grid.astype(dtype)
    return np.where(rounded > grid, np.nextafter(rounded, dtype.type(-np.inf)), rounded)


def area_up_to(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> float:
    """Computes the area under a polyline with rising x, from 0 to the limit."""
    inside = int(np.searchsorted(x, limit, side="right"))
    if inside == x.size:
        return _trapezoid(x, y)
    share = (limit - x[inside - 1]) / (x[inside] - x[inside - 1])
    at_limit = y[inside - 1] + share * (y[inside] - y[inside - 1])
    return _trapezoid(np.append(x[:inside], limit), np.append(y[:inside], at_limit))


def _trapezoid(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.diff(x) @ (y[1:] + y[:-1]) / 2)


def region_weights(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """Returns the contribution of each anomalous pixel to PRO: 1 / (area of its region x number of regions).

    Args:
        masks: (H, W) bool arrays, True where anomalous.

    Returns:
        (P,) one weight per anomalous pixel, image after image in row-major order; they sum to 1.
    """
    per_image = []
    regions = 0
    for mask in masks:
        labels, count = label_regions(mask)
        of_pixels = labels[mask]
        areas = np.bincount(of_pixels, minlength=count + 1)
        per_image.append(1.0 / areas[of_pixels])
        regions += count
    return np.concatenate(per_image) / regions if regions else np.empty(0)


def label_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Numbers the connected regions of a mask, diagonal neighbours included (8-connectivity).

    Horizontal runs of True are the nodes of a graph; its edges join touching runs of neighbouring rows. Each
    run takes the smallest number that it can reach, by repeated hooking and pointer jumping, in a logarithmic
    number of passes.

    Args:
        mask: (H, W) bool, True where anomalous.

    Returns:
        labels: (H, W), 0 outside the regions, which are numbered from 1 in the order of their first pixel.
        count: number of regions.
    """
    height, width = mask.shape
    # One empty column at the right keeps the runs of one row apart from those of the next in the flat array.
    flat = np.zeros((height, width + 1), dtype=np.int8)
    flat[:, :width] = mask
    change = np.diff(flat.ravel(), prepend=np.int8(0))
    starts, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)  # [start, end) of each run
    if starts.size == 0:
        return np.zeros((height, width), dtype=np.int64), 0
    # The runs of the next row that touch run i are consecutive: from `first` up to, not including, `last`.
    below = width + 1
    first = np.searchsorted(ends, starts + below, side="left")
    last = np.searchsorted(starts, ends + below, side="right")
    touching = last - first
    upper = np.repeat(np.arange(starts.size), touching)
    lower = np.arange(upper.size) - np.repeat(np.cumsum(touching) - touching, touching) + first[upper]
    root = np.arange(starts.size)
    while True:
        smaller = np.minimum(root[upper], root[lower])
        hooked = root.copy()
        for end in (upper, lower):
            np.minimum.at(hooked, end, smaller)
            np.minimum.at(hooked, root[end], smaller)
        while not np.array_equal(hooked, hooked[hooked]):
            hooked = hooked[hooked]
        if np.array_equal(hooked, root):
            break
        root = hooked
    numbers = np.unique(root, return_inverse=True)[1].ravel() + 1
    labels = np.zeros((height, width), dtype=np.int64)
    labels[mask] = np.repeat(numbers, ends - starts)
    return labels, int(numbers.max())

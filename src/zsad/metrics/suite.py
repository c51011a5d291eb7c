"""Computes all seven metrics of images that arrive one after another, in bounded memory.

As long as the pixels fit into a budget they are kept, and the result is that of `zsad.metrics.evaluate`.
Later they are folded into groups of neighbouring values (`zsad.metrics.sketch`): blocks of pixels become
summaries, and two summaries of one level become one of the next, so that 10,000 images of 518 x 518 pass
about ten levels. Each metric then has a lower and an upper bound that hold for any maps; `compute` returns
their middle, `bounds` both. The range of the maps need not be known, and no map is read twice.

Why other libraries do not suffice, according to their documentation:

- `torchmetrics` (1.9) has AUROC and average precision, but no PRO. With `thresholds=None` it keeps every
  pixel. With a number, it spaces them evenly over [0, 1]: a saturated map falls into a few of them, and its
  metrics are wrong without a warning. Values outside [0, 1] are treated as logits.
- `pyaupro` (0.1) has PRO only, on top of torchmetrics, with the same even thresholds in [0, 1]; unless it
  keeps all maps, its result is the mean over the batches, which depends on how the images are batched.
- `adeval` (1.1) comes closest: AUROC, AP and AUPRO by accumulation. It needs estimated bounds of the scores
  beforehand and OpenCV, and gives neither a bound of its error nor F1-max.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.errors import ConfigError, DataError
from zsad.metrics.bootstrap import IMAGE_METRICS, bootstrap_draws, interval
from zsad.metrics.curves import CURVE_POINTS, Curve, precision_recall_curve, roc_curve, thinned
from zsad.metrics.pro import ProVariant, aupro_of_pixels, check_pro, label_regions, pro_curve
from zsad.metrics.ranking import (
    Floats,
    RankedCounts,
    auroc,
    average_precision,
    check_maps,
    f1_max,
    rank,
    split_scores,
)
from zsad.metrics.sketch import (
    PIXEL_METRICS,
    PixelGroups,
    compress,
    group_pixels,
    join,
    pixel_metrics,
    placed_counts,
    pro_corners,
    script_aupro,
)

ANOMALOUS_COST = 10  # memory of an anomalous pixel (order, weight, counts), in units of that of a normal one
BLOCK = 2**21  # pixels per summary; their exact groups briefly take about 250 MB


class MetricSuite:
    """Image and pixel metrics of one category, updated image by image.

    Memory: about 4 bytes per unit of `exact_pixels`; beyond that, 32 `bins` bytes for each doubling of the
    number of pixels, and a few hundred MB of working space. The score of an image takes 16 bytes.

    Args:
        pro: variant of AUPRO, "exact" or "script"; see `zsad.metrics.pixel_aupro`. Beyond the exact budget,
            "script" is read from the groups at its 200 thresholds between the smallest and the largest value,
            which are known exactly.
        fpr_limit: false-positive rate at which the PRO curve is cut, in (0, 1].
        exact_pixels: number of pixels up to which the result is exact. An anomalous pixel counts as ten,
            because it takes ten times the memory. The default holds 200 images of 518 x 518.
        bins: resolution beyond that; the error falls in proportion.
        bootstrap: number of resamples for 95 % intervals of the image metrics; 0 for none.
        seed: seed of the resampling.

    Raises:
        ConfigError: `pro` is unknown, the limit is outside (0, 1], or a number is out of range.

    Example:
        >>> suite = MetricSuite()
        >>> suite.update([[[0.1, 0.9]]], [[[0, 1]]], [0.9], [1])
        >>> suite.update([[[0.2, 0.3]]], [[[0, 0]]], [0.2], [0])
        >>> result = suite.compute()
        >>> result["image_auroc"], result["pixel_aupro"]
        (1.0, 1.0)
    """

    def __init__(
        self,
        pro: ProVariant = "exact",
        fpr_limit: float = 0.3,
        *,
        exact_pixels: int = 100_000_000,
        bins: int = 2**19,
        bootstrap: int = 0,
        seed: int = 0,
    ) -> None:
        check_pro(pro, fpr_limit)
        for name, value, least in (
            ("exact_pixels", exact_pixels, 0),
            ("bins", bins, 1),
            ("bootstrap", bootstrap, 0),
        ):
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value!r}")
        self.pro, self.fpr_limit, self.bootstrap, self.seed = pro, fpr_limit, bootstrap, seed
        self.exact_pixels, self.bins = exact_pixels, bins
        self._anomalous_scores: list[Floats] = []
        self._normal_scores: list[Floats] = []
        self._anomalous: list[Floats] = []
        self._overlap: list[NDArray[np.float64]] = []
        self._normal: list[Floats] = []
        self._held = 0
        self._regions = 0
        self._levels: list[PixelGroups | None] = []

    @property
    def is_exact(self) -> bool:
        """Whether every pixel is still held without loss."""
        return not self._levels

    def update(self, maps: Any, masks: Any, scores: Any, labels: Any, inside: Any = None) -> None:
        """Adds a batch of images or a single one.

        Args:
            maps: (N, H, W) finite anomaly maps, a sequence of (H, W) arrays whose sizes may differ, or one
                (H, W) array; NumPy or torch. None to leave out the pixel metrics.
            masks: masks of the shapes of the maps, values in {0, 1}; None to leave out the pixel metrics.
            scores: (N,) finite image scores, or a number; None to leave out the image metrics.
            labels: (N,) in {0, 1}, or a number; None if `scores` is None.
            inside: bool arrays of the shapes of the maps, the pixels that count; None for all.

        Raises:
            DataError: `zsad.metrics.evaluate` would refuse the batch; none of it has been added.
        """
        if (scores is None) != (labels is None):
            raise DataError("scores and labels go together: give both, or None for both")
        scores, labels = _batch(scores, 0), _batch(labels, 0)
        maps, masks, inside = (_batch(values, 2) for values in (maps, masks, inside))
        split = None if scores is None else split_scores(scores, labels)
        if maps is not None and scores is not None and len(maps) != len(scores):
            raise DataError(f"got {len(maps)} maps for {len(scores)} scores; give one map per image")
        images = [] if maps is None or masks is None else list(zip(*check_maps(maps, masks), strict=True))
        regions = [None] * len(images) if inside is None else check_maps(maps, inside)[1]
        if split is not None:
            self._anomalous_scores.append(split[0])
            self._normal_scores.append(split[1])
        for (one, mask), counted in zip(images, regions, strict=True):
            self._add_image(one, mask, counted)

    def merge(self, other: MetricSuite) -> None:
        """Adds the images of another suite, for instance from another process (suites can be pickled).

        Args:
            other: suite with the same `fpr_limit` and `bins`; it does not change.

        Raises:
            ConfigError: the settings of the suites differ.
        """
        if (self.fpr_limit, self.bins) != (other.fpr_limit, other.bins):
            raise ConfigError(
                f"suites to merge must have the same fpr_limit and bins, got {self.fpr_limit}, {self.bins} "
                f"and {other.fpr_limit}, {other.bins}"
            )
        self._anomalous_scores += other._anomalous_scores
        self._normal_scores += other._normal_scores
        self._regions += other._regions
        for level, groups in enumerate(list(other._levels)):
            if groups is not None:
                self._fold(groups, level)
        for anomalous, overlap, normal in zip(
            list(other._anomalous), list(other._overlap), list(other._normal), strict=True
        ):
            self._hold(anomalous, overlap, normal)
        self._fold_if_full()  # the pixels held so far may be too many now that the suite is no longer exact

    def compute(self) -> dict[str, float]:
        """Computes the metrics of all images so far; more may be added afterwards.

        Returns:
            Fractions in [0, 1] under `zsad.metrics.METRIC_NAMES`, NaN where undefined. With `bootstrap` also
            `image_auroc_low`, `image_auroc_high` and so on: the 2.5th and 97.5th percentile over resamples of
            the images, drawn within each class.
        """
        result = {name: (low + high) / 2 for name, (low, high) in self.bounds().items()}
        if self.bootstrap:
            result.update(self._intervals())
        return result

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Computes lower and upper bounds of each metric, equal while it is exact.

        Returns:
            (low, high) under `zsad.metrics.METRIC_NAMES`, between which the result of `evaluate` for all
            images together would lie, up to rounding. The "script" variant of `pixel_aupro` has no bounds
            (see `zsad.metrics.sketch.script_aupro`); low and high are both its estimate.
        """
        counts = rank(_pooled(self._anomalous_scores), _pooled(self._normal_scores))
        result = {name: (metric(counts),) * 2 for name, metric in IMAGE_METRICS.items()}
        if self.is_exact:
            return {**result, **self._exact_pixel_metrics()}
        groups = self._groups()
        result.update(pixel_metrics(groups, self.fpr_limit))
        if self.pro == "script":
            result["pixel_aupro"] = (script_aupro(groups, self.fpr_limit),) * 2
        return result

    def curves(self, points: int = CURVE_POINTS) -> dict[str, Curve]:
        """Computes the curves behind the metrics; beyond the exact budget, from the summary.

        Args:
            points: largest number of points of a curve.

        Returns:
            `image_roc`, `image_pr`, `pixel_roc`, `pixel_pr` and `pixel_pro` (the exact PRO curve, up to a
            false-positive rate of 1); undefined curves are left out.
        """
        counts = rank(_pooled(self._anomalous_scores), _pooled(self._normal_scores))
        found = {"image_roc": roc_curve(counts), "image_pr": precision_recall_curve(counts)}
        if self._levels or self._normal:
            counts, found["pixel_pro"] = self._ranked_pixels()
            found.update(pixel_roc=roc_curve(counts), pixel_pr=precision_recall_curve(counts))
        return {name: thinned(curve, points) for name, curve in found.items() if curve is not None}

    def _ranked_pixels(self) -> tuple[RankedCounts, Curve | None]:
        """Returns the counts of all pixels and the PRO curve, which is None if a class is missing."""
        if self.is_exact:
            anomalous, weights, normal = self._pixels()
            counts = rank(anomalous, normal)
            is_defined = counts.positives and counts.negatives
            return counts, Curve(*pro_curve(anomalous, weights, normal)) if is_defined else None
        groups = self._groups()
        counts, overlap = placed_counts(groups, groups.high, groups.high)
        is_defined = counts.positives and counts.negatives
        return counts, Curve(*pro_corners(counts, overlap)) if is_defined else None

    def _groups(self) -> PixelGroups:
        """Returns all pixels in groups, including those that are still held."""
        parts = [part for part in self._levels if part is not None]
        if self._normal:
            pixels = _pooled(self._anomalous), _pooled(self._overlap), _pooled(self._normal)
            parts.append(compress(group_pixels(*pixels), self.bins, self.fpr_limit))
        return join(parts)

    def _pixels(self) -> tuple[Floats, NDArray[np.float64], Floats]:
        """Returns anomalous pixels, their weights, and normal pixels; all are kept pooled and sorted."""
        for held in (self._anomalous, self._overlap, self._normal):
            held[:] = [_drained(held)]
        self._normal[0].sort()
        return self._anomalous[0], self._overlap[0] / max(self._regions, 1), self._normal[0]

    def _exact_pixel_metrics(self) -> dict[str, tuple[float, float]]:
        """Computes the pixel metrics from the pixels themselves."""
        if not self._normal:
            return dict.fromkeys(PIXEL_METRICS, (float("nan"),) * 2)
        anomalous, weights, normal = self._pixels()
        counts = rank(anomalous, normal)
        aupro = aupro_of_pixels(anomalous, weights, normal, self.pro, self.fpr_limit)
        values = (auroc(counts), average_precision(counts), f1_max(counts), aupro)
        return {name: (value, value) for name, value in zip(PIXEL_METRICS, values, strict=True)}

    def _add_image(
        self, one: Floats, mask: NDArray[np.bool_], inside: NDArray[np.bool_] | None = None
    ) -> None:
        """Adds copies of the pixels of a checked image, or of those inside of its region."""
        normal = ~mask
        if inside is not None:
            mask, normal = mask & inside, normal & inside
        labels, count = label_regions(mask)
        of_pixels = labels[mask]
        areas = np.bincount(of_pixels, minlength=count + 1)
        self._regions += count
        self._hold(one[mask], 1.0 / areas[of_pixels], one[normal])

    def _hold(self, anomalous: Floats, overlap: NDArray[np.float64], normal: Floats) -> None:
        """Holds pixels unchanged, as long as there is room."""
        self._anomalous.append(anomalous)
        self._overlap.append(overlap)
        self._normal.append(normal)
        self._held += normal.size + ANOMALOUS_COST * anomalous.size
        self._fold_if_full()

    def _fold_if_full(self) -> None:
        """Folds all held pixels once they exceed the budget."""
        if self._held > (self.exact_pixels if self.is_exact else min(BLOCK, self.exact_pixels)):
            self._fold_all()

    def _fold_all(self) -> None:
        """Turns the held pixels into summaries of about a block each, and releases them in doing so."""
        blocks = max(round(self._held / BLOCK), 1)
        # Each block gets its share of both classes, whatever the sizes of the images.
        anomalous_share, normal_share = (
            -(-sum(part.size for part in held) // blocks) for held in (self._anomalous, self._normal)
        )
        for _ in range(blocks):
            groups = group_pixels(
                _taken(self._anomalous, anomalous_share),
                _taken(self._overlap, anomalous_share),
                _taken(self._normal, normal_share),
            )
            self._fold(compress(groups, self.bins, self.fpr_limit), 0)
        for held in (self._anomalous, self._overlap, self._normal):
            held.clear()  # images without a pixel of the class leave empty parts
        self._held = 0

    def _fold(self, groups: PixelGroups, level: int) -> None:
        """Adds a summary at a level; if the level has one already, both are joined and move up."""
        self._levels += [None] * (level + 1 - len(self._levels))
        while (waiting := self._levels[level]) is not None:
            groups = compress(join([waiting, groups]), self.bins, self.fpr_limit)
            self._levels[level] = None
            level += 1
            if level == len(self._levels):
                self._levels.append(None)
        self._levels[level] = groups

    def _intervals(self) -> dict[str, float]:
        """Returns percentile intervals of the image metrics; NaN if a class is missing."""
        scores = _pooled(self._anomalous_scores), _pooled(self._normal_scores)
        result = {}
        for name, values in bootstrap_draws(*scores, self.bootstrap, self.seed).items():
            result[f"{name}_low"], result[f"{name}_high"] = interval(values)
        return result


def _batch(values: Any, single: int) -> Any:
    """Adds the axis of images to an array, tensor or number of a single image."""
    if np.isscalar(values):
        return [values] if single == 0 else values
    return values[None] if getattr(values, "ndim", None) == single else values


def _pooled(parts: list[Any]) -> NDArray[Any]:
    """Copies all parts into one array."""
    return np.concatenate(parts) if parts else np.empty(0)


def _taken(parts: list[Any], count: int) -> NDArray[Any]:
    """Removes up to `count` values from the last parts and returns them in one array."""
    taken = [np.empty(0, dtype=np.float32)]  # the narrowest type that maps have
    while parts and count > 0:
        part = parts.pop()
        if part.size > count:
            parts.append(part[:-count])
            part = part[-count:]
        taken.append(part)
        count -= part.size
    return np.concatenate(taken)


def _drained(parts: list[Any]) -> NDArray[Any]:
    """Moves all parts into one array; each is released once copied, so that memory is not doubled."""
    whole: NDArray[Any]
    if len(parts) == 1:
        whole = parts.pop()
        return whole
    whole = np.empty(sum(part.size for part in parts), dtype=np.result_type(*parts))
    end = whole.size
    while parts:
        part = parts.pop()
        whole[end - part.size : end] = part
        end -= part.size
    return whole

"""Evaluates one category: turns its scored images into a row of metrics, curves, records and worst images.

Only the pixels of this category are in memory, in bounded space (`zsad.metrics.MetricSuite`).
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.data.masks import MOST_MARKED, ask_if_inverted
from zsad.detector.looking import as_region
from zsad.errors import DataError, one_line
from zsad.evaluation.results import CategoryResult, WorstPicture
from zsad.evaluation.worst import Candidate, WorstOfCategory
from zsad.files.json_text import read_json
from zsad.files.plain import from_plain, write_json
from zsad.images.names import file_and_part
from zsad.metrics import METRIC_NAMES, MetricSuite
from zsad.metrics.bootstrap import IMAGE_METRICS

if TYPE_CHECKING:
    from zsad.evaluation.options import EvaluateOptions
    from zsad.evaluation.scoring import ScoredImage
    from zsad.types import Sample


@dataclass(frozen=True)
class CategoryOutcome:
    """Everything that is kept of a category.

    Attributes:
        result: row of the table.
        records: lines of `pictures.jsonl`, as plain values.
        curves: entries of `curves.json`, by name.
        worst: the worst mistakes, with overlays.
        seconds: wall time.
        data: digest of the files of images, masks and references; see `data_digest`.
    """

    result: CategoryResult
    records: tuple[Mapping[str, Any], ...]
    curves: Mapping[str, Mapping[str, Sequence[float]]]
    worst: tuple[WorstPicture, ...]
    seconds: float
    data: str

    def write(self, path: Path) -> None:
        """Writes the outcome, whole or not at all."""
        write_json(path, vars(self))

    @classmethod
    def read(cls, path: Path) -> CategoryOutcome:
        """Reads what `write` wrote.

        Raises:
            DataError: the file is missing or damaged.
        """
        content = read_json(path)
        try:
            return from_plain(cls, content, str(path))
        except DataError as error:
            raise DataError(f"{error}: is damaged; run without --resume to start over") from error


def evaluate_category(
    category: str,
    samples: Sequence[Sample],
    scored: Iterable[list[ScoredImage]],
    options: EvaluateOptions,
    *,
    seed: int,
    references: Sequence[Path] = (),
    map_range: tuple[float, float] = (0.0, 1.0),
    bits: int | None = None,
    stem: str,
    on_images: Callable[[int], None],
) -> CategoryOutcome:
    """Scores a category and computes everything that is kept of it.

    Args:
        category: name of the row.
        samples: images of the category.
        scored: scores and maps of the images, in batches.
        options: says which metrics to compute and where overlays go.
        seed: seed of the bootstrap.
        references: files of the reference images.
        map_range: smallest and largest value of a map, for the colours of the overlays.
        bits: depth of the values in 16-bit files, for the overlays.
        stem: beginning of the names of the overlays, relative to the results' folder.
        on_images: called with the number of images of each finished batch.

    Returns:
        The outcome. Images that failed appear in its records with their error, and in no metric.
    """
    started = time.perf_counter()
    data = data_digest(samples, references)
    suite = MetricSuite(options.pro, options.fpr_limit, bootstrap=options.bootstrap, seed=seed)
    has_masks = any(sample.mask_path is not None for sample in samples if sample.label == 1)
    worst = WorstOfCategory(bits)
    records: dict[int, dict[str, Any]] = {}
    failed: list[tuple[int, str]] = []
    masks = _Masks()
    for batch in scored:
        for image in batch:
            sample = samples[image.index]
            error = image.error or _add(suite, image, sample, has_masks=has_masks)
            records[image.index] = _record(sample, image, error)
            if error is None and has_masks and sample.label == 1:
                masks.add(image)
            if error is not None:
                failed.append((image.index, error))
            elif image.score is not None and image.anomaly_map is not None:
                drawn = replace(sample, mask_path=None) if image.mask_fault else sample
                # A view would keep the maps of the whole batch alive.
                worst.add(Candidate(image.score, drawn, image.anomaly_map.copy()))
        on_images(len(batch))
    lines = [records[index] for index in sorted(records)]
    labels = [line["label"] for line in lines if line["error"] is None]
    bounds = suite.bounds()
    metrics = suite.compute()
    result = CategoryResult(
        category,
        labels.count(0),
        labels.count(1),
        has_masks,
        {name: metrics[name] for name in METRIC_NAMES},
        {name: (metrics[f"{name}_low"], metrics[f"{name}_high"]) for name in IMAGE_METRICS}
        if options.bootstrap and len(set(labels)) == 2
        else {},
        suite.is_exact,
        max([(high - low) / 2 for low, high in bounds.values() if high > low], default=0.0),
        statistics.median(line["seconds"] for line in lines),
        tuple(error for _, error in sorted(failed)),
        tuple(str(path) for path in references),
        tuple(fault for _, fault in sorted(masks.faults)),
        masks.notes(category),
    )
    curves = {
        name: {"x": curve.x.round(6).tolist(), "y": curve.y.round(6).tolist()}
        for name, curve in suite.curves().items()
    }
    mistakes = worst.write(options.out, stem, map_range, as_region(options.roi))
    return CategoryOutcome(result, tuple(lines), curves, tuple(mistakes), time.perf_counter() - started, data)


class _Masks:
    """Counts the masks of the anomalous images of a category that has masks."""

    def __init__(self) -> None:
        self.faults: list[tuple[int, str]] = []
        self._shares: list[float] = []
        self._missing = 0

    def add(self, image: ScoredImage) -> None:
        """Counts the mask of an anomalous image."""
        if image.mask is None:
            self._missing += 1
        else:
            self._shares.append(float(image.mask.mean()))
        if image.mask_fault:
            self.faults.append((image.index, f"{image.mask_fault}; counts in the image metrics only"))

    def notes(self, category: str) -> tuple[str, ...]:
        """Lines on images without a mask, and on masks that seem to be inverted."""
        lines = []
        if self._missing:
            count = self._missing + len(self._shares)
            lines.append(
                f"{category}: {self._missing} of {count} anomalous images have no usable mask and count in "
                "the image metrics only"
            )
        if self._shares and (share := statistics.median(self._shares)) > MOST_MARKED:
            lines.append(ask_if_inverted(category, share))
        return tuple(lines)


def data_digest(samples: Sequence[Sample], references: Sequence[Path]) -> str:
    """A digest that changes with the labels, and with paths, sizes or modification times of the files."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.label} {sample.category} {sample.defect}\n".encode(errors="surrogateescape"))
        for path in (sample.path, sample.mask_path):
            digest.update(_state(path))
    for path in references:
        digest.update(_state(path))
    return digest.hexdigest()


def _state(path: Path | None) -> bytes:
    if path is None:
        return b"-\n"
    try:
        found = Path(file_and_part(path)[0]).stat()
        return os.fsencode(path) + f" {found.st_size} {found.st_mtime_ns}\n".encode()
    except OSError:
        return os.fsencode(path) + b" missing\n"


def _add(suite: MetricSuite, image: ScoredImage, sample: Sample, *, has_masks: bool) -> str | None:
    """Adds an image to the metrics; returns the line that says why that is impossible, else None."""
    is_masked = has_masks and image.mask is not None
    try:
        suite.update(
            image.anomaly_map if is_masked else None,
            image.mask if is_masked else None,
            image.score,
            sample.label,
            image.inside,
        )
    except DataError as error:  # NaN from a network in too low a precision
        return f"{sample.path}: {one_line(error)}"
    return None


def _record(sample: Sample, image: ScoredImage, error: str | None) -> dict[str, Any]:
    """The line of an image in `pictures.jsonl`."""
    return {
        "path": str(sample.path),
        "mask_path": None if sample.mask_path is None else str(sample.mask_path),
        "category": sample.category,
        "label": sample.label,
        "defect": sample.defect,
        "score": image.score if error is None else None,
        "seconds": image.seconds,
        "error": error,
    }

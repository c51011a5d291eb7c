"""One category: its scored images become a row of metrics, curves, records and the worst of them.

Only this category's pixels are in memory, and those in bounded space (`zsad.metrics.MetricSuite`).
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.errors import DataError, one_line
from zsad.evaluation.results import CategoryResult, WorstPicture
from zsad.evaluation.worst import Candidate, WorstOfCategory
from zsad.files.plain import from_plain, read_json, write_json
from zsad.images.names import file_and_part
from zsad.metrics import METRIC_NAMES, MetricSuite
from zsad.metrics.bootstrap import IMAGE_METRICS

if TYPE_CHECKING:
    from zsad.evaluation.options import EvaluationOptions
    from zsad.evaluation.scoring import ScoredPicture
    from zsad.types import Sample


@dataclass(frozen=True)
class CategoryOutcome:
    """All that is kept of a category.

    Attributes:
        result: its row.
        records: lines of `pictures.jsonl`.
        curves: of `curves.json`.
        worst: its mistakes, with overlays.
        seconds: wall time.
        data: digest of the files that went into it.
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
            DataError: it is missing or damaged.
        """
        content = read_json(path)
        try:
            return from_plain(cls, content, str(path))
        except DataError as error:
            raise DataError(f"{error}: is damaged; run without --resume to start over") from error


def evaluate_category(
    category: str,
    samples: Sequence[Sample],
    scored: Iterable[list[ScoredPicture]],
    options: EvaluationOptions,
    *,
    seed: int,
    references: Sequence[Path] = (),
    map_range: tuple[float, float] = (0.0, 1.0),
    stem: str,
    on_pictures: Callable[[int], None],
) -> CategoryOutcome:
    """Scores a category and computes everything that is kept of it.

    Args:
        category: name of the row.
        samples: its images.
        scored: their scores and maps, in batches.
        options: which metrics, and where overlays go.
        seed: of the bootstrap.
        references: the reference images that were used.
        map_range: the colour scale of the overlays.
        stem: of the overlays' files, relative to the results' folder.
        on_pictures: called with the number of images of each finished batch.

    Returns:
        The outcome; images that failed are in its records with their error and in no metric.
    """
    started = time.perf_counter()
    data = data_digest(samples, references)
    suite = MetricSuite(options.pro, options.fpr_limit, bootstrap=options.bootstrap, seed=seed)
    has_masks = any(sample.label for sample in samples) and all(
        sample.mask_path is not None for sample in samples if sample.label
    )
    worst = WorstOfCategory()
    records: dict[int, dict[str, Any]] = {}
    failed: list[tuple[int, str]] = []
    for batch in scored:
        for picture in batch:
            sample = samples[picture.index]
            error = picture.error or _add(suite, picture, sample, has_masks=has_masks)
            records[picture.index] = _record(sample, picture, error)
            if error is not None:
                failed.append((picture.index, error))
            elif picture.score is not None and picture.anomaly_map is not None:
                # A view would keep the maps of the whole batch alive.
                worst.add(Candidate(picture.score, sample, picture.anomaly_map.copy()))
        on_pictures(len(batch))
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
    )
    curves = {
        name: {"x": curve.x.round(6).tolist(), "y": curve.y.round(6).tolist()}
        for name, curve in suite.curves().items()
    }
    mistakes = worst.write(options.out, stem, map_range)
    return CategoryOutcome(result, tuple(lines), curves, tuple(mistakes), time.perf_counter() - started, data)


def data_digest(samples: Sequence[Sample], references: Sequence[Path]) -> str:
    """Changes if images, masks, labels or references do: their paths, sizes and times of change."""
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


def _add(suite: MetricSuite, picture: ScoredPicture, sample: Sample, *, has_masks: bool) -> str | None:
    """Adds an image to the metrics; the line that says why it cannot be, if so."""
    is_masked = has_masks and picture.mask is not None
    try:
        suite.update(
            picture.anomaly_map if is_masked else None,
            picture.mask if is_masked else None,
            picture.score,
            sample.label,
        )
    except DataError as error:  # NaN from a network in too low a precision
        return f"{sample.path}: {one_line(error)}"
    return None


def _record(sample: Sample, picture: ScoredPicture, error: str | None) -> dict[str, Any]:
    """The line of an image in `pictures.jsonl`."""
    return {
        "path": str(sample.path),
        "mask_path": None if sample.mask_path is None else str(sample.mask_path),
        "category": sample.category,
        "label": sample.label,
        "defect": sample.defect,
        "score": picture.score if error is None else None,
        "seconds": picture.seconds,
        "error": error,
    }

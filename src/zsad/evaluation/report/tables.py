"""Turns runs into tables: methods by dataset, categories of one run, published numbers beside ours.

The functions are pure; `zsad.evaluation.report.formats` prints the tables. Runs that differ only in their
seed make one row with mean and sample standard deviation. The notes of a table say what a reader has to know
to compare its numbers: auxiliary data, split, image size, definition of PRO, images left out.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zsad.data.catalog import find_dataset
from zsad.errors import DataError, printable, unknown_name
from zsad.evaluation.published import PublishedNumber, published_number
from zsad.evaluation.report.notes import missing_categories, notes_of, source_notes
from zsad.metrics import METRIC_NAMES

if TYPE_CHECKING:
    from zsad.evaluation.results import CategoryResult, RunResult

METRIC_TITLES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1-max",
    "pixel_aupro": "pixel AUPRO",
}

# Fields that distinguish rows of one method, with the title of their column; shown where they differ.
_DISTINCTIONS = {
    "backbone": "backbone",
    "checkpoint": "checkpoint",
    "references": "shots",
    "image_size": "size",
    "precision": "precision",
    "split": "split",
    "pro": "PRO",
    "fpr_limit": "FPR limit",
    "limit": "limit",
}

COUNTS = ("normal", "anomalous")
_CATEGORY_LABELS = ("category", *COUNTS)


@dataclass(frozen=True)
class Cell:
    """One metric of one row.

    Attributes:
        values: one fraction for each seed; NaN where undefined.
        published: published number to print beside ours; None if no number is comparable.
        interval: ends of the 95 % bootstrap interval of a single value, as fractions.
    """

    values: tuple[float, ...]
    published: PublishedNumber | None = None
    interval: tuple[float, float] | None = None

    @property
    def value(self) -> float:
        """Mean over the seeds, in percent; NaN if the value of a seed is undefined."""
        return 100 * statistics.fmean(self.values) if self.values else math.nan

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds, in percentage points; None for a single seed."""
        if len(self.values) < 2 or any(map(math.isnan, self.values)):
            return None
        return 100 * statistics.stdev(self.values)


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        labels: one text for each label column.
        cells: one for each metric.
        is_mean: whether the row averages other rows.
    """

    labels: tuple[str, ...]
    cells: tuple[Cell, ...]
    is_mean: bool = False


@dataclass(frozen=True)
class ResultTable:
    """A table of results, independent of any output format.

    Attributes:
        title: heading, one line.
        labels: titles of the label columns.
        metrics: metric names, one for each metric column.
        rows: rows in order.
        notes: sentences that a reader needs to compare the numbers.
        sources: sources of the published numbers, in the order of their footnote numbers.
    """

    title: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in their seed.

    Attributes:
        runs: runs in the order of their seeds.
    """

    runs: tuple[RunResult, ...]

    @property
    def first(self) -> RunResult:
        """The run with the smallest seed, which stands for what all runs have in common."""
        return self.runs[0]


def checked_metrics(names: Iterable[str] | None) -> tuple[str, ...]:
    """Checks metric names and sorts them into the order of `METRIC_NAMES`; None stands for all metrics.

    Raises:
        ConfigError: a name is unknown; the message lists the known names.
    """
    if names is None:
        return METRIC_NAMES
    wanted = list(names)
    for name in wanted:
        if name not in METRIC_NAMES:
            raise unknown_name("metric", name, METRIC_NAMES)
    return tuple(name for name in METRIC_NAMES if name in wanted) or METRIC_NAMES


def group_runs(runs: Iterable[RunResult]) -> list[RunGroup]:
    """Groups runs that differ only in their seed.

    Args:
        runs: runs of one or several evaluations. If a run occurs twice with the same seed, the last one
            counts.

    Returns:
        Groups ordered by dataset (in the order of their first runs), then in the order of the runs.
    """
    found: dict[str, dict[int, RunResult]] = {}
    for run in runs:
        found.setdefault(_identity(run), {})[run.seed] = run
    groups = [RunGroup(tuple(seeds[seed] for seed in sorted(seeds))) for seeds in found.values()]
    places = {name: place for place, name in enumerate(dict.fromkeys(g.first.dataset for g in groups))}
    return sorted(groups, key=lambda group: places[group.first.dataset])


def overview_table(runs: Sequence[RunResult], metrics: Iterable[str] | None = None) -> ResultTable:
    """Makes a table with one row for each dataset and method, and the mean of each method over the datasets.

    Args:
        runs: runs of any number of methods, datasets and seeds.
        metrics: columns; None for all seven.

    Raises:
        DataError: `runs` is empty.
        ConfigError: a metric is unknown.
    """
    chosen = checked_metrics(metrics)
    groups = group_runs(runs)
    if not groups:
        raise DataError("no finished run to show; see results.json for the runs that failed")
    distinctions = [name for name in _DISTINCTIONS if len({_shown(g.first, name) for g in groups}) > 1]
    settings = _differing_settings(groups)
    labels = ("dataset", "method", *(_DISTINCTIONS[name] for name in distinctions))
    labels = (*labels, "settings") if any(settings) else labels
    rows = []
    for group, own_settings in zip(groups, settings, strict=True):
        run = group.first
        texts = (dataset_title(run.dataset), run.method, *(_shown(run, name) for name in distinctions))
        rows.append(Row((*texts, own_settings) if any(settings) else texts, _mean_cells(group, chosen)))
    means = _means_over_datasets(rows)
    sources = source_notes(_published(rows))
    notes = notes_of([run for group in groups for run in group.runs], with_published=bool(sources))
    if means:
        notes = (*notes, "A mean over datasets covers the datasets for which the metric is defined.")
    return ResultTable("Results", labels, chosen, (*rows, *means), notes, sources)


def category_table(group: RunGroup, metrics: Iterable[str] | None = None) -> ResultTable:
    """Makes a table with one row for each category of a run (or of its seeds), and their mean.

    Args:
        group: seeds of the run.
        metrics: columns; None for all seven.

    Raises:
        ConfigError: a metric is unknown.
    """
    chosen = checked_metrics(metrics)
    run = group.first
    rows = [
        Row(
            (row.category, str(row.normal), str(row.anomalous)),
            tuple(_category_cell(group, row, metric) for metric in chosen),
        )
        for row in run.categories
    ]
    totals = sum(row.normal for row in run.categories), sum(row.anomalous for row in run.categories)
    if len(rows) > 1:
        rows.append(Row(("mean", *map(str, totals)), _mean_cells(group, chosen), is_mean=True))
    sources = source_notes(_published(rows))
    shots = f", {run.shots}" if run.references else ""
    title = f"{run.method} on {dataset_title(run.dataset)} ({run.backbone}{shots})"
    notes = notes_of(group.runs, with_published=bool(sources))
    return ResultTable(title, _CATEGORY_LABELS, chosen, tuple(rows), notes, sources)


def categories_table(runs: Sequence[RunResult], metrics: Iterable[str] | None = None) -> ResultTable:
    """Joins the rows of all category tables, with label columns that identify their runs; for CSV.

    Args:
        runs: runs of any number of methods, datasets and seeds.
        metrics: columns; None for all seven.

    Raises:
        DataError: `runs` is empty.
        ConfigError: a metric is unknown.
    """
    overview = overview_table(runs, metrics)
    groups = group_runs(runs)
    rows = []
    for group, own in zip(groups, overview.rows, strict=False):
        table = category_table(group, metrics)
        rows += [Row((*own.labels, *row.labels), row.cells, row.is_mean) for row in table.rows]
    labels = (*overview.labels, *_CATEGORY_LABELS)
    sources = source_notes(_published(rows))
    return ResultTable("Categories", labels, overview.metrics, tuple(rows), overview.notes, sources)


def dataset_title(name: str) -> str:
    """The name of a dataset in papers; the given name if the catalogue does not have the dataset."""
    record = find_dataset(name)
    return record.title if record else printable(name)  # figures refuse bytes that are not Unicode


def covers_dataset(run: RunResult) -> bool:
    """Whether a run has all categories of its dataset, so that its mean compares with published means."""
    return find_dataset(run.dataset) is not None and missing_categories(run) == ""


def _identity(run: RunResult) -> str:
    """Everything that distinguishes a run from others, except its seed."""
    names = ("method", "dataset", "weights_sha256", "auxiliary_data", *_DISTINCTIONS)
    settings = {name: value for name, value in run.settings.items() if name != "seed"}
    return json.dumps([[getattr(run, name) for name in names], settings], sort_keys=True, default=str)


def _shown(run: RunResult, name: str) -> str:
    value = getattr(run, name)
    return "-" if value is None else str(value)


def _differing_settings(groups: Sequence[RunGroup]) -> list[str]:
    """For each group, the settings that differ from other groups of its method on the same dataset."""
    texts = []
    for group in groups:
        run = group.first
        rivals = [g.first for g in groups if (g.first.method, g.first.dataset) == (run.method, run.dataset)]
        differing = [
            name
            for name in sorted({name for rival in rivals for name in rival.settings})
            if len({repr(rival.settings.get(name)) for rival in rivals}) > 1
        ]
        texts.append(", ".join(f"{name}={run.settings.get(name)}" for name in differing))
    return texts


def _mean_cells(group: RunGroup, metrics: Sequence[str]) -> tuple[Cell, ...]:
    run = group.first
    record = find_dataset(run.dataset) if covers_dataset(run) else None
    cells = []
    for metric in metrics:
        published = published_number(run.method, record.name, metric, run.references) if record else None
        interval = run.mean_intervals.get(metric) if len(group.runs) == 1 else None
        cells.append(Cell(tuple(r.mean.get(metric, math.nan) for r in group.runs), published, interval))
    return tuple(cells)


def _category_cell(group: RunGroup, row: CategoryResult, metric: str) -> Cell:
    run = group.first
    values = tuple(
        other.metrics.get(metric, math.nan)
        for run in group.runs
        for other in run.categories
        if other.category == row.category
    )
    record, published = find_dataset(run.dataset), None
    folder = (
        next((f for f in record.categories if record.class_name(f) == row.category), None) if record else None
    )
    if record and covers_dataset(run) and len(run.categories) == 1:
        published = published_number(run.method, record.name, metric, run.references)
    elif record and folder:
        published = published_number(run.method, record.name, metric, run.references, folder)
    return Cell(values, published, row.intervals.get(metric) if len(group.runs) == 1 else None)


def _means_over_datasets(rows: Sequence[Row]) -> list[Row]:
    """Unweighted means over the datasets that define a metric, for each method with runs on all datasets."""
    datasets = {row.labels[0] for row in rows}
    if len(datasets) < 2:
        return []
    by_method: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        by_method.setdefault(row.labels[1:], []).append(row)
    means = []
    for labels, own in by_method.items():
        if len(own) != len(datasets):
            continue
        cells = []
        for column in zip(*(row.cells for row in own), strict=True):
            defined = [cell.value / 100 for cell in column if not math.isnan(cell.value)]
            cells.append(Cell((statistics.fmean(defined),) if defined else (math.nan,)))
        means.append(Row((f"mean of {len(datasets)} sets", *labels), tuple(cells), is_mean=True))
    return means


def _published(rows: Iterable[Row]) -> list[PublishedNumber]:
    return [cell.published for row in rows for cell in row.cells if cell.published is not None]

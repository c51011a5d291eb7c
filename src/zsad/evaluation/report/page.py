"""The page of an evaluation: overview, every run with its figures and worst images, provenance.

The page is one file that opens from disk and makes no request. Its size stays bounded: thumbnails are smaller
and fewer when there are many runs, and curves are simplified. The markup stands in
`zsad/files/templates/evaluation.html`; this module computes what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.errors import DataError, MissingExtraError
from zsad.evaluation.report.blocks import (
    ImageBlock,
    TableBlock,
    group_title,
    image_block,
    run_facts,
    table_block,
)
from zsad.evaluation.report.notes import warnings_of
from zsad.evaluation.report.reading import EvaluationFolder, read_curves, read_scores
from zsad.evaluation.report.tables import (
    METRIC_TITLES,
    ResultTable,
    RunGroup,
    category_table,
    checked_metrics,
    dataset_title,
    group_runs,
    overview_table,
)
from zsad.files.pages import PAGE_FILE, facts, write_page

if TYPE_CHECKING:
    from markupsafe import Markup

    from zsad.evaluation.results import RunResult

MANY_RUNS = 12
AREA_OF_CURVE = {
    "image_roc": "image_auroc",
    "image_pr": "image_ap",
    "pixel_roc": "pixel_auroc",
    "pixel_pr": "pixel_ap",
    "pixel_pro": "pixel_aupro",
}
MISTAKE_TITLES = {
    "false negative": "Missed: anomalous images with low scores",
    "false positive": "False alarms: normal images with high scores",
}


@dataclass(frozen=True)
class RunBlock:
    """One run, or the seeds of one, on the page.

    Attributes:
        id: id of the section, unique in the page.
        method: first part of the heading.
        where: second part of the heading: dataset, backbone and image size.
        headline: titles and values of the metrics in the heading.
        table: results by category.
        seed: seed of the run that figures and images are from; None if it is the only one.
        figures: drawings of the run; None without matplotlib.
        sheets: titles and images of the contact sheets.
        left_out: messages about files that were not scored.
        facts: how the run was made.
    """

    id: str
    method: str
    where: str
    headline: tuple[tuple[str, str], ...]
    table: TableBlock
    seed: int | None
    figures: RunFigures | None
    sheets: tuple[tuple[str, list[ImageBlock]], ...]
    left_out: tuple[str, ...]
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class RunFigures:
    """Figures of one run.

    Attributes:
        curves: curves as SVG.
        hint: sentence above the curves.
        scores: histograms of the image scores as SVG; None without scores.
    """

    curves: tuple[Markup, ...]
    hint: str
    scores: Markup | None


@dataclass(frozen=True)
class MethodsCompared:
    """Figures that compare methods.

    Attributes:
        figures: one SVG for each metric.
        is_large: whether the figures have a column for each of many datasets and stand below each other.
    """

    figures: tuple[Markup, ...]
    is_large: bool


def write_evaluation_report(
    folders: Sequence[EvaluationFolder],
    directory: str | Path,
    metrics: Iterable[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes `index.html` about one or several evaluations.

    Args:
        folders: evaluations whose runs are shown together.
        directory: folder for the page; created if missing.
        metrics: columns of the tables; None for all seven.
        progress: called with the numbers of finished and of all run sections.

    Returns:
        Path of the page. Without matplotlib the page has no figures and says so.

    Raises:
        ConfigError: a metric is unknown.
        DataError: none of the evaluations has a finished run.
        OSError: the page cannot be written.
    """
    chosen = checked_metrics(metrics)
    runs = [run for folder in folders for run in folder.result.runs]
    places = {id(run): folder.directory for folder in folders for run in folder.result.runs}
    if not runs:
        raise DataError(f"none of these evaluations has a finished run; {'; '.join(_failures(folders))}")
    groups = group_runs(runs)
    overview = overview_table(runs, chosen)
    compared, no_figures = None, None
    try:
        compared = _methods_compared(overview)
    except MissingExtraError as error:
        no_figures = f"No figures: {error}."
    report_progress = progress or (lambda done, total: None)
    blocks = []
    for place, group in enumerate(groups):
        report_progress(place, len(groups))
        where = places[id(group.first)]
        blocks.append(_run_block(group, f"r{place}", where, chosen, len(groups), draw=no_figures is None))
    report_progress(len(groups), len(groups))
    links = {place: block.id for place, block in enumerate(blocks)}
    methods = list(dict.fromkeys(group.first.method for group in groups))
    datasets = list(dict.fromkeys(dataset_title(group.first.dataset) for group in groups))
    values = {
        "title": f"{_listed(methods)} on {_listed(datasets)}",
        "about": _about(folders, runs),
        "warnings": [*_warnings(folders, runs), *filter(None, [no_figures])],
        "overview": table_block(overview, "overview", links),
        "compared": compared,
        "runs": blocks,
        "provenance": [(str(folder.directory), _provenance(folder)) for folder in folders],
    }
    path = Path(directory) / PAGE_FILE
    write_page(path, "evaluation", values)
    return path


def _run_block(
    group: RunGroup, prefix: str, directory: Path, metrics: Sequence[str], total: int, *, draw: bool
) -> RunBlock:
    run = group.first
    method, where = group_title(group)
    side, number = (224, 8) if total <= MANY_RUNS else (144, 4)
    worst = {
        mistake: [found for found in run.worst if found.mistake == mistake] for mistake in MISTAKE_TITLES
    }
    return RunBlock(
        id=prefix,
        method=method,
        where=where,
        headline=tuple(
            (METRIC_TITLES[metric], f"{100 * run.mean[metric]:.1f}")
            for metric in ("image_auroc", "pixel_auroc")
            if metric in metrics and not math.isnan(run.mean.get(metric, math.nan))
        ),
        table=table_block(category_table(group, metrics), prefix),
        seed=run.seed if len(group.runs) > 1 else None,
        figures=_run_figures(run, directory, prefix) if draw else None,
        sheets=tuple(
            (MISTAKE_TITLES[mistake], [image_block(each, directory, side) for each in found[:number]])
            for mistake, found in worst.items()
            if found
        ),
        left_out=tuple(dict.fromkeys((*run.problems, *run.failed))),
        facts=facts(run_facts(group)),
    )


def _run_figures(run: RunResult, directory: Path, prefix: str) -> RunFigures:
    from zsad.evaluation.report.figures import (
        CURVE_TITLES,
        LINE_COLOURS,
        curve_figure,
        histogram_figure,
        to_svg,
    )

    drawn = []
    for curve, curves in read_curves(directory, run).items():
        if not curves:
            continue
        areas = {row.category: row.metrics.get(AREA_OF_CURVE[curve], math.nan) for row in run.categories}
        label = f"{CURVE_TITLES[curve]} of {run.method} on {run.dataset}, by category"
        figure = curve_figure(curve, curves, areas, run.fpr_limit)
        drawn.append(to_svg(figure, label, f"{prefix}-{curve}"))
    hint = "The numbers are areas under the curves, in percent"
    if len(run.categories) > len(LINE_COLOURS):
        hint += "; the three categories with the smallest areas are coloured"
    scores, histogram = read_scores(directory, run), None
    if scores:
        label = f"Histograms of the image scores of {run.method} on {run.dataset}, by category"
        histogram = to_svg(histogram_figure(scores), label, f"{prefix}-scores")
    return RunFigures(tuple(drawn), f"{hint}.", histogram)


def _methods_compared(table: ResultTable) -> MethodsCompared | None:
    """Compares methods in the first and the last metric that is defined; None for a single method."""
    from zsad.evaluation.report.figures import comparison_figure, to_svg

    rows = [row for row in table.rows if not row.is_mean]
    defined = [
        metric
        for column, metric in enumerate(table.metrics)
        if any(not math.isnan(row.cells[column].value) for row in rows)
    ]
    if len({row.labels[1:] for row in rows}) < 2 or not defined:
        return None
    figures = []
    for metric in dict.fromkeys((defined[0], defined[-1])):
        label = f"{METRIC_TITLES[metric]} of each method on each dataset"
        figures.append(to_svg(comparison_figure(table, metric), label, f"compared-{metric}"))
    return MethodsCompared(tuple(figures), is_large=len({row.labels[0] for row in rows}) > 4)


def _warnings(folders: Sequence[EvaluationFolder], runs: Sequence[RunResult]) -> list[str]:
    lines = [*warnings_of(runs), *_failures(folders)]
    failed = len({line for run in runs for line in run.failed})
    if failed:
        lines.append(f"{failed} images could not be scored; the runs below list them.")
    return lines


def _failures(folders: Sequence[EvaluationFolder]) -> list[str]:
    failed = [run for folder in folders for run in folder.result.failed_runs]
    return [f"{run.method} on {run.dataset} failed: {run.error}" for run in failed]


def _about(folders: Sequence[EvaluationFolder], runs: Sequence[RunResult]) -> str:
    images = {
        (run.dataset, row.category): row.normal + row.anomalous for run in runs for row in run.categories
    }
    started = sorted(str(folder.result.provenance.get("started", ""))[:10] for folder in folders)
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}, {sum(images.values())} images"
    return ", ".join(filter(None, [count, started[-1] if started else ""]))


def _provenance(folder: EvaluationFolder) -> list[tuple[str, str]]:
    provenance: Mapping[str, object] = folder.result.provenance
    return facts((name.replace("_", " "), value) for name, value in provenance.items())


def _listed(names: Sequence[str]) -> str:
    if len(names) > 3:
        return f"{names[0]}, {names[1]} and {len(names) - 2} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))

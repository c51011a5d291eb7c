"""The page of an evaluation: overview, every run with its figures and worst images, provenance.

One file that works from disk: no server, no request to the network, light and dark, wide and narrow. Its size
stays bounded: images are embedded small, and smaller and fewer the more runs there are; curves are thinned.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from zsad.errors import DataError, MissingExtraError
from zsad.evaluation.report.blocks import (
    MISTAKE_TITLES,
    facts_html,
    file_inside,
    group_title,
    run_facts,
    sheet_html,
    table_html,
)
from zsad.evaluation.report.notes import warnings_of
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
from zsad.evaluation.results import CURVES, EvaluationResult, RunResult, read_evaluation
from zsad.files.atomic import atomic_file
from zsad.files.plain import read_json

REPORT_FILE = "index.html"
MANY_RUNS = 12
AREA_OF_CURVE = {
    "image_roc": "image_auroc",
    "image_pr": "image_ap",
    "pixel_roc": "pixel_auroc",
    "pixel_pr": "pixel_ap",
    "pixel_pro": "pixel_aupro",
}


@dataclass(frozen=True)
class EvaluationFolder:
    """An evaluation and the folder that its files lie in.

    Attributes:
        result: what `results.json` holds.
        directory: that the result's paths are relative to.
    """

    result: EvaluationResult
    directory: Path


def open_evaluation(path: str | Path) -> EvaluationFolder:
    """Reads the folder of a `zsad evaluate`, or its `results.json`.

    Raises:
        DataError: there is no such file, or it is damaged.
    """
    path = Path(path)
    return EvaluationFolder(read_evaluation(path), path if path.is_dir() else path.parent)


def write_evaluation_report(
    folders: Sequence[EvaluationFolder],
    directory: str | Path,
    metrics: Iterable[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes `index.html` about one evaluation or several.

    Args:
        folders: whose runs are shown together.
        directory: for the page; made if it is not there.
        metrics: columns of the tables; None for all seven.
        progress: called with the number of run sections made and to make.

    Returns:
        The page. Without matplotlib it has no figures and says so.

    Raises:
        ConfigError: an unknown metric.
        DataError: none of the evaluations has a finished run.
        OSError: the page cannot be written.
    """
    chosen = checked_metrics(metrics)
    runs = [run for folder in folders for run in folder.result.runs]
    places = {id(run): folder.directory for folder in folders for run in folder.result.runs}
    if not runs:
        raise DataError(f"none of these evaluations has a finished run; {_failures(folders)}")
    groups = group_runs(runs)
    overview = overview_table(runs, chosen)
    comparison, missing_extra = "", ""
    try:
        comparison = _comparison(overview)
    except MissingExtraError as error:
        missing_extra = str(error)
    report_progress = progress or (lambda done, total: None)
    sections = []
    for place, group in enumerate(groups):
        report_progress(place, len(groups))
        where = places[id(group.first)]
        sections.append(_section(group, f"r{place}", where, chosen, len(groups), draw=not missing_extra))
    report_progress(len(groups), len(groups))
    script = _template("evaluation.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    methods = list(dict.fromkeys(group.first.method for group in groups))
    datasets = list(dict.fromkeys(dataset_title(group.first.dataset) for group in groups))
    links = {place: f"r{place}" for place in range(len(groups))}
    values = {
        "title": html.escape(_listed(methods) + " on " + _listed(datasets)),
        "about": html.escape(_about(folders, runs)),
        "script": script,
        "script_hash": f"sha256-{digest}",
        "warnings": _warnings(folders, runs, missing_extra),
        "overview": f'<div class="panel">{table_html(overview, "overview", links)}</div>',
        "comparison": comparison,
        "buttons_hidden": "" if len(groups) > 1 else "hidden",
        "runs": "\n".join(sections),
        "provenance": "".join(_provenance(folder, len(folders) > 1) for folder in folders),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], _template("evaluation.html"))
    path = Path(directory) / REPORT_FILE
    with atomic_file(path) as file:
        file.write(page.encode("utf-8", errors="backslashreplace"))
    return path


def read_scores(directory: Path, run: RunResult) -> dict[str, tuple[list[float], list[float]]]:
    """Image scores by category: those of normal images and those of anomalous ones.

    Args:
        directory: of the results.
        run: whose images are read.

    Returns:
        In the run's order of categories; empty if the file is not there. Damaged lines are passed over.
    """
    found: dict[str, tuple[list[float], list[float]]] = {row.category: ([], []) for row in run.categories}
    path = file_inside(directory, run.pictures_file)
    if path is None:
        return {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
            score, label, category = values["score"], values["label"], values["category"]
        except (ValueError, TypeError, KeyError):
            continue
        if isinstance(score, int | float) and math.isfinite(score) and category in found:
            found[category][1 if label else 0].append(float(score))
    return {category: pair for category, pair in found.items() if pair[0] or pair[1]}


def read_curves(directory: Path, run: RunResult) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Curves of a run: name of the curve -> category -> {"x": values, "y": values}; empty without a file."""
    path = file_inside(directory, run.curves_file)
    if path is None:
        return {}
    try:
        categories = read_json(path)["categories"]
        return {
            curve: {name: found[curve] for name, found in categories.items() if found.get(curve)}
            for curve in CURVES
        }
    except (DataError, KeyError, AttributeError):
        return {}


def _section(
    group: RunGroup, prefix: str, directory: Path, metrics: Sequence[str], total: int, *, draw: bool
) -> str:
    """Everything about one run, folded away if there are more than a few."""
    run = group.first
    table = category_table(group, metrics)
    method, where = group_title(group)
    head = "".join(
        f"<span>{METRIC_TITLES[metric]} <b>{100 * run.mean[metric]:.1f}</b></span> "
        for metric in ("image_auroc", "pixel_auroc")
        if metric in metrics and not math.isnan(run.mean.get(metric, math.nan))
    )
    parts = [table_html(table, prefix)]
    if len(group.runs) > 1:
        parts.append(f'<div class="part"><p class="hint">Figures and images: seed {run.seed}.</p></div>')
    if draw:
        parts += [f'<div class="part">{part}</div>' for part in _figures(run, directory, prefix)]
    side, number = (224, 8) if total <= MANY_RUNS else (144, 4)
    for mistake, title in MISTAKE_TITLES.items():
        pictures = [picture for picture in run.worst if picture.mistake == mistake][:number]
        if pictures:
            sheet = sheet_html(pictures, directory, side)
            parts.append(f'<div class="part"><h3>{title}</h3>{sheet}</div>')
    left_out = list(dict.fromkeys((*run.problems, *run.failed)))
    if left_out:
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in left_out[:50])
        more = f"<li>and {len(left_out) - 50} more</li>" if len(left_out) > 50 else ""
        parts.append(f'<div class="part"><h3>Left out</h3><ul class="hint">{lines}{more}</ul></div>')
    parts.append(f'<div class="part"><h3>How it was run</h3>{facts_html(run_facts(group))}</div>')
    is_open = " open" if total <= 2 else ""
    return (
        f'<details class="run panel" id="{prefix}"{is_open}><summary><b>{html.escape(method)}</b>'
        f'<span class="where">{html.escape(where)}</span><span class="figures-of-run">{head}</span></summary>'
        f'<div class="body">{"".join(parts)}</div></details>'
    )


def _figures(run: RunResult, directory: Path, prefix: str) -> Iterator[str]:
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
        drawn.append(f"<figure>{to_svg(figure, label, f'{prefix}-{curve}')}</figure>")
    if drawn:
        hint = "The numbers are the areas in percent"
        if len(run.categories) > len(LINE_COLOURS):
            hint += "; the three categories with the smallest areas are coloured"
        yield f'<h3>Curves</h3><p class="hint">{hint}.</p><div class="figures">{"".join(drawn)}</div>'
    scores = read_scores(directory, run)
    if scores:
        label = f"Histograms of the image scores of {run.method} on {run.dataset}, by category"
        svg = to_svg(histogram_figure(scores), label, f"{prefix}-scores")
        yield f'<h3>Image scores</h3><figure class="wide">{svg}</figure>'


def _comparison(table: ResultTable) -> str:
    """Methods compared in the first and the last metric that is defined; "" for a single method."""
    from zsad.evaluation.report.figures import comparison_figure, to_svg

    rows = [row for row in table.rows if not row.is_mean]
    defined = [
        metric
        for column, metric in enumerate(table.metrics)
        if any(not math.isnan(row.cells[column].value) for row in rows)
    ]
    if len({row.labels[1:] for row in rows}) < 2 or not defined:
        return ""
    figures = []
    is_large = len({row.labels[0] for row in rows}) > 4  # datasets, one column of the figure each
    for metric in dict.fromkeys((defined[0], defined[-1])):
        label = f"{METRIC_TITLES[metric]} of each method on each dataset"
        svg = to_svg(comparison_figure(table, metric), label, f"compared-{metric}")
        figures.append(f'<figure class="wide {"large" if is_large else "compared"}">{svg}</figure>')
    kind = "" if is_large else " figures"
    return f'<h2>Methods compared</h2><div class="panel padded{kind}">{"".join(figures)}</div>'


def _warnings(folders: Sequence[EvaluationFolder], runs: Sequence[RunResult], missing_extra: str) -> str:
    lines = [*warnings_of(runs), *filter(None, [_failures(folders)])]
    failed = len({line for run in runs for line in run.failed})
    if failed:
        lines.append(f"{failed} images could not be scored; the runs below name them.")
    if missing_extra:
        lines.append(f"No figures: {missing_extra}.")
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<aside class="panel warnings"><b>Read this first</b><ul>{items}</ul></aside>'


def _failures(folders: Sequence[EvaluationFolder]) -> str:
    failed = [run for folder in folders for run in folder.result.failed_runs]
    return "; ".join(f"{run.method} on {run.dataset} failed: {run.error}" for run in failed)


def _about(folders: Sequence[EvaluationFolder], runs: Sequence[RunResult]) -> str:
    pictures = {
        (run.dataset, row.category): row.normal + row.anomalous for run in runs for row in run.categories
    }
    started = sorted(str(folder.result.provenance.get("started", ""))[:10] for folder in folders)
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}, {sum(pictures.values())} images"
    return ", ".join(filter(None, [count, started[-1] if started else ""]))


def _provenance(folder: EvaluationFolder, several: bool) -> str:
    title = f"<h3>{html.escape(str(folder.directory))}</h3>" if several else ""
    facts: Mapping[str, Any] = folder.result.provenance
    return title + facts_html((name.replace("_", " "), value) for name, value in facts.items())


def _listed(names: Sequence[str]) -> str:
    if len(names) > 3:
        return f"{names[0]}, {names[1]} and {len(names) - 2} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _template(name: str) -> str:
    return resources.files("zsad.files").joinpath("templates").joinpath(name).read_text(encoding="utf-8")

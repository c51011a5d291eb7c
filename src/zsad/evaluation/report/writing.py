"""Writes the files of `zsad report`: page and tables of one or several evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zsad.errors import DataError, unknown_name
from zsad.evaluation.report.formats import to_csv, to_latex, to_markdown
from zsad.evaluation.report.page import write_evaluation_report
from zsad.evaluation.report.tables import (
    categories_table,
    category_table,
    checked_metrics,
    group_runs,
    overview_table,
)
from zsad.files.atomic import atomic_file
from zsad.files.csv_tables import write_csv_file

if TYPE_CHECKING:
    from zsad.evaluation.report.reading import EvaluationFolder

ReportFormat = Literal["html", "markdown", "csv", "latex"]
REPORT_FORMATS: tuple[ReportFormat, ...] = ("html", "markdown", "csv", "latex")
MARKDOWN_FILE, LATEX_FILE = "tables.md", "tables.tex"
OVERVIEW_FILE, CATEGORIES_FILE = "overview.csv", "categories.csv"


def checked_formats(names: Iterable[str]) -> tuple[ReportFormat, ...]:
    """Checks names of report formats and sorts them into the order of `REPORT_FORMATS`, without duplicates.

    Raises:
        ConfigError: a name is unknown; the message lists the known names.
    """
    wanted = list(names)
    for name in wanted:
        if name not in REPORT_FORMATS:
            raise unknown_name("report format", name, REPORT_FORMATS)
    return tuple(known for known in REPORT_FORMATS if known in wanted) or ("html",)


def write_report_files(
    folders: Sequence[EvaluationFolder],
    directory: str | Path,
    formats: Sequence[ReportFormat] = ("html",),
    metrics: Iterable[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    csv_delimiter: str = ",",
) -> list[Path]:
    """Writes page and tables of one or several evaluations.

    Args:
        folders: evaluations whose runs are shown together.
        directory: folder for the files; created if missing.
        formats: any of "html" (index.html), "markdown" (tables.md), "csv" (overview.csv, categories.csv) and
            "latex" (tables.tex).
        metrics: columns; None for all seven.
        progress: called with the numbers of finished and of all run sections of the page.
        csv_delimiter: character between two cells of the CSV files.

    Returns:
        Paths of the files, in the order of the formats.

    Raises:
        ConfigError: a metric is unknown.
        DataError: none of the evaluations has a finished run.
        OSError: a file cannot be written.
    """
    chosen = checked_metrics(metrics)
    runs = [run for folder in folders for run in folder.result.runs]
    if not runs:
        raise DataError("none of these evaluations has a finished run; see their results.json")
    directory = Path(directory).expanduser()
    overview = overview_table(runs, chosen)
    tables = [category_table(group, chosen) for group in group_runs(runs)]
    written = []
    for name in formats:
        if name == "html":
            written.append(write_evaluation_report(folders, directory, chosen, progress))
        elif name == "markdown":
            text = "\n".join([to_markdown(overview), *map(to_markdown, tables)])
            written.append(_write(directory / MARKDOWN_FILE, text))
        elif name == "latex":
            text = "\n".join([to_latex(overview), *map(to_latex, tables)])
            written.append(_write(directory / LATEX_FILE, text))
        else:
            written.append(write_csv_file(directory / OVERVIEW_FILE, to_csv(overview, csv_delimiter)))
            text = to_csv(categories_table(runs, chosen), csv_delimiter)
            written.append(write_csv_file(directory / CATEGORIES_FILE, text))
    return written


def _write(path: Path, text: str) -> Path:
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", errors="backslashreplace"))
    return path

"""Formats tables of results for the terminal, and as Markdown, CSV and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from zsad.evaluation.report.notes import source_key, source_numbers
from zsad.evaluation.report.tables import COUNTS, METRIC_TITLES, Cell, ResultTable
from zsad.files.csv_tables import csv_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

Marks = Mapping[tuple[str, str, str, str], int]

LONGEST_ON_A_LINE = 24  # letters; longer settings, paths and folder names may wrap
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
    }
)


def percent(value: float) -> str:
    """Formats a percentage with one decimal; "-" if it is undefined."""
    return "-" if math.isnan(value) else f"{value:.1f}"


def own_text(cell: Cell) -> str:
    """Formats our value of a cell: the mean, and the standard deviation of several seeds."""
    deviation = cell.deviation
    return percent(cell.value) if deviation is None else f"{percent(cell.value)} ± {deviation:.1f}"


def footnotes(table: ResultTable) -> Marks:
    """Footnote numbers of a table's sources; `table.sources` has their texts in this order."""
    return source_numbers(cell.published for row in table.rows for cell in row.cells if cell.published)


def to_text(table: ResultTable) -> RenderableType:
    """Formats a table for a terminal, with its notes below it.

    If the table is wider than the terminal, the columns with numbers of images are omitted; the notes have
    their sums. If it is still too wide, image metrics and pixel metrics become two tables. No word is broken.
    """
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    numbered = [f"{_superscript(place)} {text}" for place, text in enumerate(table.sources, start=1)]
    lines = [Padding(Text(line, style="dim"), (0, 0, 0, 1)) for line in (*table.notes, *numbered)]
    return Group(_Fitting(table), *lines)


class _Fitting:
    """A table in the widest form that fits the console."""

    def __init__(self, table: ResultTable) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.measure import Measurement

        table = self._table
        # On a console without bounds, the measure is the natural width of the table.
        unbounded = options.update(max_width=10_000)
        labels = tuple(label for label in table.labels if label not in COUNTS)
        for shown in dict.fromkeys((table.labels, labels)):
            grid = _grid(table, shown, table.metrics, table.title)
            if Measurement.get(console, unbounded, grid).maximum <= options.max_width:
                yield grid
                return
        halves = [tuple(m for m in table.metrics if m.startswith(part)) for part in ("image", "pixel")]
        title: str | None = table.title
        for metrics in filter(None, halves):
            yield _grid(table, labels, metrics, title)
            title = None


def _grid(table: ResultTable, labels: Sequence[str], metrics: Sequence[str], title: str | None) -> Table:
    """Formats some columns of a table for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    marks = footnotes(table)
    grid = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
    )
    places = [table.labels.index(label) for label in labels]
    for place in places:
        longest = max(len(row.labels[place]) for row in table.rows)
        grid.add_column(Text(table.labels[place]), overflow="fold", no_wrap=longest <= LONGEST_ON_A_LINE)
    for metric in metrics:
        grid.add_column(Text(METRIC_TITLES[metric].replace(" ", "\n")), justify="right", no_wrap=True)
    last = ""
    for row in table.rows:
        first, *others = (row.labels[place] for place in places)
        # The name of a dataset is printed once for all its methods.
        texts = ["" if first == last and len(table.labels) > 1 else first, *others]
        last = first
        cells = dict(zip(table.metrics, row.cells, strict=True))
        # Deviation and published number go below our value: side by side, seven columns exceed 80 letters.
        values = [
            _with_published(cells[metric], marks, _superscript).replace(" ±", "\n±").replace(" (", "\n(")
            for metric in metrics
        ]
        grid.add_row(*map(Text, (*texts, *values)), style="bold" if row.is_mean else "")
    return grid


def to_markdown(table: ResultTable, level: int = 2) -> str:
    """Formats a table as GitHub Markdown.

    Args:
        table: results.
        level: level of the heading; the notes follow as a list.
    """
    marks = footnotes(table)
    titles = [METRIC_TITLES[metric] for metric in table.metrics]
    lines = [
        f"{'#' * level} {_markdown(table.title)}",
        "",
        _markdown_row([*map(_markdown, table.labels), *titles]),
        "|" + "---|" * len(table.labels) + "---:|" * len(titles),
    ]
    for row in table.rows:
        cells = [_with_published(cell, marks, lambda number: f"<sup>{number}</sup>") for cell in row.cells]
        texts = [*map(_markdown, row.labels), *cells]
        lines.append(_markdown_row([f"**{text}**" for text in texts] if row.is_mean else texts))
    lines += ["", *(f"- {_markdown(note)}" for note in table.notes)]
    lines += [f"- <sup>{place}</sup> {_markdown(text)}" for place, text in enumerate(table.sources, start=1)]
    return "\n".join(lines) + "\n"


def to_csv(table: ResultTable, delimiter: str = ",") -> str:
    """Formats a table as CSV at full precision: values in percent, undefined values empty.

    Each metric has a column. Columns with the suffixes `_std` (several seeds), `_low` and `_high` (95 %
    bootstrap interval), `_published` and `_source` follow if a row has such values.
    """
    cells = list(zip(*(row.cells for row in table.rows), strict=True))
    columns = []
    for metric, column in zip(table.metrics, cells, strict=True):
        columns.append(metric)
        if any(cell.deviation is not None for cell in column):
            columns.append(f"{metric}_std")
        if any(cell.interval is not None for cell in column):
            columns += [f"{metric}_low", f"{metric}_high"]
        if any(cell.published is not None for cell in column):
            columns += [f"{metric}_published", f"{metric}_source"]
    rows = []
    for row in table.rows:
        values: dict[str, object] = dict(zip(table.labels, row.labels, strict=True))
        for metric, cell in zip(table.metrics, row.cells, strict=True):
            values |= _csv_values(metric, cell)
        rows.append(values)
    return csv_text([*table.labels, *columns], rows, delimiter)


def to_latex(table: ResultTable) -> str:
    """Formats a table as a LaTeX `table` environment, which needs the package booktabs."""
    marks = footnotes(table)
    titles = [METRIC_TITLES[metric] for metric in table.metrics]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{latex_escape(table.title)}. {latex_escape(' '.join(table.notes))}}}",
        f"  \\begin{{tabular}}{{{'l' * len(table.labels)}{'r' * len(titles)}}}",
        r"    \toprule",
        _latex_row([*map(latex_escape, table.labels), *map(latex_escape, titles)]),
        r"    \midrule",
    ]
    last = None
    for row in table.rows:
        if row.is_mean and last is not None and not last.is_mean:
            lines.append(r"    \midrule")
        cells = [
            _with_published(cell, marks, lambda number: f"\\textsuperscript{{{number}}}").replace(
                "±", r"$\pm$"
            )
            for cell in row.cells
        ]
        lines.append(_latex_row([*map(latex_escape, row.labels), *cells]))
        last = row
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    for place, text in enumerate(table.sources, start=1):
        lines += ["", f"  \\footnotesize\\textsuperscript{{{place}}} {latex_escape(text)}"]
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def latex_escape(text: str) -> str:
    """Escapes all characters that have a meaning in LaTeX."""
    return " ".join(text.translate(_LATEX).split())


def _with_published(cell: Cell, marks: Marks, mark: Callable[[int], str]) -> str:
    if cell.published is None:
        return own_text(cell)
    return f"{own_text(cell)} ({cell.published.value:.1f}){mark(marks[source_key(cell.published)])}"


def _superscript(number: int) -> str:
    return str(number).translate(_SUPERSCRIPTS)


def _csv_values(metric: str, cell: Cell) -> dict[str, object]:
    values: dict[str, object] = {metric: _full(cell.value)}
    if cell.deviation is not None:
        values[f"{metric}_std"] = _full(cell.deviation)
    if cell.interval is not None:
        values[f"{metric}_low"], values[f"{metric}_high"] = (_full(100 * end) for end in cell.interval)
    if cell.published is not None:
        values[f"{metric}_published"] = _full(cell.published.value)
        values[f"{metric}_source"] = f"{cell.published.source}, {cell.published.table}"
    return values


def _full(value: float) -> float | None:
    return None if math.isnan(value) else value


def _markdown(text: str) -> str:
    """Escapes all characters that have a meaning in Markdown or HTML."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join("".join(f"\\{c}" if c in "\\`*_[]|" else c for c in text).split())


def _markdown_row(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _latex_row(texts: list[str]) -> str:
    return f"    {' & '.join(texts)} \\\\"

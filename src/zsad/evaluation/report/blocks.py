"""What the page of an evaluation shows: texts and numbers of tables, contact sheets and facts.

The markup stands in `zsad/files/templates/evaluation.html`, which escapes every text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.data.catalog import find_dataset
from zsad.evaluation.report.formats import Marks, footnotes, own_text
from zsad.evaluation.report.notes import source_key
from zsad.evaluation.report.reading import thumbnail_url
from zsad.evaluation.report.tables import METRIC_TITLES, Cell, ResultTable, RunGroup, dataset_title

if TYPE_CHECKING:
    from zsad.evaluation.results import WorstPicture


@dataclass(frozen=True)
class CellBlock:
    """One cell of a table.

    Attributes:
        text: own value in percent, with its standard deviation if there is one; "-" if undefined.
        value: own value in percent, for sorting; None if undefined.
        interval: 95 % bootstrap interval in words; "" if there is none.
        published: published value in percent; None if there is none.
        source: footnote number of the published value; None if there is none.
        is_best: whether the value is the highest among the methods.
    """

    text: str
    value: float | None
    interval: str
    published: float | None
    source: int | None
    is_best: bool


@dataclass(frozen=True)
class RowBlock:
    """One row of a table.

    Attributes:
        labels: one text for each label column.
        cells: one for each metric.
        link: id of the element that the first label leads to; None for no link.
        is_mean: whether the row averages other rows.
    """

    labels: tuple[str, ...]
    cells: tuple[CellBlock, ...]
    link: str | None
    is_mean: bool


@dataclass(frozen=True)
class TableBlock:
    """A table whose columns sort on a click, with its notes and sources.

    Attributes:
        prefix: beginning of the footnotes' ids, unique in the page.
        title: label for screen readers.
        labels: titles of the label columns.
        metrics: titles of the metric columns.
        rows: rows in order.
        notes: sentences below the table.
        sources: sources of the published numbers, in the order of their footnotes.
    """

    prefix: str
    title: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[RowBlock, ...]
    notes: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class ImageBlock:
    """One image of a contact sheet.

    Attributes:
        path: path of the image.
        name: its file name.
        thumbnail: its overlay as a `data:` URL; None for an empty frame.
        score: image score with four decimals.
        kind: category, and the kind of defect of an anomalous image.
        rank: share of the other class's images that the score is on the wrong side of, in words; "" if the
            category has no other class.
    """

    path: str
    name: str
    thumbnail: str | None
    score: str
    kind: str
    rank: str


def table_block(table: ResultTable, prefix: str, links: Mapping[int, str] | None = None) -> TableBlock:
    """Prepares a table for the page.

    Args:
        table: results.
        prefix: beginning of the footnotes' ids, unique in the page.
        links: row number -> id of the element that the row's first label leads to.
    """
    marks, best = footnotes(table), _best_values(table)
    rows = tuple(
        RowBlock(
            row.labels,
            tuple(
                _cell_block(cell, marks, is_best=cell.value == best.get((row.labels[0], column)))
                for column, cell in enumerate(row.cells)
            ),
            (links or {}).get(place),
            row.is_mean,
        )
        for place, row in enumerate(table.rows)
    )
    notes = (*table.notes, "Bold: the highest value among the methods.") if best else table.notes
    metrics = tuple(METRIC_TITLES[metric] for metric in table.metrics)
    return TableBlock(prefix, table.title, table.labels, metrics, rows, notes, table.sources)


def image_block(found: WorstPicture, directory: Path, side: int) -> ImageBlock:
    """Prepares one image for a contact sheet.

    Args:
        found: image that its score puts on the wrong side of others.
        directory: results folder.
        side: longest side of the embedded thumbnail in pixels.
    """
    is_missed = found.mistake == "false negative"
    rank = "below {} of normal images" if is_missed else "above {} of anomalous images"
    return ImageBlock(
        path=found.path,
        name=found.path.replace("\\", "/").rpartition("/")[2],
        thumbnail=thumbnail_url(directory, found.file, side),
        score=f"{found.score:.4f}",
        kind=f"{found.category}, {found.defect}" if is_missed else found.category,
        rank="" if math.isnan(found.outranked) else rank.format(f"{100 * found.outranked:.0f} %"),
    )


def run_facts(group: RunGroup) -> list[tuple[str, Any]]:
    """Lists how the numbers of a run were made, as names and JSON values."""
    run = group.first
    record = find_dataset(run.dataset)
    paces = [row.seconds for row in run.categories if not math.isnan(row.seconds)]
    seconds = ", ".join(f"{other.seconds:.1f}" for other in group.runs)
    return [
        ("Method", run.method),
        ("Backbone", f"{run.backbone}, {run.precision}"),
        ("Checkpoint", run.checkpoint or "shipped with zsad, or none needed"),
        ("Weights (SHA-256)", run.weights_sha256[:16]),
        ("Trained on", run.auxiliary_data or "nothing"),
        ("Dataset", f"{record.title}, {record.licence}, {record.page}" if record else run.dataset),
        ("Split", run.split),
        ("References per category", run.references or None),
        ("References turned and flipped", "yes" if run.augment_references else None),
        ("Seeds" if len(group.runs) > 1 else "Seed", ", ".join(str(other.seed) for other in group.runs)),
        ("Settings", run.settings),
        ("Seconds per run", seconds),
        (
            "Seconds per image",
            f"{sum(paces) / len(paces):.3f}, mean of the categories' medians" if paces else None,
        ),
    ]


def group_title(group: RunGroup) -> tuple[str, str]:
    """The method of a run, and where it ran, for a heading."""
    run = group.first
    shots = f", {run.shots}" if run.references else ""
    return run.method + shots, f"{dataset_title(run.dataset)}, {run.backbone} at {run.image_size} pixels"


def _cell_block(cell: Cell, marks: Marks, *, is_best: bool) -> CellBlock:
    interval = ""
    if cell.interval is not None and not any(map(math.isnan, cell.interval)):
        low, high = (100 * end for end in cell.interval)
        interval = f"95 % interval {low:.1f} to {high:.1f}"
    return CellBlock(
        text=own_text(cell),
        value=None if math.isnan(cell.value) else cell.value,
        interval=interval,
        published=cell.published.value if cell.published else None,
        source=marks[source_key(cell.published)] if cell.published else None,
        is_best=is_best,
    )


def _best_values(table: ResultTable) -> dict[tuple[str, int], float]:
    """The highest value of each metric among the rows with the same first label, where values differ."""
    found: dict[tuple[str, int], list[float]] = {}
    for row in table.rows:
        for column, cell in enumerate(row.cells):
            if not math.isnan(cell.value):
                found.setdefault((row.labels[0], column), []).append(cell.value)
    return {key: max(values) for key, values in found.items() if len(set(values)) > 1}

"""Tables, contact sheets and facts of an evaluation as HTML; what comes from outside is escaped."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.data.catalog import find_dataset
from zsad.evaluation.report.formats import Marks, footnotes, own_text
from zsad.evaluation.report.notes import source_key
from zsad.evaluation.report.tables import METRIC_TITLES, Cell, ResultTable, RunGroup, dataset_title

if TYPE_CHECKING:
    from zsad.evaluation.results import WorstPicture

MISTAKE_TITLES = {
    "false negative": "Missed: anomalous images with low scores",
    "false positive": "False alarms: normal images with high scores",
}


def table_html(table: ResultTable, prefix: str, links: Mapping[int, str] | None = None) -> str:
    """A table whose columns sort on a click, with its notes and sources under it.

    Args:
        table: of results.
        prefix: unique in the page; ids of footnotes begin with it.
        links: row -> id in the page that its first label leads to.
    """
    marks = footnotes(table)
    heads = [
        f'<th scope="col"><button type="button">{html.escape(label)}</button></th>' for label in table.labels
    ]
    heads += [
        f'<th scope="col" class="number"><button type="button">{METRIC_TITLES[metric]}</button></th>'
        for metric in table.metrics
    ]
    best = _best_values(table)
    rows = []
    for place, row in enumerate(table.rows):
        name = html.escape(row.labels[0])
        target = (links or {}).get(place)
        first = f'<a href="#{html.escape(target)}">{name}</a>' if target else name
        others = "".join(
            f'<td class="number" data-value="{label}">{label}</td>'
            if label.isdigit()
            else f"<td>{html.escape(label)}</td>"
            for label in row.labels[1:]
        )
        cells = "".join(
            _cell(cell, marks, prefix, is_best=cell.value == best.get((row.labels[0], column)))
            for column, cell in enumerate(row.cells)
        )
        rows.append(
            f'<tr{" class=mean" if row.is_mean else ""}><th scope="row">{first}</th>{others}{cells}</tr>'
        )
    hint = ("Bold: the highest among methods.",) if best else ()
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in (*table.notes, *hint))
    sources = "".join(
        f'<li id="{prefix}-s{number}">{linked(text)}</li>'
        for number, text in enumerate(table.sources, start=1)
    )
    return (
        '<div class="results"><div class="scroll" role="region" tabindex="0" '
        f'aria-label="{html.escape(table.title)}"><table><thead><tr>{"".join(heads)}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div><ul class="notes">{notes}</ul>'
        + (f'<ol class="notes">{sources}</ol>' if sources else "")
        + "</div>"
    )


def linked(text: str) -> str:
    """Escaped text in which web addresses are links."""
    parts = re.split(r"(https://[^\s;,<>\"']+)", text)
    return "".join(
        f'<a href="{html.escape(part)}" rel="noreferrer">{html.escape(part)}</a>'
        if place % 2
        else html.escape(part)
        for place, part in enumerate(parts)
    )


def facts_html(facts: Iterable[tuple[str, Any]]) -> str:
    """Names and values as a list; empty values are left out."""
    items = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{linked(shown(value))}</dd>"
        for name, value in facts
        if value not in (None, "", (), [], {})
    )
    return f"<dl>{items}</dl>"


def shown(value: Any) -> str:
    """A JSON value as one line for a reader."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={shown(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return " ".join(shown(item) for item in value)
    return str(value)


def run_facts(group: RunGroup) -> list[tuple[str, Any]]:
    """What made the numbers of a run."""
    run = group.first
    record = find_dataset(run.dataset)
    paces = [row.seconds for row in run.categories if not math.isnan(row.seconds)]
    seconds = ", ".join(f"{other.seconds:.1f}" for other in group.runs)
    return [
        ("Method", run.method),
        ("Backbone", f"{run.backbone}, {run.precision}"),
        ("Checkpoint", run.checkpoint or "shipped with zsad, or nothing learnt"),
        ("Weights (SHA-256)", run.weights_sha256[:16]),
        ("Trained on", run.auxiliary_data or "nothing"),
        ("Dataset", f"{record.title}, {record.licence}, {record.page}" if record else run.dataset),
        ("Split", run.split),
        ("Good images given", run.references or None),
        ("Seeds" if len(group.runs) > 1 else "Seed", ", ".join(str(other.seed) for other in group.runs)),
        ("Settings", run.settings),
        ("Seconds of the run", seconds),
        (
            "Seconds an image",
            f"{sum(paces) / len(paces):.3f}, mean of the categories' medians" if paces else None,
        ),
    ]


def group_title(group: RunGroup) -> tuple[str, str]:
    """Method, and where it ran, for a heading."""
    run = group.first
    shots = f", {run.references}-shot" if run.references else ""
    return run.method + shots, f"{dataset_title(run.dataset)}, {run.backbone} at {run.image_size} pixels"


def sheet_html(pictures: Iterable[WorstPicture], directory: Path, side: int) -> str:
    """A contact sheet: each image's overlay, small, with its score.

    Args:
        pictures: of one kind of mistake, worst first.
        directory: that their files are relative to.
        side: longest side of the embedded images in pixels.
    """
    items = []
    for picture in pictures:
        source = thumbnail_url(directory, picture.file, side)
        name = html.escape(picture.path.replace("\\", "/").rpartition("/")[2])
        image = (
            f'<img src="{source}" loading="lazy" decoding="async" alt="Heat map over {name}">'
            if source
            else ""
        )
        defect = "" if picture.mistake == "false positive" else f", {picture.defect}"
        outranked = picture.outranked
        side_of = "below {} of normal" if picture.mistake == "false negative" else "above {} of anomalous"
        rank = "" if math.isnan(outranked) else side_of.format(f"{100 * outranked:.0f} %")
        items.append(
            f'<li title="{html.escape(picture.path)}"><span class="frame">{image}</span>'
            f"<b>{picture.score:.4f}</b>"
            f'<span class="line">{html.escape(picture.category + defect)}</span>'
            f'<span class="line">{name}</span><span class="line" title="{rank}">{rank}</span></li>'
        )
    return f'<ul class="sheet">{"".join(items)}</ul>'


def thumbnail_url(directory: Path, file: str, side: int) -> str:
    """An image of a results' folder as a small JPEG in a data URL; "" if it is not there or none."""
    from PIL import Image

    path = file_inside(directory, file)
    if path is None:
        return ""
    try:
        with Image.open(path) as opened:
            opened.thumbnail((side, side))
            picture = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    target = io.BytesIO()
    picture.save(target, format="JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(target.getvalue()).decode()}"


def file_inside(directory: Path, relative: str | None) -> Path | None:
    """A file of a results' folder; None if there is none, or if the path leads out of the folder."""
    if not relative:
        return None
    path = (directory / relative).resolve()
    return path if path.is_relative_to(directory.resolve()) and path.is_file() else None


def _cell(cell: Cell, marks: Marks, prefix: str, *, is_best: bool) -> str:
    if math.isnan(cell.value):
        value, own = "", "-"
    else:
        value, own = f' data-value="{cell.value!r}"', own_text(cell)
    title = ""
    if cell.interval is not None and not any(map(math.isnan, cell.interval)):
        low, high = (100 * end for end in cell.interval)
        title = f' title="95 % interval {low:.1f} to {high:.1f}"'
    published = ""
    if cell.published is not None:
        number = marks[source_key(cell.published)]
        mark = f'<sup><a href="#{prefix}-s{number}" aria-label="source {number}">{number}</a></sup>'
        published = f'<span class="published">({cell.published.value:.1f}){mark}</span>'
    best = " best" if is_best else ""
    return f'<td class="number"{value}{title}><span class="own{best}">{own}</span>{published}</td>'


def _best_values(table: ResultTable) -> dict[tuple[str, int], float]:
    """The largest value of each metric among the rows with one first label, if they differ."""
    found: dict[tuple[str, int], list[float]] = {}
    for row in table.rows:
        for column, cell in enumerate(row.cells):
            if not math.isnan(cell.value):
                found.setdefault((row.labels[0], column), []).append(cell.value)
    return {key: max(values) for key, values in found.items() if len(set(values)) > 1}

"""Draws curves, score histograms and comparisons of an evaluation. Needs matplotlib (extra "figures").

Every function returns a new matplotlib `Figure` without pyplot, so that no global state changes. Text and
axes have a reserved colour that `to_svg` replaces with the text colour of the page, so that the same figure
is readable in the light and the dark theme.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from zsad.errors import MissingExtraError, printable
from zsad.evaluation.report.tables import METRIC_TITLES, ResultTable, Row
from zsad.evaluation.results import CURVES
from zsad.images.colours import colour_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE_TITLES = {
    "image_roc": "image ROC",
    "image_pr": "image precision-recall",
    "pixel_roc": "pixel ROC",
    "pixel_pr": "pixel precision-recall",
    "pixel_pro": "per-region overlap",
}
# At least 3:1 in contrast to the light and the dark page, and distinguishable by colour-blind readers.
LINE_COLOURS = ("#e8590c", "#4c6ef5", "#2f9e44", "#c2255c", "#0c8599", "#8a63f2")
NORMAL_COLOUR, ANOMALOUS_COLOUR = "#4c6ef5", "#e8590c"
BINS = 24

_INK = "#010203"  # placeholder for the text colour of the page
_SOFT = "#8f8f94"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def curve_figure(
    curve: str,
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    areas: Mapping[str, float] | None = None,
    fpr_limit: float | None = None,
) -> Figure:
    """Draws one kind of curve for the categories of a run.

    Args:
        curve: one of the names in `zsad.evaluation.results.CURVES`.
        curves: category -> {"x": values, "y": values}, all in [0, 1].
        areas: category -> area under its curve, as a fraction. If there are more categories than colours, the
            three with the smallest areas are coloured and the rest is grey.
        fpr_limit: false-positive rate at which the PRO curve is cut; the integrated part is shaded.

    Returns:
        A figure of 4.2 x 4.1 inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (axes,) = _figure(4.2, 4.1)
    figure.set_layout_engine("none")  # the margins are known, and a layout engine would take most of the time
    axes.set_position((0.15, 0.13, 0.81, 0.8))
    areas = areas or {}
    order = sorted(curves, key=lambda name: (_or_one(areas.get(name)), name))
    coloured = dict(zip(order if len(order) <= len(LINE_COLOURS) else order[:3], LINE_COLOURS, strict=False))
    others = [name for name in order if name not in coloured]
    for place, name in enumerate([*coloured, *others]):
        x, y = simplified(np.array(curves[name]["x"]), np.array(curves[name]["y"]))
        if name in coloured:
            area = areas.get(name, math.nan)
            label = short(name) if math.isnan(area) else f"{short(name)}  {100 * area:.1f}"
            # The curve with the smallest area lies on top.
            axes.plot(x, y, color=coloured[name], lw=1.8, label=label, zorder=4 - place / 10)
        else:
            axes.plot(x, y, color=_SOFT, lw=0.8, alpha=0.7, zorder=2)
    if others:
        axes.plot([], [], color=_SOFT, lw=0.8, label=f"{len(others)} other categories")
    if curve.endswith("_roc"):
        axes.plot([0, 1], [0, 1], color=_INK, lw=0.8, ls=(0, (2, 3)))
    if curve == "pixel_pro" and fpr_limit is not None:
        axes.axvspan(0, fpr_limit, color=NORMAL_COLOUR, alpha=0.12, lw=0)
        axes.axvline(fpr_limit, color=_INK, lw=0.8, ls=(0, (2, 3)))
        label = f"limit {fpr_limit:g}"
        axes.text(fpr_limit + 0.015, 0.02, label, color=_INK, fontsize=9, va="bottom")
    x_title, y_title = CURVES[curve]
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=x_title, ylabel=y_title, title=CURVE_TITLES[curve])
    axes.set_aspect("equal", adjustable="box")
    axes.legend(
        loc=_legend_place(curve, [areas.get(name) for name in order]),
        fontsize=9,
        framealpha=0,
        labelcolor=_INK,
        handlelength=1.4,
    )
    return figure


def histogram_figure(
    scores: Mapping[str, tuple[Sequence[float], Sequence[float]]], threshold: float | None = None
) -> Figure:
    """Draws histograms of the scores of normal and anomalous images, one small plot for each category.

    Args:
        scores: category -> (scores of normal images, scores of anomalous images).
        threshold: score from which on an image counts as anomalous, drawn as a line; None for no line.

    Returns:
        A figure with at most four plots in a row. All plots share the score axis; the vertical axis, the
        share of images, is scaled for each plot.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    columns = min(4, max(1, len(scores)))
    rows = math.ceil(len(scores) / columns) or 1
    figure, all_axes = _figure(2.6 * columns + 0.3, 1.75 * rows + 0.75, rows, columns)
    found = [score for pair in scores.values() for side in pair for score in side]
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    for axes, (name, (normal, anomalous)) in zip(all_axes, scores.items(), strict=False):
        for values, colour, label in (
            (normal, NORMAL_COLOUR, "normal"),
            (anomalous, ANOMALOUS_COLOUR, "anomalous"),
        ):
            counts, _ = np.histogram(values, edges)
            share = counts / max(1, len(values))
            axes.stairs(share, edges, fill=True, fc=(colour, 0.45), ec=colour, lw=1, label=label)
        if threshold is not None:
            axes.axvline(threshold, color=_INK, lw=1, ls=(0, (2, 2)))
        axes.set_title(short(name, 24), fontsize=10, loc="left", color=_INK)
        axes.set_xlim(low, high)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(labelsize=8.5)
    for axes in all_axes[len(scores) :]:
        axes.set_visible(False)
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=2, frameon=False, fontsize=10, labelcolor=_INK
    )
    figure.supxlabel("image score", fontsize=10, color=_INK)
    return figure


def comparison_figure(table: ResultTable, metric: str) -> Figure:
    """Compares methods on datasets in one metric: a table coloured by value, or bars for a single dataset.

    Args:
        table: overview from `overview_table`.
        metric: one of the table's metrics.

    Returns:
        A figure whose size grows with the number of methods and datasets.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = [row for row in table.rows if not row.is_mean]
    column = table.metrics.index(metric)
    datasets = list(dict.fromkeys(row.labels[0] for row in rows))
    methods = list(dict.fromkeys(row.labels[1:] for row in rows))
    title = f"{METRIC_TITLES[metric]} in percent"
    if len(datasets) == 1:
        return _bars(rows, column, title)
    values = np.full((len(methods), len(datasets)), math.nan)
    for row in rows:
        values[methods.index(row.labels[1:]), datasets.index(row.labels[0])] = row.cells[column].value
    return _heat_table(
        values, [short(" ".join(method)) for method in methods], [short(name) for name in datasets], title
    )


def to_svg(figure: Figure, label: str, prefix: str) -> Markup:
    """Converts a figure to an `<svg>` element that can be embedded in a page.

    Args:
        figure: a figure from this module.
        label: description for screen readers.
        prefix: beginning of all ids in the element, unique in the page.

    Returns:
        Markup with texts as text and in the page's text colour, without a fixed size and without unused ids.
    """
    import io

    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix, "path.simplify": False}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    view = re.search(r'viewBox="([^"]*)"', text)
    text = text[text.index(">") + 1 :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([\w.-]+)', text))
    text = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(?:xlink:)?(href="#|url\(#)([\w.-]+)', lambda m: f"{m[1]}{prefix}-{m[2]}", text)
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d+\.\d)\d+", r"\1", tag[0]), text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"| ?font-family: [^;"]*;', "", text)
    text = re.sub(r"\s*\n\s*", " ", text).replace("> <", "><").replace("<g/>", "")
    body = Markup(text.strip().replace(_INK, "currentColor"))  # noqa: S704 - matplotlib escapes its texts
    opening = Markup(
        '<svg viewBox="{}" style="--own-width: {:.0f}px; font-family: {}" role="img" aria-label="{}">'
    )
    return opening.format(view[1] if view else "", 96 * figure.get_figwidth(), _FONT, label) + body


def simplified(
    x: NDArray[np.floating], y: NDArray[np.floating], tolerance: float = 0.002
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Removes points of a curve that lie within a tolerance of the simplified curve.

    Args:
        x: (N,) values.
        y: (N,) values.
        tolerance: largest distance of a removed point, in units of the axes.

    Returns:
        x and y of the remaining points, among them the first and the last point.

    Source:
        D. H. Douglas and T. K. Peucker, "Algorithms for the reduction of the number of points required to
        represent a digitized line or its caricature", 1973.
    """
    if len(x) < 3:
        return x, y
    points = np.stack([x, y], axis=1).astype(float)
    kept = {0, len(points) - 1}
    stretches = [(0, len(points) - 1)]
    while stretches:
        first, last = stretches.pop()
        if last - first < 2:
            continue
        chord = points[last] - points[first]
        offsets = points[first + 1 : last] - points[first]
        length = np.hypot(*chord)
        if length > 0:
            distances = np.abs(chord[0] * offsets[:, 1] - chord[1] * offsets[:, 0]) / length
        else:
            distances = np.hypot(offsets[:, 0], offsets[:, 1])
        farthest = int(distances.argmax())
        if distances[farthest] > tolerance:
            middle = first + 1 + farthest
            kept.add(middle)
            stretches += [(first, middle), (middle, last)]
    places = sorted(kept)
    return points[places, 0], points[places, 1]


def short(name: str, longest: int = 32) -> str:
    """Cuts a name to a length that fits into a figure; an ellipsis marks the cut."""
    name = printable(name)
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _bars(rows: Sequence[Row], column: int, title: str) -> Figure:
    figure, (axes,) = _figure(6.4, 0.42 * len(rows) + 1.1)
    names = [short(" ".join(row.labels[1:])) for row in rows]
    cells = [row.cells[column] for row in rows]
    values = [0.0 if math.isnan(cell.value) else cell.value for cell in cells]
    places = np.arange(len(rows))
    errors = [cell.deviation or 0.0 for cell in cells]
    axes.barh(
        places, values, height=0.62, color=NORMAL_COLOUR, xerr=errors if any(errors) else None, ecolor=_INK
    )
    published = [(place, cell.published.value) for place, cell in enumerate(cells) if cell.published]
    if published:
        at, numbers = zip(*published, strict=True)
        axes.plot(numbers, at, "D", color=ANOMALOUS_COLOUR, ms=6, label="published")
        figure.legend(loc="outside lower right", frameon=False, fontsize=9, labelcolor=_INK)
    for place, cell in enumerate(cells):
        text = "-" if math.isnan(cell.value) else f"{cell.value:.1f}"
        axes.text(1, place, f" {text} ", color="white" if text != "-" else _INK, va="center", fontsize=9.5)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    return figure


def _heat_table(values: NDArray[np.floating], methods: list[str], datasets: list[str], title: str) -> Figure:
    longest = max(map(len, methods))
    figure, (axes,) = _figure(0.085 * longest + 0.95 * len(datasets) + 0.3, 0.42 * len(methods) + 1.5)
    colours = colour_table()[60:236].astype(float) / 255
    for row, column in np.ndindex(*values.shape):
        value = values[row, column]
        if math.isnan(value):
            axes.text(column, row, "-", ha="center", va="center", color=_INK, fontsize=10)
            continue
        # Everything up to 40 has the first colour; 50 is chance for AUROC.
        place = min(max((value - 40) / 60, 0.0), 1.0)
        colour = colours[round(place * (len(colours) - 1))]
        axes.fill(
            [column - 0.48, column + 0.48, column + 0.48, column - 0.48],
            np.repeat([row - 0.46, row + 0.46], 2),
            color=colour,
            lw=0,
        )
        dark = float(colour @ [0.2126, 0.7152, 0.0722]) < 0.45
        axes.text(
            column,
            row,
            f"{value:.1f}",
            ha="center",
            va="center",
            color="white" if dark else "black",
            fontsize=10,
        )
    axes.set_xticks(range(len(datasets)), datasets, rotation=30, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(methods)), methods)
    axes.xaxis.tick_top()
    axes.set(xlim=(-0.5, len(datasets) - 0.5), ylim=(len(methods) - 0.5, -0.5))
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    return figure


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Makes an empty figure in the style of this module; returns it with its axes, row by row."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "figures", "drawing figures") from error

    figure = Figure(figsize=(width, height), layout="constrained")
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    found: list[Axes] = list(grid.ravel())
    for axes in found:
        axes.set_facecolor("none")
        axes.grid(visible=True, color=_SOFT, alpha=0.25, lw=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=_INK, labelsize=9.5)
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            text.set_color(_INK)
        axes.title.set_fontsize(11)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(_SOFT)
    return figure, found


def _legend_place(
    curve: str, areas: Sequence[float | None]
) -> Literal["lower right", "upper right", "lower left"]:
    """The corner that the curves leave free; precision-recall curves run high or low."""
    if not curve.endswith("_pr"):
        return "lower right"
    known = [area for area in areas if area is not None and not math.isnan(area)]
    return "upper right" if known and sum(known) / len(known) < 0.5 else "lower left"


def _or_one(value: float | None) -> float:
    return 1.0 if value is None or math.isnan(value) else value

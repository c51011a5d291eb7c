"""Compares the results of a recipe with the published row.

Published numbers come from `zsad.evaluation.published`, by method, dataset, shots, source and auxiliary data;
recipes hold no numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zsad.evaluation.published import ORIGINS, PublishedNumber, published_results
from zsad.metrics import METRIC_NAMES

if TYPE_CHECKING:
    from zsad.evaluation.report.tables import Cell
    from zsad.evaluation.reproduction.recipe import Recipe
    from zsad.evaluation.results import RunResult


def published_row(recipe: Recipe) -> dict[str, PublishedNumber]:
    """Finds the published numbers of a recipe's row.

    Returns:
        Metric -> mean over categories, for the metrics in the source. If several tables have a number, the
        best origin counts, then the first table. Empty for a recipe without a source.
    """
    if recipe.published is None:
        return {}
    row: dict[str, PublishedNumber] = {}
    candidates = published_results(recipe.system, recipe.test.data, shots=recipe.test.shots)
    for number in sorted(candidates, key=lambda each: ORIGINS.index(each.origin)):
        is_row = number.category is None and not number.variant
        if is_row and (number.source, number.trained_on) == (recipe.published, recipe.trained_on):
            row.setdefault(number.metric, number)
    return {metric: row[metric] for metric in METRIC_NAMES if metric in row}


def compare(recipe: Recipe, runs: Sequence[RunResult]) -> dict[str, Cell]:
    """Puts our numbers beside the published ones.

    Args:
        recipe: the recipe of the row.
        runs: runs of the recipe's evaluation, one for each seed.

    Returns:
        Metric -> our values and the published number, for the metrics that either side has.
    """
    from zsad.evaluation.report.tables import Cell

    row = published_row(recipe)
    cells = {
        metric: Cell(tuple(run.mean.get(metric, math.nan) for run in runs), row.get(metric))
        for metric in METRIC_NAMES
    }
    return {metric: cell for metric, cell in cells.items() if cell.published or not math.isnan(cell.value)}


def difference(cell: Cell, *, is_whole: bool = True) -> float | None:
    """Our value minus the published number, in percentage points; None if one of them is missing.

    Args:
        cell: our value and the published number.
        is_whole: whether our value is the mean over all categories of the dataset; otherwise there is nothing
            to compare, because categories differ more than methods do.
    """
    if not is_whole:
        return None
    if cell.published is None or math.isnan(cell.value):
        return None
    return cell.value - cell.published.value


def as_json(cells: Mapping[str, Cell], *, is_whole: bool = True) -> list[dict[str, Any]]:
    """Converts a comparison to plain values in percent, one object for each metric; NaN where undefined."""
    return [
        {
            "metric": metric,
            "ours": cell.value,
            "standard_deviation": cell.deviation,
            "published": cell.published.value if cell.published else None,
            "difference": difference(cell, is_whole=is_whole),
            "source": cell.published.source if cell.published else None,
            "table": cell.published.table if cell.published else None,
            "link": cell.published.link if cell.published else None,
            "origin": cell.published.origin if cell.published else None,
            "remark": cell.published.remark if cell.published else None,
        }
        for metric, cell in cells.items()
    ]

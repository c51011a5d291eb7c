"""Sentences below a table: how the numbers were computed, and where the published ones come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from zsad.data.catalog import find_dataset

if TYPE_CHECKING:
    from zsad.evaluation.published import PublishedNumber
    from zsad.evaluation.results import RunResult

_ORIGIN_TEXTS = {
    "authors": "",
    "others": "quoted or rerun by other authors",
    "notes": "from reading notes, not checked against the paper",
    "independent": "independent re-implementation",
    "recalled": "from memory, not checked against the paper",
}


def notes_of(runs: Sequence[RunResult], *, with_published: bool = True) -> tuple[str, ...]:
    """Collects what a reader must know before comparing the numbers of some runs with others.

    Args:
        runs: runs in one table.
        with_published: whether the table has published numbers.

    Returns:
        Sentences on unit, auxiliary data, split, image size, PRO, number of images and the official number,
        limits, failures and overlaps, followed by the runs' own notes.
    """
    trained = _by_value(runs, lambda run: run.auxiliary_data or "nothing", lambda run: run.method)
    split = _by_value(runs, lambda run: run.split, lambda run: run.dataset)
    size = _by_value(runs, lambda run: f"{run.image_size} pixels", lambda run: run.method)
    hint = "; published values come from the papers' scripts"
    brackets = " Published values, in brackets, use the papers' backbone and image size."
    notes = [
        f"Values are percentages, averaged over categories.{brackets if with_published else ''}",
        f"Trained on: {trained}.",
        f"Split: {split}. Maps and masks are compared at {size}.",
        f"PRO: {_by_value(runs, _pro, lambda run: run.method)}{hint if with_published else ''}.",
        f"Images: {'; '.join(dict.fromkeys(map(_images, runs)))}.",
    ]
    if any(math.isnan(value) for run in runs for row in run.categories for value in row.metrics.values()):
        notes.append(
            '"-" means undefined: image metrics need normal and anomalous images, pixel metrics need masks.'
        )
    seeds = sorted({run.seed for run in runs})
    if len(seeds) > 1:
        listed = ", ".join(map(str, seeds))
        notes.append(f"Values are means over the seeds {listed}, with sample standard deviations.")
    bounds = [row.error_bound for run in runs for row in run.categories if not row.is_exact]
    if bounds:
        notes.append(
            f"Pixel metrics of {len(bounds)} rows come from a summary of bounded size and differ from the "
            f"exact values by at most {100 * max(bounds):.2g} percentage points."
        )
    failed = sum(len(run.failed) for run in runs)
    if failed:
        notes.append(f"{failed} images could not be scored and are left out.")
    own = dict.fromkeys(f"{note.rstrip('.')}." for run in runs for note in run.notes)
    return (*notes, *warnings_of(runs), *own)


def warnings_of(runs: Sequence[RunResult]) -> tuple[str, ...]:
    """Lists what makes numbers incomparable with published ones: overlap, limits, missing categories."""
    warnings: dict[str, None] = {}
    for run in runs:
        if run.overlap:
            warnings[
                f"{run.method} on {run.dataset}: auxiliary data and test data overlap ({run.overlap}), "
                "so this is not a zero-shot result."
            ] = None
        missing = missing_categories(run)
        if missing:
            warnings[f"{run.dataset}: {missing}, so no published mean is shown."] = None
    limited = [run for run in runs if run.limit is not None]
    if limited:
        limits = _by_value(limited, lambda run: str(run.limit), lambda run: run.dataset)
        warnings[f"Not the whole split; maximum number of images per category: {limits}."] = None
    return tuple(warnings)


def missing_categories(run: RunResult) -> str:
    """How many categories of its dataset a run has; "" if it has all, or if the dataset has only one."""
    record = find_dataset(run.dataset)
    if record is None or len(record.categories) < 2:
        return ""
    names = {record.class_name(category) for category in record.categories}
    found = names & {row.category for row in run.categories}
    return "" if found == names else f"{len(found)} of the {len(names)} categories"


def source_key(number: PublishedNumber) -> tuple[str, str, str, str]:
    """Fields that numbers with the same footnote have in common."""
    return number.source, number.link, number.trained_on, number.origin


def source_notes(numbers: Iterable[PublishedNumber]) -> tuple[str, ...]:
    """Texts of the footnotes, in the order of `source_numbers`."""
    found: dict[tuple[str, str, str, str], list[PublishedNumber]] = {}
    for number in numbers:
        found.setdefault(source_key(number), []).append(number)
    texts = []
    for (source, link, trained_on, origin), own in found.items():
        tables = "; ".join(dict.fromkeys(number.table for number in own))
        remarks = [_ORIGIN_TEXTS[origin], *dict.fromkeys(number.remark for number in own)]
        parts = [f"{source}, {tables}", f"trained on {trained_on}", *filter(None, remarks), link]
        texts.append("; ".join(part for part in parts if part))
    return tuple(texts)


def source_numbers(numbers: Iterable[PublishedNumber]) -> dict[tuple[str, str, str, str], int]:
    """Footnote numbers by `source_key`, counted from 1 in the order of first use."""
    return {key: place for place, key in enumerate(dict.fromkeys(map(source_key, numbers)), start=1)}


def _pro(run: RunResult) -> str:
    kind = "exact" if run.pro == "exact" else "computed as in the papers' scripts"
    return f"{kind}, false-positive rate up to {run.fpr_limit:g}"


def _images(run: RunResult) -> str:
    normal = sum(row.normal for row in run.categories)
    anomalous = sum(row.anomalous for row in run.categories)
    text = f"{run.dataset} {normal} normal and {anomalous} anomalous"
    record = find_dataset(run.dataset)
    if record is None:
        return text
    official = record.counts.normal, record.counts.anomalous
    if run.split != "test" or None in official:
        return text
    if official == (normal, anomalous):
        return f"{text} (all of the official test split)"
    return f"{text} (official test split: {official[0]} and {official[1]})"


def _by_value(
    runs: Iterable[RunResult], value: Callable[[RunResult], str], name: Callable[[RunResult], str]
) -> str:
    """The value that all runs share; if they differ, each value with the names of its runs."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        found.setdefault(value(run), {})[name(run)] = None
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in found.items())

"""The sentences under a table: how the numbers were made, and where published ones come from."""

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
    "others": "quoted or run again by other authors",
    "notes": "from reading notes, not checked against the paper",
    "independent": "independent re-implementation",
    "recalled": "from memory, not checked against the paper",
}


def notes_of(runs: Sequence[RunResult], *, with_published: bool = True) -> tuple[str, ...]:
    """What a reader must know before comparing numbers of these runs with others.

    Args:
        runs: those of one table.
        with_published: whether published numbers stand in it.

    Returns:
        Sentences: unit, auxiliary data, split, size, PRO, number of images against the official number,
        limits, failures, overlaps, and the runs' own notes.
    """
    trained = _by_value(runs, lambda run: run.auxiliary_data or "nothing", lambda run: run.method)
    split = _by_value(runs, lambda run: run.split, lambda run: run.dataset)
    size = _by_value(runs, lambda run: f"{run.image_size} pixels", lambda run: run.method)
    hint = "; published ones are those of the papers' scripts"
    brackets = "; published ones, on their papers' backbone and image size, in brackets"
    notes = [
        f"Values in percent, means over categories{brackets if with_published else ''}.",
        f"Trained on: {trained}.",
        f"Split: {split}. Maps and masks compared at {size}.",
        f"PRO: {_by_value(runs, _pro, lambda run: run.method)}{hint if with_published else ''}.",
        f"Images: {'; '.join(dict.fromkeys(map(_pictures, runs)))}.",
    ]
    if any(math.isnan(value) for run in runs for row in run.categories for value in row.metrics.values()):
        notes.append(
            '"-" is undefined: metrics of images need normal and anomalous ones, metrics of pixels masks.'
        )
    seeds = sorted({run.seed for run in runs})
    if len(seeds) > 1:
        listed = ", ".join(map(str, seeds))
        notes.append(f"Mean and sample standard deviation over the seeds {listed}.")
    bounds = [row.error_bound for run in runs for row in run.categories if not row.is_exact]
    if bounds:
        notes.append(
            f"Pixel metrics of {len(bounds)} rows come from a bounded summary, "
            f"at most {100 * max(bounds):.2g} percentage points from the exact ones."
        )
    failed = sum(len(run.failed) for run in runs)
    if failed:
        notes.append(f"{failed} images could not be scored and are left out.")
    own = dict.fromkeys(f"{note.rstrip('.')}." for run in runs for note in run.notes)
    return (*notes, *warnings_of(runs), *own)


def warnings_of(runs: Sequence[RunResult]) -> tuple[str, ...]:
    """What makes numbers incomparable with the published protocol: overlap, limits, missing categories."""
    warnings: dict[str, None] = {}
    for run in runs:
        if run.overlap:
            warnings[
                f"{run.method} on {run.dataset}: auxiliary data and test data overlap ({run.overlap}), "
                "so this is no zero-shot result."
            ] = None
        missing = missing_categories(run)
        if missing:
            warnings[f"{run.dataset}: {missing}, so no published mean stands beside its mean."] = None
    limited = [run for run in runs if run.limit is not None]
    if limited:
        limits = _by_value(limited, lambda run: str(run.limit), lambda run: run.dataset)
        warnings[f"Not the whole split, at most so many images of a category: {limits}."] = None
    return tuple(warnings)


def missing_categories(run: RunResult) -> str:
    """How many categories of a dataset of the catalogue a run has, if not all; "" else."""
    record = find_dataset(run.dataset)
    if record is None or len(record.categories) < 2:
        return ""
    names = {record.class_name(category) for category in record.categories}
    found = names & {row.category for row in run.categories}
    return "" if found == names else f"{len(found)} of the {len(names)} categories"


def source_key(number: PublishedNumber) -> tuple[str, str, str, str]:
    """What numbers share that have one footnote."""
    return number.source, number.link, number.trained_on, number.origin


def source_notes(numbers: Iterable[PublishedNumber]) -> tuple[str, ...]:
    """The text of each footnote, in the order of `source_numbers`."""
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
    """Footnote numbers from 1 by `source_key`, in the order of first use."""
    return {key: place for place, key in enumerate(dict.fromkeys(map(source_key, numbers)), start=1)}


def _pro(run: RunResult) -> str:
    kind = "exact" if run.pro == "exact" else "as the papers' scripts compute it"
    return f"{kind}, false-positive rate up to {run.fpr_limit:g}"


def _pictures(run: RunResult) -> str:
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
    """One value if all runs share it, else each value with the names that have it."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        found.setdefault(value(run), {})[name(run)] = None
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in found.items())

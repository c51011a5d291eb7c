"""Checks whether a dataset is complete and its files are in order."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zsad.data.catalog import Counts, DatasetRecord
from zsad.data.decoding import SampleCheck, decode_all
from zsad.data.folder import Dataset, open_datasets
from zsad.data.limiting import spread
from zsad.data.masks import MOST_MARKED, ask_if_inverted
from zsad.errors import ConfigError, unknown_name
from zsad.types import UNLABELLED, Sample

Purpose = Literal["evaluate", "train"]
PURPOSES = ("evaluate", "train")
NAMES_SHOWN = 5


@dataclass(frozen=True)
class CategoryCheck:
    """Numbers of images that were found in a category.

    Attributes:
        category: class name.
        normal: normal images in the test split.
        anomalous: anomalous images in the test split.
        unlabelled: images without a label.
        masks: anomalous images with a mask.
        train: images in the training split.
        defects: kind of defect -> images in the test split.
        marked: smallest, median and largest share of the image that the masks mark, in [0, 1]; None if no
            mask was decoded.
    """

    category: str
    normal: int
    anomalous: int
    unlabelled: int
    masks: int
    train: int
    defects: dict[str, int]
    marked: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class DatasetCheck:
    """Result of checking a dataset.

    Attributes:
        name: name of the dataset.
        root: folder or list that was checked.
        layout: name of the layout that was found.
        record: entry in the catalogue; None for a user's own dataset.
        categories: numbers of each category, in the order of the dataset.
        problems: one line each on what would make a result wrong, the gravest first: labels that are not
            known, missing images, masks that seem to be inverted, unreadable files, disorder.
        notes: one line each: remarks that are no faults.
        decoded: number of images and masks that were decoded.
    """

    name: str
    root: Path
    layout: str
    record: DatasetRecord | None
    categories: tuple[CategoryCheck, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    decoded: int

    @property
    def found(self) -> Counts:
        """Numbers of images of all categories together."""
        return Counts(
            sum(category.normal for category in self.categories),
            sum(category.anomalous for category in self.categories),
            sum(category.train for category in self.categories),
        )


def check_datasets(
    spec: str | Path,
    *,
    quick: bool = False,
    limit: int | None = None,
    purpose: Purpose = "evaluate",
    normal_labels: Sequence[str] | None = None,
    include_results: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[DatasetCheck]:
    """Checks the datasets that a user names after `--data`.

    Args:
        spec: "NAME:PATH" or a path, as `zsad.data.folder.open_datasets` describes.
        quick: only look for files; otherwise every image and mask is decoded.
        limit: largest number of images to decode of each category and split, evenly spread; None for all.
            All files are counted.
        purpose: "evaluate" for zero-shot use, which needs no training images, or "train", for which missing
            training images and masks are problems.
        normal_labels: labels that alone mean "normal", as `open_datasets` takes them.
        include_results: whether images that zsad wrote itself count as images of the dataset.
        on_progress: called after each image with the number of images done and the number of all.

    Returns:
        One check for each dataset.

    Raises:
        ConfigError: the name or the purpose is unknown, or the limit is below 1.
        DataError: the path does not exist or holds no dataset.
    """
    if purpose not in PURPOSES:
        raise unknown_name("purpose", purpose, PURPOSES)
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is a number of images of at least 1, got {limit}")
    tests, training = (
        open_datasets(spec, split, normal_labels=normal_labels, include_results=include_results)
        for split in ("test", "train")
    )
    trains = {dataset.root: dataset for dataset in training}
    total = sum(len(_limited(each, limit)) for each in (*tests, *training))
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if on_progress:
            on_progress(done, total)

    checks = []
    for test in tests:
        train = trains.get(test.root)
        samples = (*_limited(test, limit), *(_limited(train, limit) if train else ()))
        decoded = [] if quick else list(decode_all(samples, step))
        categories = _categories(test, train, decoded)
        missing, notes = _compare(test, categories, purpose)
        inverted, suspicious = _compare_masks(categories, decoded)
        disorder = dict.fromkeys(train.problems if train else ())
        undecided = [f"{test.root}: {test.undecided}"] if test.undecided else []
        listed = dict.fromkeys((*test.problems, *(disorder if purpose == "train" else ())))
        aside = [line for line in disorder if line not in listed] if train and train.samples else []
        faults = [found.fault for found in decoded if found.fault]
        checks.append(
            DatasetCheck(
                test.name,
                test.root,
                test.layout,
                test.record,
                categories,
                (*undecided, *missing, *inverted, *faults, *listed),
                (*test.left_out, *notes, *suspicious, *aside),
                0 if quick else len(samples) + sum(sample.mask_path is not None for sample in samples),
            )
        )
    return checks


def _limited(dataset: Dataset, limit: int | None) -> list[Sample]:
    """The samples to decode: at most `limit` of each category."""
    return [sample for found in dataset.by_category().values() for sample in spread(found, limit)]


def _compare_masks(
    categories: Sequence[CategoryCheck], decoded: Sequence[SampleCheck]
) -> tuple[list[str], list[str]]:
    """Returns problems (categories whose masks seem to be inverted) and notes (single suspicious masks)."""
    inverted = {row.category: row.marked[1] for row in categories if row.marked}
    inverted = {category: share for category, share in inverted.items() if share > MOST_MARKED}
    problems = [ask_if_inverted(category, share) for category, share in inverted.items()]
    single = [
        f"{found.sample.mask_path}: marks {found.marked:.0%} of the image; is it inverted?"
        for found in decoded
        if found.marked and found.marked > MOST_MARKED and found.sample.category not in inverted
    ]
    more = (
        [f"{len(single) - NAMES_SHOWN} more masks mark most of their image"] if single[NAMES_SHOWN:] else []
    )
    return problems, [*single[:NAMES_SHOWN], *more]


def _shares(decoded: Sequence[SampleCheck]) -> dict[str, tuple[float, float, float]]:
    """Returns smallest, median and largest share that the masks of each category mark."""
    shares: dict[str, list[float]] = defaultdict(list)
    for found in decoded:
        if found.marked is not None:
            shares[found.sample.category].append(found.marked)
    return {name: (min(each), statistics.median(each), max(each)) for name, each in shares.items()}


def _categories(
    test: Dataset, train: Dataset | None, decoded: Sequence[SampleCheck]
) -> tuple[CategoryCheck, ...]:
    shares = _shares(decoded)
    by_test = test.by_category()
    by_train = train.by_category() if train else {}
    rows = []
    for category in dict.fromkeys((*by_test, *by_train)):
        samples = by_test.get(category, ())
        labels = Counter(sample.label for sample in samples)
        rows.append(
            CategoryCheck(
                category,
                labels[0],
                labels[1],
                labels[UNLABELLED],
                sum(sample.label == 1 and sample.mask_path is not None for sample in samples),
                len(by_train.get(category, ())),
                dict(Counter(sample.defect for sample in samples if sample.label == 1)),
                shares.get(category),
            )
        )
    return tuple(rows)


def _compare(
    dataset: Dataset, categories: Sequence[CategoryCheck], purpose: Purpose
) -> tuple[list[str], list[str]]:
    """Returns problems (missing images) and notes (what limits the metrics)."""
    problems: list[str] = []
    notes: list[str] = []
    if not any(row.normal + row.anomalous + row.unlabelled + row.train for row in categories):
        problems.append(f"{dataset.root}: holds no image that could be read")
    record = dataset.record
    if record:
        present = {row.category for row in categories if row.normal + row.anomalous}
        absent = [name for name in record.categories if record.class_name(name) not in present]
        if absent:
            more = f" and {len(absent) - NAMES_SHOWN} more" if len(absent) > NAMES_SHOWN else ""
            problems.append(
                f"{dataset.root}: no test images of {', '.join(absent[:NAMES_SHOWN])}{more}; "
                f"get the whole dataset from {record.page}"
            )
        lines, note = _compare_counts(dataset, record, categories, purpose)
        problems += lines
        notes += [note] if note else []
    unlabelled = sum(row.unlabelled for row in categories)
    if unlabelled:
        notes.append(f"{unlabelled} images without a label: fit for zsad predict, not for zsad evaluate")
    for row in categories:
        if row.masks < row.anomalous and row.masks:
            notes.append(
                f"{row.category}: {row.anomalous - row.masks} of {row.anomalous} anomalous without mask; "
                "they count in the metrics of images only"
            )
    if purpose == "train":
        problems += [
            f"{row.category}: {row.anomalous - row.masks} of {row.anomalous} anomalous images have no mask, "
            "which training needs"
            for row in categories
            if row.masks < row.anomalous
        ]
        if not any(row.train for row in categories):
            problems.append(f"{dataset.root}: no training images; expected normal ones in train/good")
    if any(row.anomalous for row in categories) and not any(row.masks for row in categories):
        notes.append("no masks: metrics of images only, none of pixels")
    if any(row.anomalous for row in categories) and not any(row.normal for row in categories):
        notes.append("no normal images: metrics of pixels only, none of images")
    return problems, notes


def _compare_counts(
    dataset: Dataset, record: DatasetRecord, categories: Sequence[CategoryCheck], purpose: Purpose
) -> tuple[list[str], str | None]:
    found = {
        "normal": sum(row.normal for row in categories),
        "anomalous": sum(row.anomalous for row in categories),
        "train": sum(row.train for row in categories),
    }

    def differences(official: Counts) -> list[str]:
        # Zero-shot use needs no training images.
        asked = {name: number for name, number in found.items() if name != "train" or purpose == "train"}
        pairs = ((name, getattr(official, name), number) for name, number in asked.items())
        return [
            f"{number} {name} instead of {known}"
            for name, known, number in pairs
            if known not in (None, number)
        ]

    wrong = differences(record.counts)
    if not wrong:
        return [], None
    for version, counts in record.other_counts.items():
        if not differences(counts):
            return [], f"these are the numbers of {version}"
    return [f"{dataset.root}: {', '.join(wrong)} images; get the whole dataset from {record.page}"], None

"""Checks whether a dataset is complete and its files are in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.data.catalog import Counts, DatasetRecord
from zsad.data.folder import Dataset, open_datasets
from zsad.data.masks import read_mask
from zsad.errors import DataError, ImageReadError
from zsad.images.reading import read_image
from zsad.types import UNLABELLED, Sample

if TYPE_CHECKING:
    from concurrent.futures import Future

THREADS = 4
AHEAD = 64
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
    """

    category: str
    normal: int
    anomalous: int
    unlabelled: int
    masks: int
    train: int
    defects: dict[str, int]


@dataclass(frozen=True)
class DatasetCheck:
    """Result of checking a dataset.

    Attributes:
        name: name of the dataset.
        root: folder or list that was checked.
        layout: name of the layout that was found.
        record: entry in the catalogue; None for a user's own dataset.
        categories: numbers of each category, in the order of the dataset.
        problems: one line each: disorder, unreadable files, sizes that do not fit, missing images.
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
    normal_labels: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[DatasetCheck]:
    """Checks the datasets that a user names after `--data`.

    Args:
        spec: "NAME:PATH" or a path, as `zsad.data.folder.open_datasets` describes.
        quick: only look for files; otherwise every image and mask is decoded.
        normal_labels: labels that alone mean "normal", as `open_datasets` takes them.
        on_progress: called after each image with the number of images done and the number of all.

    Returns:
        One check for each dataset.

    Raises:
        ConfigError: the name is unknown.
        DataError: the path does not exist or holds no dataset.
    """
    tests = open_datasets(spec, "test", normal_labels=normal_labels)
    trains = {dataset.root: dataset for dataset in open_datasets(spec, "train", normal_labels=normal_labels)}
    total = sum(len(each.samples) for each in (*tests, *trains.values()))
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if on_progress:
            on_progress(done, total)

    checks = []
    for test in tests:
        train = trains.get(test.root)
        samples = (*test.samples, *(train.samples if train else ()))
        # Zero-shot use needs no training images, so that their absence is no problem.
        listed = dict.fromkeys((*test.problems, *(train.problems if train and train.samples else ())))
        faults = [] if quick else [fault for fault in _decode_all(samples, step) if fault]
        categories = _categories(test, train)
        missing, notes = _compare(test, categories)
        checks.append(
            DatasetCheck(
                test.name,
                test.root,
                test.layout,
                test.record,
                categories,
                (*listed, *faults, *missing),
                (*test.left_out, *notes),
                0 if quick else len(samples) + sum(sample.mask_path is not None for sample in samples),
            )
        )
    return checks


def check_sample(sample: Sample) -> str | None:
    """Decodes the image and the mask of a sample and looks for faults.

    Args:
        sample: sample of a dataset.

    Returns:
        One line that begins with the path of the file (unreadable, mask of another size, empty mask of a
        defect); None if there is no fault.
    """
    try:
        image = read_image(sample.path)
        if sample.mask_path is None:
            return None
        mask = read_mask(sample.mask_path)
    except (ImageReadError, DataError) as error:
        return str(error)
    height, width = mask.shape
    if (width, height) != image.size:
        return (
            f"{sample.mask_path}: {width} x {height} pixels, its image {sample.path.name} "
            f"{image.width} x {image.height}; both must be of one size"
        )
    if sample.label == 1 and not mask.any():
        return f"{sample.mask_path}: marks nothing, but {sample.path} is anomalous; mark the defect"
    return None


def _decode_all(samples: Sequence[Sample], step: Callable[[], None]) -> Iterator[str | None]:
    """Checks samples in order, some ahead in threads; Pillow decodes without the interpreter's lock."""
    pending: list[Future[str | None]] = []
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for sample in samples:
                pending.append(pool.submit(check_sample, sample))
                if len(pending) >= AHEAD:
                    yield pending.pop(0).result()
                    step()
            for future in pending:
                yield future.result()
                step()
        finally:
            pool.shutdown(cancel_futures=True)


def _categories(test: Dataset, train: Dataset | None) -> tuple[CategoryCheck, ...]:
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
            )
        )
    return tuple(rows)


def _compare(dataset: Dataset, categories: Sequence[CategoryCheck]) -> tuple[list[str], list[str]]:
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
        lines, note = _compare_counts(dataset, record, categories)
        problems += lines
        notes += [note] if note else []
    unlabelled = sum(row.unlabelled for row in categories)
    if unlabelled:
        notes.append(f"{unlabelled} images without a label: fit for zsad predict, not for zsad evaluate")
    for row in categories:
        if row.masks < row.anomalous and row.masks:
            notes.append(
                f"{row.category}: {row.anomalous - row.masks} of {row.anomalous} anomalous without mask"
            )
    if any(row.anomalous for row in categories) and not any(row.masks for row in categories):
        notes.append("no masks: metrics of images only, none of pixels")
    if any(row.anomalous for row in categories) and not any(row.normal for row in categories):
        notes.append("no normal images: metrics of pixels only, none of images")
    return problems, notes


def _compare_counts(
    dataset: Dataset, record: DatasetRecord, categories: Sequence[CategoryCheck]
) -> tuple[list[str], str | None]:
    found = {
        "normal": sum(row.normal for row in categories),
        "anomalous": sum(row.anomalous for row in categories),
        "train": sum(row.train for row in categories),
    }

    def differences(official: Counts) -> list[str]:
        # Without any training image, the dataset is meant for zero-shot use, which needs none.
        asked = {name: number for name, number in found.items() if number or name != "train"}
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

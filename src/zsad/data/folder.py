"""What a user names after `--data`, opened: a dataset of the catalogue, a folder or a list of their own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.data.catalog import DatasetRecord, dataset_record
from zsad.data.layouts import Category, Split, find_categories, list_category
from zsad.errors import ConfigError, DataError

if TYPE_CHECKING:
    from zsad.types import Sample


@dataclass(frozen=True)
class Dataset:
    """Labelled pictures and what is wrong with the others.

    Attributes:
        name: the catalogue's name, else that of the folder or list.
        root: the folder or list that was opened.
        samples: in the order of the layout; the same on every machine.
        problems: one line each, with the file's path and what to do; those files are not in `samples`.
        record: the entry of the catalogue, None for the user's own.
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    problems: tuple[str, ...] = ()
    record: DatasetRecord | None = None

    @property
    def categories(self) -> tuple[str, ...]:
        """Class names in the order in which they come first."""
        return tuple(dict.fromkeys(sample.category for sample in self.samples))

    def by_category(self) -> dict[str, tuple[Sample, ...]]:
        """The samples of each category, in the order of `categories`."""
        found: dict[str, list[Sample]] = {}
        for sample in self.samples:
            found.setdefault(sample.category, []).append(sample)
        return {category: tuple(samples) for category, samples in found.items()}


def open_datasets(spec: str | Path, split: Split = "test") -> list[Dataset]:
    """Opens what a user names after `--data`.

    Args:
        spec: "NAME:PATH" with a name of `list_datasets`, or a path.
        split: "test" (what the papers train and evaluate on), "train" (normal pictures) or "all".

    Returns:
        One dataset; several, by name, for a folder of datasets.

    Raises:
        ConfigError: an unknown name or split.
        DataError: nothing there, or nothing that any layout knows.
    """
    name, path = _parted(spec)
    record = None if name is None else dataset_record(name)
    by_dataset: dict[Path, list[Category]] = {}
    for category in find_categories(path):
        root = Path(os.path.abspath(category.folder))
        by_dataset.setdefault(root.parent if root != Path(os.path.abspath(path)) else root, []).append(
            category
        )
    return [_dataset(root, categories, split, record) for root, categories in sorted(by_dataset.items())]


def open_dataset(spec: str | Path, split: Split = "test") -> Dataset:
    """As `open_datasets`, for a place that holds exactly one.

    Raises:
        ConfigError: an unknown name or split.
        DataError: none or several; the message names them.
    """
    found = open_datasets(spec, split)
    if len(found) != 1:
        names = ", ".join(str(dataset.root) for dataset in found)
        raise DataError(f"{spec}: holds {len(found)} datasets, expected one; name one of {names}")
    return found[0]


def _parted(spec: str | Path) -> tuple[str | None, Path]:
    """Name and path of "NAME:PATH"; a path that is there is never taken apart."""
    text = os.fspath(spec)
    if not text:
        raise ConfigError("an empty path was given; name a folder, a list or NAME:PATH")
    name, colon, path = text.partition(":")
    # One letter is a drive of Windows.
    if not colon or len(name) < 2 or any(mark in name for mark in "/\\") or os.path.exists(text):
        return None, Path(text)
    return name, Path(path)


def _dataset(root: Path, categories: list[Category], split: Split, record: DatasetRecord | None) -> Dataset:
    listings = [list_category(category, split) for category in categories]
    return Dataset(
        record.name if record else root.name,
        root,
        tuple(sample for listing in listings for sample in listing.samples),
        tuple(problem for listing in listings for problem in listing.problems),
        record,
    )

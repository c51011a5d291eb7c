"""Opens what a user names after `--data`: a dataset of the catalogue, or an own folder or list."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.data.catalog import DatasetRecord, dataset_record, find_dataset
from zsad.data.layouts import (
    LAYOUTS,
    LIST_SUFFIXES,
    PLAIN,
    YAML_SUFFIXES,
    Layout,
    Opening,
    Split,
    check_split,
    folded_labels,
    is_coco_file,
    names_directories,
    read_coco_file,
    read_directories,
    read_list,
)
from zsad.data.vocabulary import undecided
from zsad.errors import ConfigError, DataError
from zsad.images.finding import folders_in, left_out_below
from zsad.types import UNLABELLED

if TYPE_CHECKING:
    from zsad.data.layouts.listing import Listing
    from zsad.types import Sample

SEARCH_DEPTH = 3
NAMES_SHOWN = 8
BY_FOLDERS = ("class-folders", "folder-pairs", PLAIN.name)
"""Layouts that folders alone tell, beside which a list of labels may lie."""


@dataclass(frozen=True)
class Dataset:
    """Images, mostly labelled, and problems with the others.

    Attributes:
        name: name in the catalogue, else name of the folder or list.
        root: folder or list that was opened.
        samples: images in the order of the layout, which is the same on every machine. An anomalous image
            whose mask is missing is one of them, without a mask.
        problems: one line each, with the path of a file and what to do.
        record: entry in the catalogue; None for a user's own dataset.
        layout: name of the layout that was found ("mvtec", "list", "plain").
        left_out: one line on the images in the folder that are no samples, such as those that zsad wrote.
        normal_labels: labels that the user said mean "normal", folded; empty if the vocabulary decides.
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    problems: tuple[str, ...] = ()
    record: DatasetRecord | None = None
    layout: str = ""
    left_out: tuple[str, ...] = ()
    normal_labels: frozenset[str] = frozenset()

    @property
    def categories(self) -> tuple[str, ...]:
        """Class names, in the order of their first sample."""
        return tuple(dict.fromkeys(sample.category for sample in self.samples))

    def by_category(self) -> dict[str, tuple[Sample, ...]]:
        """Groups the samples by category, in the order of `categories`."""
        found: dict[str, list[Sample]] = {}
        for sample in self.samples:
            found.setdefault(sample.category, []).append(sample)
        return {category: tuple(samples) for category, samples in found.items()}

    @property
    def undecided(self) -> str:
        """Why folders that could be classes leave open which of them is normal; "" if there are none."""
        unknown = [sample.path.parent for sample in self.samples if sample.label == UNLABELLED]
        names = [folder.name for folder in dict.fromkeys(unknown) if folder != self.root]
        is_list = self.layout == "list" or len(unknown) < len(self.samples)
        if is_list or (self.layout == PLAIN.name and (len(names) < 2 or self.root in unknown)):
            return ""
        return undecided(names, self.normal_labels, kind="folder")

    def require_labels(self) -> None:
        """Refuses images without a label.

        Raises:
            DataError: some images have no label; the message tells how many, and how to label them.
        """
        if why := self.undecided:
            raise DataError(f"{self.root}: {why}")
        unknown = [sample.path for sample in self.samples if sample.label == UNLABELLED]
        if unknown:
            raise DataError(
                f"{self.root}: {len(unknown)} of {len(self.samples)} images have no label (first: "
                f"{unknown[0]}); sort them into good/ and a folder for each defect, or give a CSV with the "
                "columns path,label (`zsad predict` needs no labels)"
            )


def open_datasets(
    spec: str | Path,
    split: Split = "test",
    *,
    normal_labels: Sequence[str] | None = None,
    include_results: bool = False,
) -> list[Dataset]:
    """Opens what a user names after `--data`.

    Args:
        spec: "NAME:PATH" with a name of `list_datasets`, or a path: a folder in any of the layouts (the first
            of `LAYOUTS` that recognises it), a CSV, TSV, JSON or JSON-lines list, a COCO file, a YAML or JSON
            file that names folders, a folder of datasets, or a folder of images without labels.
        split: "test" (what the papers train and evaluate on), "train" (normal images) or "all".
        normal_labels: labels and names of class folders that alone mean "normal"; None: those of the
            vocabulary of `zsad.data.vocabulary`.
        include_results: whether images that zsad wrote itself count as images of the dataset.

    Returns:
        One dataset, or the datasets of a folder, sorted by path.

    Raises:
        ConfigError: the name or split is unknown.
        DataError: the path does not exist, the list cannot be read, or there is no image at all.
    """
    check_split(split)
    if isinstance(normal_labels, str):
        normal_labels = [normal_labels]
    opening = Opening(split, normal_labels=folded_labels(normal_labels), include_results=include_results)
    name, path = _parted(spec)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; check the path")
    if name is not None:
        return [_open_known(path, opening, dataset_record(name))]
    if not path.is_dir():
        return [_open_list(path, opening)]
    found = [_open_as(layout, root, opening) for root, layout in _recognised(path, SEARCH_DEPTH, opening)]
    return found or [_open_as(PLAIN, path, opening)]


def open_dataset(
    spec: str | Path,
    split: Split = "test",
    *,
    normal_labels: Sequence[str] | None = None,
    include_results: bool = False,
) -> Dataset:
    """Opens the one dataset that a user names after `--data`.

    Args:
        spec: "NAME:PATH" or a path, as `open_datasets` describes.
        split: "test" (what the papers train and evaluate on), "train" (normal images) or "all".
        normal_labels: labels that alone mean "normal", as `open_datasets` takes them.
        include_results: whether images that zsad wrote itself count as images of the dataset.

    Raises:
        ConfigError: the name or split is unknown.
        DataError: there is no dataset, or there are several; the message names them.
    """
    found = open_datasets(spec, split, normal_labels=normal_labels, include_results=include_results)
    if len(found) != 1:
        names = ", ".join(dataset.name for dataset in found[:NAMES_SHOWN])
        raise DataError(f"{spec}: holds {len(found)} datasets, expected one; name one of {names}")
    return found[0]


def _parted(spec: str | Path) -> tuple[str | None, Path]:
    """Splits "NAME:PATH"; a path that exists is never split."""
    text = os.path.expanduser(os.fspath(spec))
    if not text:
        raise ConfigError("an empty path was given; name a folder, a list or NAME:PATH")
    name, colon, path = text.partition(":")
    # One letter is a drive of Windows.
    if not colon or len(name) < 2 or any(mark in name for mark in "/\\") or os.path.exists(text):
        return None, Path(text)
    dataset_record(name)
    if not path:
        raise ConfigError(f"{text}: no path behind the colon; give the folder, as in {name}:/data/{name}")
    return name, Path(path).expanduser()


def _recognised(folder: Path, depth: int, opening: Opening) -> Iterator[tuple[Path, Layout]]:
    """Yields the datasets at or below a folder, each with its layout."""
    for layout in LAYOUTS.values():
        if layout.recognises(folder, opening):
            yield folder, layout
            return
    if depth:
        for inside in opening.folders(folder):
            yield from _recognised(inside, depth - 1, opening)


def _open_known(path: Path, opening: Opening, record: DatasetRecord) -> Dataset:
    """Opens a dataset of the catalogue, in its own layout or in another one that its folder has."""
    if not path.is_dir():
        return _open_list(path, opening, record)
    places = [*_named_like(path, record), *_within(path)]
    own = LAYOUTS[record.layout]
    for layout in (own, *LAYOUTS.values()):
        for place in places:
            if layout.recognises(place, opening):
                return _open_as(layout, place, opening, record)
    inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:NAMES_SHOWN]) or "nothing"
    raise DataError(
        f"{path}: this is not {record.title} as it is downloaded from {record.page}: expected {own.shape}, "
        f"found {inside}"
    )


def _named_like(path: Path, record: DatasetRecord) -> list[Path]:
    """Lists the folders right in a path that have the name of the dataset."""
    return [path / name for name in folders_in(path) if find_dataset(name) is record]


def _within(path: Path) -> list[Path]:
    """Lists the folder and those that it only wraps; archives often hold one folder with everything in it."""
    places = [path]
    while len(inside := folders_in(places[-1])) == 1 and len(places) <= SEARCH_DEPTH:
        places.append(places[-1] / inside[0])
    return places


def _open_as(layout: Layout, root: Path, opening: Opening, record: DatasetRecord | None = None) -> Dataset:
    opening = replace(opening, class_name=record.class_name) if record else opening
    return _dataset(root, layout.read(root, opening), record, layout.name, opening)


def _open_list(path: Path, opening: Opening, record: DatasetRecord | None = None) -> Dataset:
    suffixes = (*LIST_SUFFIXES, *YAML_SUFFIXES)
    if path.suffix.lower() not in suffixes:
        raise DataError(
            f"{path}: is neither a folder nor a list; expected a folder of images or a file ending in "
            f"{' '.join(suffixes)}"
        )
    opening = replace(opening, class_name=record.class_name) if record else opening
    if names_directories(path):
        return _dataset(path, read_directories(path, opening), record, "directories", opening)
    if is_coco_file(path):
        return _dataset(path, read_coco_file(path, opening), record, "coco", opening)
    return _dataset(path, read_list(path, opening), record, "list", opening)


def _dataset(
    root: Path, listing: Listing, record: DatasetRecord | None, layout: str, opening: Opening
) -> Dataset:
    absolute = Path(os.path.abspath(root))
    own_name = absolute.name if root.is_dir() else absolute.stem
    # In a folder, the layouts know which files are masks; a plain folder has masks left out and counted.
    is_counted = root.is_dir() and not opening.include_results
    left_out = str(left_out_below(root, masks=layout == PLAIN.name)) if is_counted else ""
    notes = [f"{left_out} (--include-results takes them)"] if left_out else []
    if record is None and layout in BY_FOLDERS:
        notes += [
            f"{path} labels images too and is not read: to use its labels, name it in place of the folder"
            for path in _lists_in(root, opening)
        ]
    return Dataset(
        record.name if record else own_name,
        root,
        listing.samples,
        listing.problems,
        record,
        layout,
        tuple(notes),
        opening.normal_labels,
    )


def _lists_in(folder: Path, opening: Opening) -> Iterator[Path]:
    """Yields the lists right in a folder that give a label to one of its images."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in LIST_SUFFIXES and path.is_file():
            try:
                samples = read_list(path, opening).samples
            except DataError:
                continue  # another kind of table, or one that is no list of images
            if any(sample.label != UNLABELLED for sample in samples):
                yield path

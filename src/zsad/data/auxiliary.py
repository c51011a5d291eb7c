"""Describes the data that weights were trained on, and finds out whether a method would be tested on it.

Weights that zsad trained carry digests of their training images, which recognise an image under any name.

All weights name their auxiliary data in words: `zsad train` writes "visa: candle, pcb1 (test split, 400
images)", people write "VisA (capsules, macaroni1), concrete cracks" or "MVTec AD". Names say less than
digests: they do not recognise a renamed folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.data.catalog import dataset_record, find_dataset, list_datasets
from zsad.data.fingerprints import unpack_digests
from zsad.images.names import file_and_part

if TYPE_CHECKING:
    from pathlib import Path

    from zsad.data.folder import Dataset

SHORTEST_NAME = 3  # letters in the name of a user's own folder; shorter names occur in any text
_NO_CATEGORY = re.compile(r"\b(split|pictures?|images?)\b|^\d*$")
_LISTED = re.compile(r"\s*(?:test|train|all)?(?:\s+(?:split|set))?\s*[:(]([^:;()]*)", re.IGNORECASE)


@dataclass(frozen=True)
class NamedData:
    """A dataset that a text names.

    Attributes:
        name: name in the catalogue, or the own name that was looked for.
        categories: folded names of the categories that are listed behind the name; () stands for all.
    """

    name: str
    categories: tuple[str, ...]


def named_datasets(text: str, own_names: Iterable[str] = ()) -> list[NamedData]:
    """Finds the datasets that a description of auxiliary data names, and the categories behind each name.

    Args:
        text: description of auxiliary data.
        own_names: names to look for in addition to those of the catalogue.

    Example:
        >>> named_datasets("MVTec AD: pill, metal_nut (test split, 400 images); bolts", ["bolts"])
        [NamedData(name='mvtec', categories=('pill', 'metalnut')), NamedData(name='bolts', categories=())]
    """
    known = dict(_catalogue_names())
    known |= {name: name for name in own_names if len(name) >= SHORTEST_NAME and find_dataset(name) is None}
    # Longest first, so that "MVTec LOCO AD" is not taken for "MVTec".
    spellings = sorted(known, key=len, reverse=True)
    pattern = "|".join(
        r"[\s_-]*".join(map(re.escape, re.split(r"[\s_-]+", spelling))) for spelling in spellings
    )
    folded = {_folded(name): record for name, record in known.items()}
    found = []
    for match in re.finditer(rf"(?<![\w-])(?:{pattern})(?![\w-])", text, re.IGNORECASE):
        listed = _LISTED.match(text, match.end())
        parts = [part.strip() for part in listed[1].split(",")] if listed else []
        categories = tuple(_folded(part) for part in parts if not _NO_CATEGORY.search(part))
        found.append(NamedData(folded[_folded(match[0])], categories))
    return found


def shared_images(training_digests: str, test_digests: Mapping[Path, bytes]) -> str:
    """Finds the test images whose files are equal to those of training images.

    Args:
        training_digests: text of `zsad.data.fingerprints.pack_digests` that the weights carry.
        test_digests: digest of each test image's file.

    Returns:
        The number of such images and the first of them in one text; "" if there is none.

    Raises:
        WeightsError: the digests of the weights are damaged.
    """
    known = unpack_digests(training_digests)
    found = [path for path, digest in test_digests.items() if digest in known]
    return f"{len(found)} of the test images (the first is {found[0]})" if found else ""


def named_overlap(auxiliary_data: str, dataset: Dataset) -> str:
    """Compares auxiliary data with a dataset to test on, by name.

    Args:
        auxiliary_data: description of the training data in the weights.
        dataset: dataset to test on.

    Returns:
        The name of the dataset and the common categories in one text; "" if nothing is in common. A dataset
        whose categories are not listed counts as a whole. Other categories of the same dataset do not
        overlap.
    """
    name = auxiliary_set(dataset).name  # the name that training would write
    record = find_dataset(name)
    # Samples carry the words for prompts, whereas weights may name the folders.
    word_of = {_folded(folder): record.class_name(folder) for folder in record.categories} if record else {}
    tested = {_folded(category): category for category in dataset.categories}
    tested |= {folder: word for folder, word in word_of.items() if word in dataset.categories}
    known = {*tested, *word_of, *map(_folded, word_of.values())}
    common: list[str] = []
    for named in named_datasets(auxiliary_data, [name]):
        if named.name != name:
            continue
        # A licence or a year may follow the name; only categories narrow it down.
        if not named.categories or (record and not known & set(named.categories)):
            return name
        common += [tested[category] for category in named.categories if category in tested]
    return f"{name}: {', '.join(dict.fromkeys(common))}" if common else ""


def _catalogue_names() -> Iterator[tuple[str, str]]:
    """Yields every spelling of every dataset of the catalogue, with its name in the catalogue."""
    for name in list_datasets():
        record = dataset_record(name)
        for spelling in (name, record.title, *record.aliases):
            yield spelling, name


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


@dataclass(frozen=True)
class AuxiliarySet:
    """A dataset that is trained on.

    Attributes:
        name: name in the catalogue, or name of the folder.
        known_as: name in the catalogue; None for a user's own dataset.
        categories: class names.
        normal: number of normal images.
        anomalous: number of anomalous images.
    """

    name: str
    known_as: str | None
    categories: tuple[str, ...]
    normal: int
    anomalous: int


def auxiliary_set(dataset: Dataset) -> AuxiliarySet:
    """Summarises a dataset; looks it up in the catalogue by the names of its folders if it has no record."""
    root = dataset.root.resolve()
    record = dataset.record or find_dataset(root.name) or find_dataset(root.parent.name)
    name = dataset.name
    if dataset.record is None and dataset.categories == (root.name.replace("_", " ").strip(),):
        name = root.parent.name  # the user named one category; its dataset is the folder above
    anomalous = sum(sample.label for sample in dataset.samples)
    return AuxiliarySet(
        name if record is None else record.name,
        None if record is None else record.name,
        dataset.categories,
        len(dataset.samples) - anomalous,
        anomalous,
    )


def described(sets: Sequence[AuxiliarySet], split: str) -> str:
    """Describes the training data in words, for the record of the weights.

    The text names datasets and categories, so that an evaluation can find out whether it would test on
    training data.

    Example:
        >>> described([AuxiliarySet("toys", None, ("nut", "bolt"), normal=3, anomalous=2)], "test")
        'toys: nut, bolt (test split, 5 images)'
    """
    names = "; ".join(f"{each.name}: {', '.join(each.categories)}" for each in sets)
    images = sum(each.normal + each.anomalous for each in sets)
    return f"{names} ({split} split, {images} images)"


def fingerprint(datasets: Sequence[Dataset]) -> str:
    """Returns the SHA-256 of the names, labels and sizes of the images, wherever their folders lie."""
    digest = hashlib.sha256()
    for dataset in datasets:
        for sample in dataset.samples:
            inside = sample.path.is_relative_to(dataset.root)
            name = (sample.path.relative_to(dataset.root) if inside else sample.path).as_posix()
            size = os.stat(file_and_part(sample.path)[0]).st_size
            line = f"{sample.category}/{name} {sample.label} {size}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()

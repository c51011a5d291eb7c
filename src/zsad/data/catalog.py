"""The datasets that the papers report on: a table, read from `catalog.yaml` beside this file.

A new dataset in a known layout needs one entry in that file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

from zsad.data.vocabulary import spaced
from zsad.errors import unknown_name


@dataclass(frozen=True)
class Counts:
    """Numbers of images that the official page or the papers give; None where they are unknown.

    Attributes:
        normal: normal images in the test split.
        anomalous: anomalous images in the test split.
        train: normal images in the training split.
    """

    normal: int | None = None
    anomalous: int | None = None
    train: int | None = None


@dataclass(frozen=True)
class DatasetRecord:
    """A dataset as its authors publish it.

    Attributes:
        name: what a user types before the colon ("mvtec").
        title: name that papers print ("MVTec AD").
        page: URL of the official page, where a user gets the data.
        licence: SPDX name or a short sentence.
        domain: "industrial" or "medical".
        layout: name of the layout on disk, one of `zsad.data.layouts.LAYOUTS`.
        categories: folder names of the categories; if there is only one, its folder may have any name.
        counts: official numbers of the images that the papers test on.
        other_counts: numbers of other versions that are in use, under a description of the version.
        has_masks: whether anomalous images have masks.
        class_names: folder name of a category -> word for prompts and tables, where that is not the folder
            name with spaces for underscores.
        aliases: other names that a user may type.
        notes: remarks worth a line.
    """

    name: str
    title: str
    page: str
    licence: str
    domain: str
    layout: str
    categories: tuple[str, ...] = ()
    counts: Counts = Counts()
    has_masks: bool = True
    class_names: Mapping[str, str] = field(default_factory=dict)
    other_counts: Mapping[str, Counts] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    notes: str = ""

    def class_name(self, category: str) -> str:
        """Returns the word for prompts and tables of a category, given its folder name."""
        known = self.categories[0] if len(self.categories) == 1 else category
        return self.class_names.get(known, spaced(known))


def list_datasets() -> list[str]:
    """Lists the names of the datasets in the catalogue, in the order of the tables of the papers."""
    return list(_records())


def dataset_record(name: str) -> DatasetRecord:
    """Returns the record of a dataset.

    Args:
        name: name or alias; case, spaces, "-" and "_" do not count.

    Raises:
        ConfigError: the catalogue has no such dataset; the message names the nearest one.
    """
    found = find_dataset(name)
    if found is None:
        raise unknown_name("dataset", name, list_datasets())
    return found


def find_dataset(name: str) -> DatasetRecord | None:
    """Returns the record of a dataset, or None for a name that is not in the catalogue.

    Args:
        name: name or alias; case, spaces, "-" and "_" do not count.
    """
    wanted = _folded(name)
    for record in _records().values():
        if wanted in map(_folded, (record.name, record.title, *record.aliases)):
            return record
    return None


def _folded(name: str) -> str:
    return "".join(character for character in name.casefold() if character not in " -_")


@lru_cache(maxsize=1)
def _records() -> dict[str, DatasetRecord]:
    import yaml

    text = resources.files("zsad.data").joinpath("catalog.yaml").read_text(encoding="utf-8")
    return {name: _record(name, row) for name, row in yaml.safe_load(text).items()}


def _record(name: str, row: Mapping[str, Any]) -> DatasetRecord:
    categories = tuple(row.get("categories", ()))
    words = row.get("class_names", {})
    return DatasetRecord(
        name=name,
        title=row["title"],
        page=row["page"],
        licence=row["licence"],
        domain=row["domain"],
        layout=row["layout"],
        categories=categories,
        counts=Counts(**row.get("counts", {})),
        has_masks=row["masks"],
        class_names=dict(zip(categories, categories, strict=True)) if words == "as folders" else words,
        other_counts={name: Counts(**numbers) for name, numbers in row.get("other_counts", {}).items()},
        aliases=tuple(row.get("aliases", ())),
        notes=row.get("notes", ""),
    )

"""The datasets that the papers report on: a table, read from `catalog.yaml` beside this file.

A new dataset in a layout that is there is one entry of that file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

from zsad.data.layouts.listing import spaced
from zsad.errors import unknown_name


@dataclass(frozen=True)
class Counts:
    """How many images the official page or the papers count; None where it is not known.

    Attributes:
        normal: of the test split.
        anomalous: of the test split.
        train: normal images of the training split.
    """

    normal: int | None = None
    anomalous: int | None = None
    train: int | None = None


@dataclass(frozen=True)
class DatasetRecord:
    """A dataset as its authors publish it.

    Attributes:
        name: what a user types before the colon ("mvtec").
        title: the name that papers print ("MVTec AD").
        page: official page, where a user gets the data.
        licence: SPDX name or a short sentence.
        domain: "industrial" or "medical".
        layout: name of the on-disk layout, one of `zsad.data.layouts.LAYOUTS`.
        categories: folder names of the categories; the one of a dataset of one category counts whatever its
            folder is called.
        counts: official numbers of images, as the papers test on them.
        other_counts: numbers of other versions that are in use, by what they are.
        has_masks: whether anomalous images have masks.
        class_names: category's folder name -> word for prompts and tables, where it is not the folder name
            with spaces for underscores.
        aliases: other names that a user may type.
        notes: anything else worth a line.
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
        """The word for prompts and tables of a category, given its folder name."""
        known = self.categories[0] if len(self.categories) == 1 else category
        return self.class_names.get(known, spaced(known))


def list_datasets() -> list[str]:
    """Names of the datasets of the catalogue, in the order of the papers' tables."""
    return list(_records())


def dataset_record(name: str) -> DatasetRecord:
    """The record of a dataset.

    Args:
        name: a name or alias; case, spaces, "-" and "_" do not count.

    Raises:
        ConfigError: not in the catalogue; the message has the nearest name.
    """
    found = find_dataset(name)
    if found is None:
        raise unknown_name("dataset", name, list_datasets())
    return found


def find_dataset(name: str) -> DatasetRecord | None:
    """As `dataset_record`, but None for a name that is not in the catalogue."""
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

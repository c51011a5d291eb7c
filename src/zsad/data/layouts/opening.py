"""How a user wants a dataset read; every layout gets it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zsad.data.vocabulary import Meaning, folded, meaning, spaced
from zsad.errors import unknown_name
from zsad.images.finding import folders_in, images_in

Split = Literal["test", "train", "all"]
SPLITS = ("test", "train", "all")

ClassName = Callable[[str], str]
"""Turns the folder name of a category into the word for prompts and tables."""


def check_split(split: str) -> None:
    """Refuses an unknown split.

    Raises:
        ConfigError: the split is unknown; the message names the known ones.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)


@dataclass(frozen=True)
class Opening:
    """How a user wants a dataset read.

    Attributes:
        split: "test" (what the papers train and evaluate on), "train" (normal images) or "all".
        class_name: turns the folder name of a category into the word for prompts.
        normal_labels: labels and names of folders, folded, that alone mean "normal"; without any, the
            vocabulary decides.
        include_results: whether images that zsad wrote itself count as images.
    """

    split: Split = "test"
    class_name: ClassName = spaced
    normal_labels: frozenset[str] = frozenset()
    include_results: bool = False

    def meaning(self, label: str) -> Meaning | None:
        """Returns what a label or the name of a folder says; None if it is not known."""
        return meaning(label, self.normal_labels)

    def is_normal(self, label: str) -> bool:
        """Whether a label or the name of a folder says that an image is normal."""
        return self.meaning(label) == "normal"

    def images(self, folder: Path) -> list[Path]:
        """Lists the images right in a folder, sorted by name."""
        return images_in(folder, include_results=self.include_results)

    def folders(self, folder: Path) -> list[Path]:
        """Lists the folders right in a folder, sorted by name."""
        return [folder / name for name in folders_in(folder, include_results=self.include_results)]


def folded_labels(labels: Iterable[str] | None) -> frozenset[str]:
    """Returns labels as they are compared; none for None.

    Example:
        >>> sorted(folded_labels([" Pass", "OK"]))
        ['ok', 'pass']
    """
    return frozenset(map(folded, labels or ())) - {""}

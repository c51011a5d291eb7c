"""The images that others are compared with: references and companions, chosen and read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zsad.errors import ConfigError, DataError

if TYPE_CHECKING:
    from zsad.types import Sample

LEAST_PICTURES = 8
FOLDER_METHOD = "auto"
DEFAULT_METHOD = "anomalyclip"


def default_method(files: Sequence[Path]) -> str | None:
    """What scores images if the user chose nothing: "auto" from 8 files on, else `zsad.load`'s own."""
    here = sum(os.path.isfile(path) for path in files)
    return FOLDER_METHOD if here >= LEAST_PICTURES else None


def evenly_spread(files: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of some files, evenly spread over the list, so that every sub-folder has its share.

    Example:
        >>> [path.name for path in evenly_spread([Path(f"{n}.png") for n in range(7)], 3)]
        ['0.png', '3.png', '6.png']
    """
    if count < 1:
        raise ConfigError(f"the number of images to draw must be at least 1, got {count}")
    if len(files) <= count:
        return list(files)
    return [files[round(index * (len(files) - 1) / max(1, count - 1))] for index in range(count)]


def choose_references(candidates: Sequence[Sample], count: int, seed: int, category: str) -> tuple[Path, ...]:
    """Normal images of a category, drawn by seed; the same whatever the other categories are.

    Raises:
        DataError: there are not that many.
    """
    normal = [sample.path for sample in candidates if sample.label == 0]
    if len(normal) < count:
        raise DataError(
            f"category {category!r} has {len(normal)} normal training images, {count} references were "
            "asked for; use a smaller --reference"
        )
    drawn = np.random.default_rng([seed, *category.encode()]).choice(len(normal), count, replace=False)
    return tuple(normal[index] for index in drawn)


def choose_companions(samples: Sequence[Sample], most: int) -> tuple[Path, ...]:
    """The images of a category that each of its images is compared with, as `zsad predict` draws them.

    Args:
        samples: of the category.
        most: that the method takes; 0 for a method that takes none.

    Returns:
        Paths; none if there are too few images to compare.
    """
    if not most or len(samples) < LEAST_PICTURES:
        return ()
    return tuple(evenly_spread([sample.path for sample in samples], most))

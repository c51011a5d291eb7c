"""On-disk layouts of datasets, read as they are: so far that of MVTec AD.

    CATEGORY/test/good/*                          normal pictures ("ok" and "normal" count as "good")
    CATEGORY/test/DEFECT/*                        anomalous pictures
    CATEGORY/ground_truth/DEFECT/STEM_mask.png    their masks, or STEM.png; any picture format
    CATEGORY/train/good/*                         normal pictures

A set without any `ground_truth` folder has image labels only. The class name that prompts read is the
category's folder name with spaces for underscores ("metal_nut" is a "metal nut").
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zsad.errors import DataError, unknown_name
from zsad.picture_files import PICTURE_SUFFIXES
from zsad.types import Sample

Split = Literal["test", "train", "all"]
NORMAL_FOLDERS = frozenset({"good", "ok", "normal"})
MASK_SUFFIX = "_mask"
SEARCH_DEPTH = 3
PROBLEMS_SHOWN = 5


@dataclass(frozen=True)
class Category:
    """A folder in MVTec layout.

    Attributes:
        folder: the one that holds `test`.
        name: the folder's own name ("metal_nut"), as result tables print it.
        dataset: name of the folder above ("mvtec_ad").
    """

    folder: Path
    name: str
    dataset: str

    @property
    def class_name(self) -> str:
        """The name as prompts should read it ("metal nut")."""
        return self.name.replace("_", " ").strip()


@dataclass(frozen=True)
class CategoryListing:
    """What was found in a category.

    Attributes:
        category: where.
        samples: the pictures, by folder and file name; those with a problem are left out.
        problems: one line each, with the file's path and what to do.
    """

    category: Category
    samples: tuple[Sample, ...]
    problems: tuple[str, ...]


def find_categories(folder: str | Path) -> list[Category]:
    """The categories in MVTec layout at or below a folder.

    Args:
        folder: a category, a dataset (a folder of categories), or a folder of datasets.

    Returns:
        Categories by path.

    Raises:
        DataError: the folder is not there or holds no category.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{folder}: no such folder; give a folder in MVTec AD layout")
    found = _categories_below(root, SEARCH_DEPTH)
    if not found:
        inside = ", ".join(_folders(root)[:PROBLEMS_SHOWN]) or "no folders"
        raise DataError(
            f"{folder}: no category in MVTec AD layout at or below it (it holds {inside}); "
            "expected CATEGORY/test/good/* and CATEGORY/test/DEFECT/*"
        )
    return found


def list_category(category: Category, split: Split = "test") -> CategoryListing:
    """Lists the pictures of a category with their labels and masks.

    Args:
        category: from `find_categories`.
        split: "test" (what the papers train and evaluate on), "train" (normal pictures) or "all".

    Returns:
        Samples and problems: masks that are missing or belong to no picture, two masks or two pictures of one
        name, pictures outside the folders of the layout.

    Raises:
        ConfigError: an unknown split.
    """
    if split not in ("test", "train", "all"):
        raise unknown_name("split", split, ["test", "train", "all"])
    samples: list[Sample] = []
    problems: list[str] = []
    parts = ("train", "test") if split == "all" else (split,)
    for part in parts:
        folder = category.folder / part
        problems += [
            f"{path}: lies beside the defect folders; move it to {folder / 'good'} or {folder / 'DEFECT'}"
            for path in _pictures(folder)
        ]
        for defect in _folders(folder):
            if defect.lower() in NORMAL_FOLDERS:
                samples += [Sample(path, category.class_name, 0) for path in _pictures(folder / defect)]
            elif part == "train":
                problems.append(
                    f"{folder / defect}: training pictures are normal; expected only {folder / 'good'}"
                )
            else:
                _list_defect(category, defect, samples, problems)
    if not samples and not problems:
        problems.append(f"{category.folder}: no pictures in {' or '.join(parts)}/good or {parts[-1]}/DEFECT")
    return CategoryListing(category, tuple(samples), tuple(problems))


def read_mvtec(folder: str | Path, split: Split = "test") -> list[Sample]:
    """All labelled pictures at or below a folder in MVTec layout, which must be without problems.

    Args:
        folder: a category, a dataset or a folder of datasets.
        split: "test", "train" or "all".

    Returns:
        Samples by category, folder and file name; the order is the same on every machine.

    Raises:
        DataError: no category, no picture, or a mask or picture that does not fit, by name.
        ConfigError: an unknown split.
    """
    samples: list[Sample] = []
    problems: list[str] = []
    for category in find_categories(folder):
        listing = list_category(category, split)
        samples += listing.samples
        problems += listing.problems
    refuse_problems(problems)
    return samples


def refuse_problems(problems: Sequence[str]) -> None:
    """Raises a `DataError` with the first problems and their number, if there are any."""
    if problems:
        more = len(problems) - PROBLEMS_SHOWN
        shown = "\n".join(problems[:PROBLEMS_SHOWN]) + (f"\nand {more} more" if more > 0 else "")
        raise DataError(shown if len(problems) == 1 else f"{len(problems)} problems:\n{shown}")


def _categories_below(folder: Path, depth: int) -> list[Category]:
    if any(_folders(folder / "test")) or any(_pictures(folder / "test")):
        # The name of "." or ".." is only known once the path is absolute; links keep the name that they have.
        absolute = Path(os.path.abspath(folder))
        return [Category(folder, absolute.name, absolute.parent.name)]
    if depth == 0:
        return []
    return [category for name in _folders(folder) for category in _categories_below(folder / name, depth - 1)]


def _list_defect(category: Category, defect: str, samples: list[Sample], problems: list[str]) -> None:
    """Adds the pictures of one defect folder, each with its mask if the category has masks."""
    truth_folder = category.folder / "ground_truth"
    pictures = _pictures(category.folder / "test" / defect)
    if not truth_folder.is_dir():
        samples += [Sample(path, category.class_name, 1, None, defect) for path in pictures]
        return
    masks: dict[str, list[Path]] = defaultdict(list)
    for path in _pictures(truth_folder / defect):
        masks[path.stem.removesuffix(MASK_SUFFIX)].append(path)
    stems: dict[str, Path] = {}
    for path in pictures:
        own = masks.get(path.stem, [])
        wanted = truth_folder / defect / f"{path.stem}{MASK_SUFFIX}.png"
        if path.stem in stems:
            problems.append(f"{path}: has the same name as {stems[path.stem].name}; rename it and its mask")
        elif not own:
            problems.append(f"{path}: has no mask; expected {wanted}")
        elif len(own) > 1:
            problems.append(
                f"{path}: has {len(own)} masks ({', '.join(m.name for m in own)}); keep {wanted.name}"
            )
        else:
            samples.append(Sample(path, category.class_name, 1, own[0], defect))
        stems.setdefault(path.stem, path)
    problems += [
        f"{path}: belongs to no picture; expected {category.folder / 'test' / defect / stem}.*"
        for stem, paths in masks.items()
        if stem not in stems
        for path in paths
    ]


def _folders(folder: Path) -> list[str]:
    """Names of the visible sub-folders in order; none if the folder is not there."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")


def _pictures(folder: Path) -> list[Path]:
    """The visible picture files of a folder in order; none if the folder is not there."""
    if not folder.is_dir():
        return []
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in PICTURE_SUFFIXES and entry.name[0] != "." and entry.is_file()
    )

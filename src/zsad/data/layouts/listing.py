"""What every layout gives back, and the few rules that they share: which files count, which mask is whose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zsad.errors import DataError, unknown_name
from zsad.images.names import suffix_of

if TYPE_CHECKING:
    from zsad.types import Sample

Split = Literal["test", "train", "all"]
SPLITS = ("test", "train", "all")
NORMAL_FOLDERS = frozenset({"good", "ok", "normal"})
MASK_SUFFIXES = ("_mask", "_label", "_gt", "_segmentation", "_seg")
"""What a mask's name may have more than its image's, before the dot; upper and lower case alike."""
PROBLEMS_SHOWN = 5

ClassName = Callable[[str], str]
"""From a category's folder name to the word that prompts and tables read."""


@dataclass(frozen=True)
class Listing:
    """What was found in a place.

    Attributes:
        samples: the images in order; those with a problem are left out.
        problems: one line each, with the file's path and what to do.
    """

    samples: tuple[Sample, ...] = ()
    problems: tuple[str, ...] = ()


def joined(listings: Sequence[Listing]) -> Listing:
    """All samples and all problems, in order."""
    return Listing(
        tuple(sample for listing in listings for sample in listing.samples),
        tuple(problem for listing in listings for problem in listing.problems),
    )


def spaced(folder: str) -> str:
    """A folder name as prompts should read it: spaces for underscores."""
    return folder.replace("_", " ").strip()


def check_split(split: str) -> None:
    """Refuses a word that is no split.

    Raises:
        ConfigError: with the three that are.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)


def refuse_problems(problems: Sequence[str]) -> None:
    """Raises a `DataError` with the first problems and their number, if there are any."""
    if problems:
        more = len(problems) - PROBLEMS_SHOWN
        shown = "\n".join(problems[:PROBLEMS_SHOWN]) + (f"\nand {more} more" if more > 0 else "")
        raise DataError(shown if len(problems) == 1 else f"{len(problems)} problems:\n{shown}")


def stem_of(path: Path) -> str:
    """The name without its suffix; that of "scan.nii.gz" is "scan"."""
    return path.name[: len(path.name) - len(suffix_of(path.name))]


def image_stem(mask: Path) -> str:
    """The stem of the image that a mask belongs to: its own without one of `MASK_SUFFIXES`."""
    stem = stem_of(mask)
    for suffix in MASK_SUFFIXES:
        if stem.casefold().endswith(suffix) and len(stem) > len(suffix):
            return stem[: -len(suffix)]
    return stem


def masks_beside(files: Sequence[Path]) -> list[Path]:
    """Those of a folder's files that are masks of others: "1_GT.png" where there is a "1.png" too."""
    stems = {stem_of(path) for path in files}
    return [path for path in files if image_stem(path) != stem_of(path) and image_stem(path) in stems]


@dataclass(frozen=True)
class Pairing:
    """Which mask belongs to which image.

    Attributes:
        pairs: (image, mask), in the order of the images; a mask may be a folder of masks to be united.
        problems: images without a mask or with several, masks without an image.
    """

    pairs: tuple[tuple[Path, Path], ...]
    problems: tuple[str, ...]


def pair_masks(images: Sequence[Path], masks: Sequence[Path], expected: str) -> Pairing:
    """Matches masks with images by name.

    Args:
        images: of one folder.
        masks: files "STEM.*", "STEM_mask.*" (or another of `MASK_SUFFIXES`), or folders "STEM".
        expected: where the mask of an image is looked for, with {stem} in it, for the messages.

    Returns:
        Pairs and problems.
    """
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in masks:
        by_stem[image_stem(path)].append(path)
    pairs: list[tuple[Path, Path]] = []
    problems: list[str] = []
    seen: dict[str, Path] = {}
    for path in images:
        stem = stem_of(path)
        own = by_stem.get(stem, [])
        wanted = expected.replace("{stem}", stem)
        if stem in seen:
            problems.append(f"{path}: has the same name as {seen[stem].name}; rename it and its mask")
        elif not own:
            problems.append(f"{path}: has no mask; expected {wanted}")
        elif len(own) > 1:
            names = ", ".join(mask.name for mask in own)
            problems.append(f"{path}: has {len(own)} masks ({names}); keep {Path(wanted).name}")
        else:
            pairs.append((path, own[0]))
        seen.setdefault(stem, path)
    folder = images[0].parent if images else Path()
    problems += [
        f"{path}: belongs to no image; expected {folder / stem}.*"
        for stem, paths in by_stem.items()
        if stem not in seen
        for path in paths
    ]
    return Pairing(tuple(pairs), tuple(problems))

"""The result of every layout, and the rules that layouts share, such as which mask belongs to which image."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.errors import DataError
from zsad.images.names import suffix_of

if TYPE_CHECKING:
    from zsad.types import Sample

MASK_SUFFIXES = ("_mask", "_label", "_gt", "_segmentation", "_seg")
"""Endings that the name of a mask may have before the dot, unlike that of its image; case does not count."""
_MASK_WORD = "(?:masks?|labels?|gt|segmentation|seg|ground[ _-]?truth)"
_MASK_ENDING = re.compile(rf"[ ._-]{_MASK_WORD}$|^{_MASK_WORD}[ ._-]", re.IGNORECASE)
_AFFIX = re.compile(r"^[^\W\d_]+[ ._-]+|[ ._-]+[^\W\d_]+$")
PROBLEMS_SHOWN = 5


@dataclass(frozen=True)
class Listing:
    """Samples and problems that were found in a folder or list.

    Attributes:
        samples: images in order, without those whose label or file is not known. An anomalous image whose
            mask is missing is among them, without a mask.
        problems: one line each, with the path of the file and what to do.
    """

    samples: tuple[Sample, ...] = ()
    problems: tuple[str, ...] = ()


def joined(listings: Sequence[Listing]) -> Listing:
    """Joins listings, in order."""
    return Listing(
        tuple(sample for listing in listings for sample in listing.samples),
        tuple(problem for listing in listings for problem in listing.problems),
    )


def refuse_problems(problems: Sequence[str]) -> None:
    """Refuses data with problems.

    Raises:
        DataError: there are problems; the message holds the first ones and their number.
    """
    if problems:
        more = len(problems) - PROBLEMS_SHOWN
        shown = "\n".join(problems[:PROBLEMS_SHOWN]) + (f"\nand {more} more" if more > 0 else "")
        raise DataError(shown if len(problems) == 1 else f"{len(problems)} problems:\n{shown}")


def stem_of(path: Path) -> str:
    """Returns the name of a file without its suffix; "scan" for "scan.nii.gz"."""
    return path.name[: len(path.name) - len(suffix_of(path.name))]


def image_stem(mask: Path) -> str:
    """Returns the stem of the image of a mask: that of the mask without its ending or beginning."""
    stem = stem_of(mask)
    return _MASK_ENDING.sub("", stem) or stem


def masks_beside(files: Sequence[Path]) -> list[Path]:
    """Returns the files that are masks of others, such as "1_GT.png" if there is a "1.png"."""
    stems = {stem_of(path) for path in files}
    return [path for path in files if image_stem(path) != stem_of(path) and image_stem(path) in stems]


def stem_among(mask: Path, stems: Iterable[str]) -> str:
    """Returns the stem of the image that a mask belongs to, given the stems of all images.

    Args:
        mask: file of a mask, or a folder of masks.
        stems: stems of the images; to be fast, a set or a mapping.

    Returns:
        The stem of the mask itself, else that without a word for masks, else that without any word at its
        beginning or end ("000_m"), whichever an image has; else the second.
    """
    stem, named = stem_of(mask), image_stem(mask)
    if stem in stems or named in stems:
        return stem if stem in stems else named
    shorter = (stem[: found.start()] + stem[found.end() :] for found in _AFFIX.finditer(stem))
    return next((each for each in shorter if each in stems), named)


@dataclass(frozen=True)
class Pairing:
    """Images with their masks.

    Attributes:
        pairs: image and mask, in the order of the images; the mask may be a folder of masks to unite, and is
            None where it is missing or ambiguous.
        problems: images without a mask or with several, masks without an image.
    """

    pairs: tuple[tuple[Path, Path | None], ...]
    problems: tuple[str, ...]

    @property
    def masked(self) -> list[tuple[Path, Path]]:
        """The images that have a mask, and their masks."""
        return [(image, mask) for image, mask in self.pairs if mask is not None]


def pair_masks(images: Sequence[Path], masks: Sequence[Path], expected: str) -> Pairing:
    """Matches masks with images by name.

    Args:
        images: images of one folder.
        masks: files "STEM.*", "STEM_mask.*", "STEM-gt.*", "mask_STEM.*" and the like, or folders "STEM".
        expected: path of the mask of an image, with {stem} in it, for the messages.

    Returns:
        Pairs, and problems with images and masks that have no counterpart or several.
    """
    stems = {stem_of(path) for path in images}
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in masks:
        by_stem[stem_among(path, stems)].append(path)
    pairs: list[tuple[Path, Path | None]] = []
    problems: list[str] = []
    seen: dict[str, Path] = {}
    for path in images:
        stem = stem_of(path)
        own = by_stem.get(stem, [])
        wanted = expected.replace("{stem}", stem)
        if stem in seen:
            problems.append(f"{path}: has the same name as {seen[stem].name}; rename it and its mask")
            own = []
        elif not own:
            problems.append(f"{path}: has no mask; expected {wanted}")
        elif len(own) > 1:
            names = ", ".join(mask.name for mask in own)
            problems.append(f"{path}: has {len(own)} masks ({names}); keep {Path(wanted).name}")
        pairs.append((path, own[0] if len(own) == 1 else None))
        seen.setdefault(stem, path)
    folder = images[0].parent if images else Path()
    problems += [
        f"{path}: belongs to no image; expected {folder / stem}.*"
        for stem, paths in by_stem.items()
        if stem not in seen
        for path in paths
    ]
    return Pairing(tuple(pairs), tuple(problems))

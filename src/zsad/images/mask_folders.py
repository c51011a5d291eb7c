"""Recognises folders and files that hold masks of other images, by their names and by what they show."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from zsad.images.bare_dicom import is_bare_dicom
from zsad.images.names import IMAGE_SUFFIXES, suffix_of

MASK_NAMES = frozenset(
    {
        *("mask", "masks", "gt", "gts", "groundtruth", "groundtruths", "label", "labels", "labelmap"),
        *("labelmaps", "annotation", "annotations", "segmentation", "segmentations", "seg", "segs"),
        *("maske", "masken", "maskdir", "masksdir", "maskfolder", "annotationdir"),
        *("masque", "masques", "mascara", "mascaras", "maschera", "maschere", "maska", "maski", "masker"),
        *("掩码", "掩膜", "マスク", "마스크"),
    }
)
"""Names of folders of masks, in small letters, without spaces and punctuation."""
_MASK_WORDS = frozenset({"mask", "masks", "gt"})  # such a word may begin or end a name
_CERTAIN = frozenset({"groundtruth", "mask", "masks", "gt"})
_WORD = r"(?:masks?|gt|labels?|ground[ _-]?truth|seg|segmentation)"
_NAMED = re.compile(rf"[ ._-]+{_WORD}$|^{_WORD}[ ._-]+", re.IGNORECASE)
_AFFIX = re.compile(r"[ ._-]+[^\W\d_]+$|^[^\W\d_]+[ ._-]+")
_MOST_COLOURS = 16
_SAMPLE = 3  # files of a folder that are opened
_NEAR = 40  # grey levels around black and white that the noise of JPEG reaches
_FRINGE = 0.05  # share of pixels of a JPEG mask that may lie between


def has_mask_name(name: str) -> bool:
    """Whether the name of a folder says that it holds masks.

    Example:
        >>> has_mask_name("Ground_Truth"), has_mask_name("bad_mask"), has_mask_name("scratch")
        (True, True, False)
    """
    spread = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.findall(r"[^\W_]+", spread.casefold())
    joined = "".join(words)
    return (
        joined in MASK_NAMES
        or "groundtruth" in joined
        or not _MASK_WORDS.isdisjoint((*words[:1], *words[-1:]))
    )


def shows_mask(path: Path, *, strictly: bool = False) -> bool:
    """Whether an image holds few colours, as masks do, or black and white with the noise of JPEG.

    Args:
        path: path of an image file.
        strictly: also ask for at least two colours, black among them, so that a plain area is no mask.
            Otherwise, a file that cannot be read counts as a mask.
    """
    try:
        with Image.open(path) as image:
            plain = image.convert("RGBA") if image.mode == "P" else image
            colours = plain.getcolors(_MOST_COLOURS)
            if colours is None:  # black and white with fringes, from JPEG or smoothing
                counts = image.convert("L").histogram()
                between = sum(counts[_NEAR : 256 - _NEAR])
                is_plain = sum(counts[_NEAR:]) == 0 or sum(counts[: 256 - _NEAR]) == 0
                return between <= _FRINGE * sum(counts) and not (strictly and is_plain)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return not strictly
    return not strictly or (len(colours) > 1 and any(_is_black(colour) for _, colour in colours))


def _is_black(colour: object) -> bool:
    return not any(colour[:3]) if isinstance(colour, tuple) else not colour


def is_mask_folder(folder: Path, siblings: Iterable[Path] = ()) -> bool:
    """Whether a folder holds masks: its name says so, or its images have the names of others, and they do.

    Args:
        folder: an existing folder.
        siblings: folders whose images the masks may belong to.
    """
    images = _images_below(folder)
    sample = images[:: max(1, len(images) // _SAMPLE)][:_SAMPLE]
    if has_mask_name(folder.name):
        return all(map(shows_mask, sample))
    if not images or not all(shows_mask(path, strictly=True) for path in sample):
        return False
    stems = {_stem(path) for path in images}
    possible = {stem for path in images for stem in (_stem(path), *_shorter_stems(path))}
    for sibling in siblings:
        if sibling == folder:
            continue
        others = [path for path in _images_below(sibling) if folder not in path.parents]
        partners = [path for path in others if _stem(path) in possible]
        if 2 * len(partners) >= len(stems) and not any(map(shows_mask, partners[:_SAMPLE])):
            return True
    return False


def is_truth_folder(folder: Path) -> bool:
    """Whether a folder of a dataset holds its masks: "ground_truth" does, "labels" only if masks lie in it.

    A folder called "labels" may hold photos of defective labels.
    """
    if not has_mask_name(folder.name):
        return False
    joined = "".join(re.findall(r"[^\W_]+", folder.name.casefold()))
    return joined in _CERTAIN or is_mask_folder(folder)


def masks_among(files: Sequence[Path]) -> list[Path]:
    """Returns the files of a folder that are masks of others beside them.

    A file is a mask if its name is that of another with a word for masks ("1_mask.png" beside "1.png") and it
    may be one, or if its name is that of another with any word or suffix ("1_m.png", "1.bmp"), it shows black
    and few other colours, and the other does not.
    """
    by_stem: dict[str, list[Path]] = {}
    for path in files:
        by_stem.setdefault(path.stem, []).append(path)
    return [path for path in files if _belongs_to(path, by_stem)]


def _belongs_to(path: Path, by_stem: dict[str, list[Path]]) -> bool:
    """Whether a file is the mask of one of the files beside it."""
    named = _stem(path)
    if named != path.stem and named in by_stem:
        return shows_mask(path)
    stems = (path.stem, *_shorter_stems(path))
    others = [other for stem in stems for other in by_stem.get(stem, ()) if other != path]
    return bool(others) and shows_mask(path, strictly=True) and not any(map(shows_mask, others))


def _images_below(folder: Path) -> list[Path]:
    return sorted(
        Path(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if (suffix_of(name) in IMAGE_SUFFIXES or is_bare_dicom(Path(place, name)))
        and not name.startswith(".")
    )


def _stem(path: Path) -> str:
    """Returns the stem of the image that a mask belongs to; for an image, its own stem."""
    return _NAMED.sub("", path.stem) or path.stem


def _shorter_stems(path: Path) -> list[str]:
    """Returns the stem without the word at its end, or at its beginning: "000" for "000_m"."""
    return [path.stem[: found.start()] + path.stem[found.end() :] for found in _AFFIX.finditer(path.stem)]

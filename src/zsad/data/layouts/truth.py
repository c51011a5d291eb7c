"""Finds which mask shows the defect of which image, wherever people keep the masks of class folders.

ground_truth/DEFECT/STEM_mask.png    "ground_truth" under any name that says mask, or that holds masks
DEFECT_mask/STEM.png                 a folder of masks for each defect
DEFECT/masks_of_it/STEM.png          inside the folder of the defect, under any name
DEFECT/STEM_m.png, DEFECT/STEM.json  beside the images: masks, or outlines of labelme
ground_truth/STEM.png                all in one folder; a name that two defects share says nothing
annotations/instances.json           outlines of COCO, for images that have no mask otherwise
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.data.annotations import CocoMasks, labelme_of
from zsad.data.layouts.listing import Listing, joined, pair_masks, stem_among, stem_of
from zsad.images.finding import folders_in, masks_in
from zsad.images.mask_folders import has_mask_name, is_mask_folder, is_truth_folder, masks_among
from zsad.types import Sample

if TYPE_CHECKING:
    from zsad.data.layouts.opening import Opening

IMAGE_NAMES = frozenset({"images", "image", "imgs", "img", "original", "originals", "photos", "rgb"})
"""Names, in small letters, of folders that hold the images of a class beside other files."""


def mask_folders(folder: Path, opening: Opening) -> list[Path]:
    """Returns the folders in a folder that hold masks: those named so, else those that show masks."""
    inside = opening.folders(folder)
    named = [path for path in inside if is_truth_folder(path)]
    shown = (path for path in inside if not opening.is_normal(path.name))
    return named or [path for path in shown if is_mask_folder(path, inside)]


def class_images(folder: Path, opening: Opening) -> list[Path]:
    """Lists the images of a class, which lie in its folder or in one called "images" or "rgb" in it."""
    places = [folder, *(path for path in opening.folders(folder) if path.name.casefold() in IMAGE_NAMES)]
    found = next((images for place in places if (images := opening.images(place))), [])
    masks = set(masks_among(found))
    return [path for path in found if path not in masks]


def mask_files(folder: Path) -> list[Path]:
    """Lists the masks right in a folder: images, and files of labelme for which there is no image."""
    images = masks_in(folder)
    stems = {stem_of(path) for path in images}
    return [*images, *(path for path in labelme_in(folder) if path.stem not in stems)]


def read_defects(
    defects: Sequence[Path], truth: Sequence[Path], coco: CocoMasks, word: str, opening: Opening
) -> Listing:
    """Lists the images of folders of defects with their masks.

    Args:
        defects: folders, one for each kind of defect.
        truth: folders of masks beside them; none if the dataset has image labels only.
        coco: masks of COCO files.
        word: name of the category.
        opening: how the user wants the dataset read.
    """
    images = {folder: class_images(folder, opening) for folder in defects}
    times = Counter(stem_of(path) for paths in images.values() for path in paths)
    listings = []
    for folder in defects:
        once = {stem_of(path) for path in images[folder] if times[stem_of(path)] == 1}
        place, masks = _masks_of(folder, images[folder], truth, once, opening)
        if not masks and not truth and not coco:
            samples = (Sample(path, word, 1, None, folder.name) for path in images[folder])
            listings.append(Listing(tuple(samples)))
            continue
        outlined = {path: found for path in images[folder] if (found := coco.mask_of(path))}
        paired = [path for path in images[folder] if masks or path not in outlined]
        pairing = pair_masks(paired, masks, str(place / "{stem}_mask.png"))
        by_image = {**outlined, **dict(pairing.masked)}
        listings.append(
            Listing(
                tuple(Sample(path, word, 1, by_image.get(path), folder.name) for path in images[folder]),
                tuple(line for line in pairing.problems if not _is_outlined(line, outlined)),
            )
        )
    return joined(listings)


def _is_outlined(problem: str, outlined: dict[Path, Path]) -> bool:
    """Whether a missing mask is no problem, because an outline takes its place."""
    image, _, _ = problem.partition(": has no mask")
    return Path(image) in outlined


def _masks_of(
    folder: Path, images: Sequence[Path], truth: Sequence[Path], once: set[str], opening: Opening
) -> tuple[Path, list[Path]]:
    """Returns where the masks of a defect lie or are expected, and the masks."""
    for each in truth:
        own = next((path for path in _all_folders(each) if _folded(path) == _folded(folder)), None)
        if own is not None:
            return own, [*mask_files(own), *_all_folders(own)]
    named = [path for path in truth if _defect_of(path) == _folded(folder)]
    if found := [mask for path in named for mask in mask_files(path)]:
        return named[0], found
    if inner := _mask_folders_of(folder, opening):
        return inner[0], [mask for path in inner for mask in mask_files(path)]
    if beside := _beside(images, opening):
        return images[0].parent, beside
    flat = ((path, mask_files(path)) for path in truth)
    for path, masks in flat:
        if own_masks := [mask for mask in masks if stem_among(mask, once) in once]:
            return path, own_masks
    return (truth[0] / folder.name if truth else folder), []


def _mask_folders_of(folder: Path, opening: Opening) -> list[Path]:
    """Returns the folders in the folder of a defect that hold its masks."""
    inside = opening.folders(folder)
    named = [path for path in inside if is_truth_folder(path)]
    return named or [path for path in inside if is_mask_folder(path, [folder, *inside])]


def _beside(images: Sequence[Path], opening: Opening) -> list[Path]:
    """Returns the masks and the files of labelme beside the images of a defect."""
    if not images:
        return []
    place = images[0].parent
    masks = masks_among(opening.images(place))
    stems = {stem_of(path) for path in images}
    masked = {stem_among(mask, stems) for mask in masks}
    outlines = [path for path in labelme_in(place) if path.stem in stems - masked]
    return [*masks, *outlines]


def labelme_in(folder: Path) -> list[Path]:
    """Lists the files of labelme right in a folder, sorted by name."""
    return [path for path in sorted(folder.glob("*.json")) if labelme_of(path)] if folder.is_dir() else []


def _all_folders(folder: Path) -> list[Path]:
    return [folder / name for name in folders_in(folder, include_results=True)]


def _folded(path: Path) -> str:
    return "".join(re.findall(r"[^\W_]+", path.name.casefold()))


def _defect_of(folder: Path) -> str:
    """Returns the defect that the name of a folder of masks holds: "crack" for "crack_mask"."""
    words = re.findall(r"[^\W_]+", folder.name.casefold())
    return "".join(word for word in words if not has_mask_name(word))

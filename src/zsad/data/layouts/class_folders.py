"""Reads a folder for each class, and plain folders: users' own data, and medical sets with labels only.

    good/*  scratch/*  dent/*       "good", "ok", "normal", "no", "healthy", "negative": normal; else a defect
    CATEGORY/good/* ...             several categories
    yes/*   no/*                    BrainMRI and Br35H as downloaded from Kaggle; copies and extras beside
                                    them (brain_tumor_dataset, pred, Br35H-Mask-RCNN) are left out
    COVID/images/*  Normal/images/* COVID-19 Radiography Database; "COVID-19" and "NORMAL" in its first
                                    version, which the papers use. Its masks show lungs and are left out,
                                    as are the other diseases
    *                               a plain folder: images without labels, sub-folders included

`truth.py` tells where masks of defects may lie.

Sure of BrainMRI (AnomalyCLIP's brainmri.py reads brain_tumor_dataset), Br35H (several public repositories
describe yes, no, pred and Br35H-Mask-RCNN), COVID-19 (the database's page and AnomalyCLIP's covid.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zsad.data.annotations import coco_masks
from zsad.data.layouts.listing import Listing, joined
from zsad.data.layouts.truth import class_images, mask_folders, read_defects
from zsad.data.vocabulary import undecided
from zsad.errors import DataError
from zsad.images.finding import images_below
from zsad.images.mask_folders import is_truth_folder
from zsad.types import UNLABELLED, Sample

if TYPE_CHECKING:
    from zsad.data.layouts.opening import Opening

COVID_CLASSES = frozenset({"covid", "covid-19"})


def is_class_folders(folder: Path, opening: Opening) -> bool:
    """Whether a folder holds a folder of normal images, or each of the folders in it does."""
    return bool(_roots(folder, opening))


def read_class_folders(folder: Path, opening: Opening) -> Listing:
    """Reads a folder of images for each class."""
    if opening.split == "train":
        return Listing()
    roots = _roots(folder, opening)
    return joined([_read_classes(root, opening.class_name(root.resolve().name), opening) for root in roots])


def read_plain(folder: Path, opening: Opening) -> Listing:
    """Lists all images at or below a folder, without labels.

    Raises:
        DataError: the folder holds no image.
    """
    word = opening.class_name(folder.resolve().name)
    if opening.split == "train":
        return Listing()
    paths = images_below(folder, include_results=opening.include_results)
    samples = tuple(Sample(path, word, UNLABELLED, None, "unlabelled") for path in paths)
    if not samples:
        raise DataError(f"{folder}: no images found in it; name the folder that holds the dataset")
    return Listing(samples)


def _roots(folder: Path, opening: Opening) -> list[Path]:
    """Returns the folder itself, or the folders in it if each of them holds classes."""
    if _has_normal_class(folder, opening):
        return [folder]
    inside = opening.folders(folder)
    return inside if inside and all(_has_normal_class(path, opening) for path in inside) else []


def _has_normal_class(folder: Path, opening: Opening) -> bool:
    return any(opening.is_normal(path.name) for path in opening.folders(folder))


def _read_classes(root: Path, word: str, opening: Opening) -> Listing:
    truth = mask_folders(root, opening)
    inside = opening.folders(root)
    normal = [path for path in inside if opening.is_normal(path.name)]
    others = [path for path in inside if path not in normal and path not in truth]
    # "yes" or COVID folders exclude all others.
    known = [path for path in others if path.name.casefold() in {"yes", *COVID_CLASSES}]
    defects = known or others
    images = {path: class_images(path, opening) for path in (*normal, *defects)}
    problems = [
        f"{path}: holds no images; put them right into it, or remove the folder"
        for path, found in images.items()
        if not found
    ]
    if undecided([path.name for path in (*normal, *defects)], opening.normal_labels):
        paths = [(path, folder.name) for folder, found in images.items() for path in found]
        unlabelled = (Sample(path, word, UNLABELLED, None, name) for path, name in paths)
        return Listing(tuple(unlabelled), tuple(problems))
    samples = [Sample(path, word, 0) for folder in normal for path in images[folder]]
    if any(is_truth_folder(path) for folder in normal for path in opening.folders(folder)):
        # Masks that normal images have too, such as those of lungs, are not masks of defects.
        samples += [Sample(one, word, 1, None, path.name) for path in defects for one in images[path]]
        return Listing(tuple(samples), tuple(problems))
    coco = coco_masks([root, root / "annotations", *truth])
    found = read_defects(defects, truth, coco, word, opening)
    return Listing((*samples, *found.samples), (*problems, *found.problems))

"""Reads a folder for each class, and plain folders: users' own data, and medical sets with labels only.

    good/*  scratch/*  dent/*       "good", "ok", "normal", "no", "healthy", "negative": normal; else a defect
    CATEGORY/good/* ...             several categories
    yes/*   no/*                    BrainMRI and Br35H as downloaded from Kaggle; copies and extras beside
                                    them (brain_tumor_dataset, pred, Br35H-Mask-RCNN) are left out
    COVID/images/*  Normal/images/* COVID-19 Radiography Database; "COVID-19" and "NORMAL" in its first
                                    version, which the papers use. Its masks show lungs and are left out,
                                    as are the other diseases
    *                               a plain folder: images without labels, sub-folders included

Masks of defects, if any, lie in "ground_truth" or "masks" beside the class folders
(masks/scratch/STEM_mask.png, or all in one folder as masks/STEM.png), in scratch/masks, or beside their
images as scratch/STEM_mask.png.

Sure of BrainMRI (AnomalyCLIP's brainmri.py reads brain_tumor_dataset), Br35H (several public repositories
describe yes, no, pred and Br35H-Mask-RCNN), COVID-19 (the database's page and AnomalyCLIP's covid.py).
"""

from __future__ import annotations

from pathlib import Path

from zsad.data.layouts.listing import (
    ClassName,
    Listing,
    Split,
    joined,
    masks_beside,
    pair_masks,
)
from zsad.data.layouts.vocabulary import is_normal
from zsad.errors import DataError
from zsad.images.finding import folders_in, images_below, images_in, masks_in
from zsad.images.mask_folders import is_mask_folder, is_truth_folder
from zsad.types import UNLABELLED, Sample

IMAGE_FOLDER = "images"
COVID_CLASSES = frozenset({"covid", "covid-19"})


def is_class_folders(folder: Path) -> bool:
    """Whether a folder holds a folder of normal images, or each of the folders in it does."""
    return bool(_roots(folder))


def read_class_folders(folder: Path, split: Split, class_name: ClassName) -> Listing:
    """Reads a folder of images for each class."""
    if split == "train":
        return Listing()
    return joined([_read_classes(root, class_name(root.resolve().name)) for root in _roots(folder)])


def read_plain(folder: Path, split: Split, class_name: ClassName) -> Listing:
    """Lists all images at or below a folder, without labels.

    Raises:
        DataError: the folder holds no image.
    """
    word = class_name(folder.resolve().name)
    if split == "train":
        return Listing()
    samples = tuple(Sample(path, word, UNLABELLED, None, "unlabelled") for path in images_below(folder))
    if not samples:
        raise DataError(f"{folder}: no images found in it; name the folder that holds the dataset")
    return Listing(samples)


def _roots(folder: Path) -> list[Path]:
    """Returns the folder itself, or the folders in it if each of them holds classes."""
    if _normal_class(folder):
        return [folder]
    inside = [folder / name for name in folders_in(folder)]
    return inside if inside and all(_normal_class(path) for path in inside) else []


def _normal_class(folder: Path) -> Path | None:
    names = [name for name in folders_in(folder) if is_normal(name)]
    return folder / names[0] if names else None


def _defect_classes(root: Path) -> list[str]:
    """Returns the names of the folders that hold defects; "yes" or COVID folders exclude all others."""
    masks = _mask_folders(root)
    others = [name for name in folders_in(root) if not is_normal(name) and root / name not in masks]
    known = [name for name in others if name.casefold() == "yes" or name.casefold() in COVID_CLASSES]
    return known or others


def _mask_folders(folder: Path) -> list[Path]:
    """Returns the folders in a folder that hold masks; their names, or names and content of files, tell."""
    inside = [folder / name for name in folders_in(folder)]
    named = [path for path in inside if is_truth_folder(path)]
    return named or [path for path in inside if not is_normal(path.name) and is_mask_folder(path, inside)]


def _read_classes(root: Path, word: str) -> Listing:
    samples: list[Sample] = []
    problems: list[str] = []
    normal = [root / name for name in folders_in(root) if is_normal(name)]
    for folder in normal:
        samples += [Sample(path, word, 0) for path in _class_images(folder, problems)]
    names = _defect_classes(root)
    # Masks that normal images have too, such as those of lungs, are not masks of defects.
    are_of_defects = not any(map(_mask_folders, normal))
    shared = next(iter(_mask_folders(root)), None)
    if shared and not any((shared / name).is_dir() for name in names):
        name_of = {path: name for name in names for path in _class_images(root / name, problems)}
        pairing = pair_masks(list(name_of), masks_in(shared), str(shared / "{stem}_mask.png"))
        samples += [Sample(path, word, 1, mask, name_of[path]) for path, mask in pairing.pairs]
        problems += pairing.problems
        return Listing(tuple(samples), tuple(problems))
    for name in names:
        images = _class_images(root / name, problems)
        own = shared / name if shared else next(iter(_mask_folders(root / name)), None)
        if own and own.is_dir() and are_of_defects:
            pairing = pair_masks(images, masks_in(own), str(own / "{stem}_mask.png"))
        elif beside := masks_beside(images):
            rest = [path for path in images if path not in beside]
            pairing = pair_masks(rest, beside, str(root / name / "{stem}_mask.png"))
        else:
            samples += [Sample(path, word, 1, None, name) for path in images]
            continue
        samples += [Sample(path, word, 1, mask, name) for path, mask in pairing.pairs]
        problems += pairing.problems
    return Listing(tuple(samples), tuple(problems))


def _class_images(folder: Path, problems: list[str]) -> list[Path]:
    """Lists the images of a class, which lie in its folder or in "images" below it."""
    found = images_in(folder) or images_in(folder / IMAGE_FOLDER)
    if not found:
        problems.append(f"{folder}: holds no images; put them right into it, or remove the folder")
    return found

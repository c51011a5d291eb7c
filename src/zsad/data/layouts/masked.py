"""Reads layouts in which every image has a mask; an empty mask means that the image is normal.

Images and masks in two folders beside each other (segmentation sets of medicine, and users' own data):

    images/STEM.*   masks/STEM.*           Kvasir-SEG, EndoTect; the CVC sets as PraNet's authors gather
                                           them, which the papers use
    Original/*      Ground Truth/*         CVC-ClinicDB as downloaded (.tif; also in PNG/ or TIF/)
    test-image/*    test-mask/*            TN3K; trainval-image is left out
    ISBI2016_ISIC_Part1_Test_Data/ISIC_0000003.jpg  ISIC 2016 task 1, test; masks with "_Segmentation" in
    ISBI2016_ISIC_Part1_Test_GroundTruth/*.png      their names

Sure of the folders: AnomalyCLIP's generate_dataset_json (kvasir, endoTect, clinicDB, colonDB, tn3k, isbi),
OpenMEDLab's page on CVC-ClinicDB, loaders of TN3K in public code.

Images and masks in one folder:

    kos01/Part0.jpg, kos01/Part0_label.bmp     KolektorSDD: no split, so everything is "test"
    train/10000.png, train/10000_GT.png        KolektorSDD2
    1.bmp, p1.bmp, s1.bmp, c1.bmp              CVC-ColonDB of its page: image, polyp, two more to ignore

Sure: anomalib's kolektor.py, the authors' own loader (vicoslab/mixed-segdec-net-comind2021, input_ksdd2.py),
the page of the Computer Vision Center on CVC-ColonDB (its archive could not be opened: the suffix may differ,
any is taken).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.data.layouts.listing import (
    MASK_SUFFIXES,
    Listing,
    image_stem,
    joined,
    masks_beside,
    pair_masks,
    stem_of,
)
from zsad.data.layouts.truth import IMAGE_NAMES, labelme_in, mask_files
from zsad.data.masks import read_mask
from zsad.errors import ImageReadError
from zsad.images.mask_folders import is_truth_folder
from zsad.types import Sample

if TYPE_CHECKING:
    from zsad.data.layouts.opening import Opening

FOLDER_PAIRS = (
    ("images", "masks"),
    ("image", "mask"),
    ("Images", "Masks"),
    ("imgs", "masks"),
    ("Original", "Ground Truth"),
    ("PNG/Original", "PNG/Ground Truth"),
    ("TIF/Original", "TIF/Ground Truth"),
    ("test-image", "test-mask"),
    ("ISBI2016_ISIC_Part1_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth"),
)


def is_folder_pair(folder: Path, opening: Opening) -> bool:
    """Whether a folder, or each of the folders in it, holds images and masks in two folders."""
    return bool(_pair_roots(folder, opening))


def read_folder_pairs(folder: Path, opening: Opening) -> Listing:
    """Reads images and masks in two folders; a folder of such folders has one category for each."""
    if opening.split == "train":
        return Listing()
    listings = []
    for root in _pair_roots(folder, opening):
        images_folder, masks_folder = _pair_in(root, opening) or (root, root)
        pairing = pair_masks(
            opening.images(images_folder), mask_files(masks_folder), str(masks_folder / "{stem}.png")
        )
        word = opening.class_name(root.resolve().name)
        listings += [_labelled_by_mask(pairing.masked, word), Listing((), pairing.problems)]
    return joined(listings)


def is_kolektor(folder: Path, opening: Opening) -> bool:
    """Whether a folder holds images beside their masks, itself or in its folders."""
    return bool(_kolektor_folders(folder, opening))


def read_kolektor(folder: Path, opening: Opening) -> Listing:
    """Reads images beside their masks; a folder called "train" holds the training split."""
    word = opening.class_name(folder.resolve().name)
    listings = []
    for path in _kolektor_folders(folder, opening):
        is_training = path.name.casefold() == "train"
        if opening.split != "all" and is_training != (opening.split == "train"):
            continue
        found = _read_mixed_folder(path, word, opening)
        if opening.split == "train":  # "train" holds normal images only, so anomalous ones are left out
            found = Listing(tuple(sample for sample in found.samples if not sample.label), found.problems)
        listings.append(found)
    return joined(listings)


def _pair_in(folder: Path, opening: Opening) -> tuple[Path, Path] | None:
    for images, masks in FOLDER_PAIRS:
        if (folder / images).is_dir() and (folder / masks).is_dir():
            return folder / images, folder / masks
    inside = opening.folders(folder)
    found = [path for path in inside if path.name.casefold() in IMAGE_NAMES]
    masked = [path for path in inside if is_truth_folder(path)]
    return (found[0], masked[0]) if len(found) == len(masked) == 1 else None


def _pair_roots(folder: Path, opening: Opening) -> list[Path]:
    """Returns the folder itself, or those in it if all hold pairs, or those in the only folder in it."""
    if _pair_in(folder, opening):
        return [folder]
    inside = opening.folders(folder)
    if inside and all(_pair_in(path, opening) for path in inside):
        return inside
    return _pair_roots(inside[0], opening) if len(inside) == 1 else []


def _kolektor_folders(folder: Path, opening: Opening) -> list[Path]:
    """Returns the folder itself, or the folders in it that hold images if all of them hold masks too."""
    if opening.images(folder):
        return [folder] if _is_mixed(folder, opening) else []
    inside = opening.folders(folder)
    if any(opening.is_normal(path.name) for path in inside):  # the names of folders tell the labels
        return []
    with_images = [path for path in inside if opening.images(path)]
    return with_images if all(_is_mixed(path, opening) for path in with_images) else []


def _is_mixed(folder: Path, opening: Opening) -> bool:
    """Whether masks lie beside their images; an image of CVC-ColonDB has four files."""
    files = opening.images(folder)
    stems = {stem_of(path) for path in files}
    if masks_beside(files) or any(path.stem in stems for path in labelme_in(folder)):
        return True
    return any({f"p{stem}", f"s{stem}", f"c{stem}"} <= stems for stem in stems)


def _read_mixed_folder(folder: Path, word: str, opening: Opening) -> Listing:
    files = opening.images(folder)
    if any(re.fullmatch(r"p\d+", stem_of(path)) for path in files):
        images = [path for path in files if stem_of(path).isdigit()]
        by_number = {stem_of(path): path for path in files}
        pairs = [(path, mask) for path in images if (mask := by_number.get(f"p{stem_of(path)}"))]
        missing = [path for path in images if f"p{stem_of(path)}" not in by_number]
        problems = tuple(f"{path}: has no mask; expected {folder / 'p'}{path.name}" for path in missing)
        return joined([_labelled_by_mask(pairs, word), Listing((), problems)])
    masks = [path for path in files if image_stem(path) != stem_of(path)]
    images = [path for path in files if image_stem(path) == stem_of(path)]
    masked = {image_stem(path) for path in masks}
    masks += [path for path in labelme_in(folder) if path.stem not in masked]
    endings = [stem_of(path)[len(image_stem(path)) :] + path.suffix for path in masks]
    expected = max(endings, key=endings.count, default=f"{MASK_SUFFIXES[0]}.png")
    pairing = pair_masks(images, masks, str(folder / ("{stem}" + expected)))
    return joined([_labelled_by_mask(pairing.masked, word), Listing((), pairing.problems)])


def _labelled_by_mask(pairs: list[tuple[Path, Path]], word: str) -> Listing:
    """Labels images by their masks, all of which are read: anomalous if the mask marks anything."""
    samples: list[Sample] = []
    problems: list[str] = []
    for image, mask in pairs:
        try:
            is_anomalous = bool(read_mask(mask).any())
        except ImageReadError as error:
            problems.append(str(error))
            continue
        samples.append(Sample(image, word, 1, mask, "anomalous") if is_anomalous else Sample(image, word, 0))
    return Listing(tuple(samples), tuple(problems))

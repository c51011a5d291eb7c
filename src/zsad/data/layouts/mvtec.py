"""Reads the layout of MVTec AD, and of the many sets that follow it with other folder names.

    CATEGORY/test/good/*                          normal images ("ok" and "normal" count as "good")
    CATEGORY/test/DEFECT/*                        anomalous images
    CATEGORY/ground_truth/DEFECT/STEM_mask.png    their masks, or STEM.png; any image format
    CATEGORY/train/good/*                         normal images

A set without any `ground_truth` folder has image labels only. The class name that prompts read is the
category's folder name with spaces for underscores ("metal_nut" is a "metal nut").

Which sets, and how sure (all sources are public code that reads the downloads; none could be opened here):

* MVTec AD, MPDD: exactly this layout; masks STEM_mask.png. Sure (anomalib's readers and many others).
* BTAD (`BTech_Dataset_transformed`): 01, 02, 03 with "ok" and "ko"; masks STEM.png or .bmp beside images of
  another format. Sure (AnomalyCLIP's generate_dataset_json/btad.py).
* DTD-Synthetic: "good" and "bad", masks in ground_truth/bad. Sure of the folders (AnomalyCLIP's DTD.py), not
  of the masks' suffix; both rules are accepted.
* VisA re-arranged by its authors' script or by others: "good" and "bad". Sure.
* MVTec LOCO AD: defects "logical_anomalies" and "structural_anomalies". The masks of an image are the files
  of the folder ground_truth/DEFECT/STEM, one for each region; they are united. Normal images lie also in
  validation/good. Sure (anomalib's mvtec_loco.py).
* MVTec AD 2: test_public/good, test_public/bad, test_public/ground_truth/bad/STEM_mask.png, train/good,
  validation/good. Sure (anomalib's mvtecad2.py). test_private and test_private_mixed have no labels and are
  not read.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from zsad.data.layouts.listing import (
    PROBLEMS_SHOWN,
    ClassName,
    Listing,
    Split,
    check_split,
    image_stem,
    joined,
    pair_masks,
    refuse_problems,
    spaced,
    stem_of,
)
from zsad.data.layouts.vocabulary import is_normal
from zsad.errors import DataError
from zsad.images.finding import folders_in, images_in, masks_in
from zsad.images.mask_folders import is_mask_folder, is_truth_folder
from zsad.types import Sample

TEST_FOLDERS = ("test", "test_public")
TRAIN_FOLDERS = {"test": (), "train": ("train",), "all": ("train", "validation")}
SEARCH_DEPTH = 3


@dataclass(frozen=True)
class Category:
    """A folder in MVTec layout.

    Attributes:
        folder: folder that holds `test`.
        name: name of the folder ("metal_nut"), as result tables print it.
        dataset: name of the folder above ("mvtec_ad").
    """

    folder: Path
    name: str
    dataset: str

    @property
    def class_name(self) -> str:
        """The word for prompts ("metal nut")."""
        return spaced(self.name)


@dataclass(frozen=True)
class CategoryListing:
    """Samples and problems that were found in a category.

    Attributes:
        category: the category.
        samples: images, sorted by folder and file name; those with a problem are left out.
        problems: one line each, with the path of the file and what to do.
    """

    category: Category
    samples: tuple[Sample, ...]
    problems: tuple[str, ...]


def find_categories(folder: str | Path) -> list[Category]:
    """Finds the categories in MVTec layout at or below a folder.

    Args:
        folder: folder of a category, of a dataset (a folder of categories), or of datasets.

    Returns:
        Categories, sorted by path.

    Raises:
        DataError: the folder does not exist or holds no category.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{folder}: no such folder; give a folder in MVTec AD layout")
    found = _categories_below(root, SEARCH_DEPTH)
    if not found:
        inside = ", ".join(folders_in(root)[:PROBLEMS_SHOWN]) or "no folders"
        raise DataError(
            f"{folder}: no category in MVTec AD layout at or below it (it holds {inside}); "
            "expected CATEGORY/test/good/* and CATEGORY/test/DEFECT/*"
        )
    return found


def list_category(
    category: Category, split: Split = "test", class_name: ClassName = spaced
) -> CategoryListing:
    """Lists the images of a category with their labels and masks.

    Args:
        category: category that `find_categories` returns.
        split: "test" (what the papers train and evaluate on), "train" (normal images) or "all".
        class_name: turns the folder name of the category into the word for prompts.

    Returns:
        Samples and problems: masks that are missing or belong to no image, two masks or two images of the
        same name, images outside the folders of the layout.

    Raises:
        ConfigError: the split is unknown.
    """
    check_split(split)
    word = class_name(category.name)
    parts = [_list_normal(category.folder / part, word) for part in TRAIN_FOLDERS[split]]
    if split != "train":
        parts.append(_list_test(category.folder, word))
    found = joined(parts)
    problems = found.problems
    if not found.samples and not problems:
        part = "train" if split == "train" else "test"
        problems = (f"{category.folder}: no images in {part}/good or {part}/DEFECT",)
    return CategoryListing(category, found.samples, problems)


def read_mvtec(folder: str | Path, split: Split = "test") -> list[Sample]:
    """Reads all labelled images at or below a folder in MVTec layout, which must be without problems.

    Args:
        folder: folder of a category, of a dataset or of datasets.
        split: "test", "train" or "all".

    Returns:
        Samples, sorted by category, folder and file name; the order is the same on every machine.

    Raises:
        DataError: there is no category or no image, or an image or mask has a problem; the message names it.
        ConfigError: the split is unknown.
    """
    listings = [list_category(category, split) for category in find_categories(folder)]
    refuse_problems([problem for listing in listings for problem in listing.problems])
    return [sample for listing in listings for sample in listing.samples]


def is_mvtec(folder: Path) -> bool:
    """Whether a folder is a category in MVTec layout or holds one."""
    return bool(_categories_below(folder, 1))


def read_mvtec_layout(folder: Path, split: Split, class_name: ClassName) -> Listing:
    """Reads the categories of one dataset: the folder itself, or the folders right in it."""
    listings = [list_category(category, split, class_name) for category in _categories_below(folder, 1)]
    return joined([Listing(listing.samples, listing.problems) for listing in listings])


def _categories_below(folder: Path, depth: int) -> list[Category]:
    test = _test_folder(folder)
    if folders_in(test) or images_in(test):
        # The name of "." or ".." is only known once the path is absolute; links keep the name that they have.
        absolute = Path(os.path.abspath(folder))
        return [Category(folder, absolute.name, absolute.parent.name)]
    if depth == 0:
        return []
    return [
        category for name in folders_in(folder) for category in _categories_below(folder / name, depth - 1)
    ]


def _test_folder(category: Path) -> Path:
    return next((category / name for name in TEST_FOLDERS if (category / name).is_dir()), category / "test")


def _list_normal(folder: Path, word: str) -> Listing:
    """Lists the normal images of a training folder; anything else in it is a problem."""
    problems = _loose_images(folder)
    samples: list[Sample] = []
    for name in folders_in(folder):
        if is_normal(name):
            samples += [Sample(path, word, 0) for path in images_in(folder / name)]
        else:
            problems.append(f"{folder / name}: training images are normal; expected only {folder / 'good'}")
    return Listing(tuple(samples), tuple(problems))


def _list_test(category: Path, word: str) -> Listing:
    """Lists the normal and the anomalous images of the test folder."""
    test = _test_folder(category)
    truth = _truth_folder(category, test)
    stems = Counter(stem_of(path) for name in folders_in(test) for path in _defects_in(test / name, truth))
    problems = _loose_images(test)
    samples: list[Sample] = []
    for defect in folders_in(test):
        images = images_in(test / defect)
        if test / defect == truth:
            continue
        if is_normal(defect):
            samples += [Sample(path, word, 0) for path in images]
        elif truth is None:
            samples += [Sample(path, word, 1, None, defect) for path in images]
        else:
            own = truth / defect
            masks = [*masks_in(own), *(own / name for name in folders_in(own))]
            if not own.is_dir():  # all masks lie in one folder; a name that two defects share says nothing
                once = {stem_of(path) for path in images if stems[stem_of(path)] == 1}
                masks = [path for path in masks_in(truth) if image_stem(path) in once]
                own = truth if masks else own
            pairing = pair_masks(images, masks, str(own / "{stem}_mask.png"))
            samples += [Sample(path, word, 1, mask, defect) for path, mask in pairing.pairs]
            problems += pairing.problems
    return Listing(tuple(samples), tuple(problems))


def _truth_folder(category: Path, test: Path) -> Path | None:
    """Finds the folder of masks, beside the test folder or in it, under any name that such folders have."""
    places = [place / name for place in (category, test) for name in folders_in(place)]
    named = [path for path in places if path != test and is_truth_folder(path)]
    tests = [path for path in places if path.parent == test]
    shown = (path for path in tests if not is_normal(path.name) and is_mask_folder(path, tests))
    return next(iter(named), None) or next(shown, None)


def _defects_in(folder: Path, truth: Path | None) -> list[Path]:
    return [] if folder == truth or is_normal(folder.name) else images_in(folder)


def _loose_images(folder: Path) -> list[str]:
    return [
        f"{path}: lies beside the defect folders; move it to {folder / 'good'} or {folder / 'DEFECT'}"
        for path in images_in(folder)
    ]

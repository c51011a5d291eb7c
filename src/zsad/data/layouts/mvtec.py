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
* MVTec 3D-AD: test/good/rgb, test/DEFECT/rgb, their masks in test/DEFECT/gt, train/good/rgb; the point clouds
  in xyz are not read. Sure (anomalib's mvtec_3d.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from zsad.data.annotations import coco_masks
from zsad.data.layouts.listing import PROBLEMS_SHOWN, Listing, joined, refuse_problems
from zsad.data.layouts.opening import ClassName, Opening, Split, check_split
from zsad.data.layouts.truth import class_images, mask_folders, read_defects
from zsad.data.vocabulary import spaced, undecided
from zsad.errors import DataError
from zsad.images.finding import folders_in
from zsad.types import UNLABELLED, Sample

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
    found = _categories_below(root, SEARCH_DEPTH, Opening())
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
    return read_category(category, Opening(split, class_name))


def read_category(category: Category, opening: Opening) -> CategoryListing:
    """Lists the images of a category as `list_category` does, for any wishes of a user."""
    word = opening.class_name(category.name)
    parts = [_list_normal(category.folder / part, word, opening) for part in TRAIN_FOLDERS[opening.split]]
    if opening.split != "train":
        parts.append(_list_test(category.folder, word, opening))
    found = joined(parts)
    problems = found.problems
    if not found.samples and not problems:
        part = "train" if opening.split == "train" else "test"
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


def is_mvtec(folder: Path, opening: Opening) -> bool:
    """Whether a folder is a category in MVTec layout or holds one."""
    return bool(_categories_below(folder, 1, opening))


def read_mvtec_layout(folder: Path, opening: Opening) -> Listing:
    """Reads the categories of one dataset: the folder itself, or the folders right in it."""
    listings = [read_category(category, opening) for category in _categories_below(folder, 1, opening)]
    return joined([Listing(listing.samples, listing.problems) for listing in listings])


def _categories_below(folder: Path, depth: int, opening: Opening) -> list[Category]:
    test = _test_folder(folder)
    if opening.folders(test) or opening.images(test):
        # The name of "." or ".." is only known once the path is absolute; links keep the name that they have.
        absolute = Path(os.path.abspath(folder))
        return [Category(folder, absolute.name, absolute.parent.name)]
    if depth == 0:
        return []
    return [
        category
        for inside in opening.folders(folder)
        for category in _categories_below(inside, depth - 1, opening)
    ]


def _test_folder(category: Path) -> Path:
    return next((category / name for name in TEST_FOLDERS if (category / name).is_dir()), category / "test")


def _list_normal(folder: Path, word: str, opening: Opening) -> Listing:
    """Lists the normal images of a training folder; anything else in it is a problem."""
    problems = _loose_images(folder, opening)
    samples: list[Sample] = []
    for inside in opening.folders(folder):
        if opening.is_normal(inside.name):
            samples += [Sample(path, word, 0) for path in class_images(inside, opening)]
        else:
            problems.append(f"{inside}: training images are normal; expected only {folder / 'good'}")
    return Listing(tuple(samples), tuple(problems))


def _list_test(category: Path, word: str, opening: Opening) -> Listing:
    """Lists the normal and the anomalous images of the test folder."""
    test = _test_folder(category)
    beside = [path for path in mask_folders(category, opening) if path != test]
    truth = [*beside, *mask_folders(test, opening)]
    coco = coco_masks([category, test, category / "annotations", *truth])
    classes = [path for path in opening.folders(test) if path not in truth]
    problems = _loose_images(test, opening)
    normal = [path for path in classes if opening.is_normal(path.name)]
    defects = [path for path in classes if path not in normal]
    samples = [Sample(path, word, 0) for folder in normal for path in class_images(folder, opening)]
    found = read_defects(defects, truth, coco, word, opening)
    if _is_undecided(category, classes, found, opening):
        paths = [(path, folder.name) for folder in classes for path in class_images(folder, opening)]
        return Listing(tuple(Sample(path, word, UNLABELLED, None, name) for path, name in paths))
    samples = sorted((*samples, *found.samples), key=lambda sample: sample.path.relative_to(test).parts[0])
    return Listing(tuple(samples), (*problems, *found.problems))


def _is_undecided(category: Path, classes: list[Path], found: Listing, opening: Opening) -> bool:
    """Whether nothing tells which class folders are normal: no name of one, no training folder, no mask.

    A single folder that is not known to be normal holds defects.
    """
    if len(classes) < 2 and not opening.normal_labels:
        return False
    training = [name for part in TRAIN_FOLDERS["all"] for name in folders_in(category / part)]
    if any(map(opening.is_normal, training)):
        return False
    is_masked = any(sample.mask_path for sample in found.samples)
    return not is_masked and bool(undecided([path.name for path in classes], opening.normal_labels))


def _loose_images(folder: Path, opening: Opening) -> list[str]:
    return [
        f"{path}: lies beside the defect folders; move it to {folder / 'good'} or {folder / 'DEFECT'}"
        for path in opening.images(folder)
    ]

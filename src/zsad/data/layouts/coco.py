"""Finds COCO files in a dataset: as masks of labelled images, or as the labels of a dataset of its own.

    annotations/instances_default.json, images/*        CVAT, FiftyOne and others
    _annotations.coco.json, *.jpg                       Roboflow; also in train/, valid/ and test/

In a dataset of its own, an image with an outlined region is anomalous and one without is normal.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from zsad.data.annotations import Annotated, coco_of, ends_with, json_files
from zsad.data.layouts.listing import Listing
from zsad.data.vocabulary import SPLIT_WORDS
from zsad.images.finding import folders_in, images_below
from zsad.images.names import ANNOTATION_SUFFIXES
from zsad.types import Sample

if TYPE_CHECKING:
    from zsad.data.layouts.opening import Opening


def is_coco(folder: Path, opening: Opening) -> bool:
    """Whether a folder holds COCO files and no folder of normal images, which would tell labels apart."""
    classes = (folder, *(path for path in opening.folders(folder) if path.name.casefold() in SPLIT_WORDS))
    if any(opening.is_normal(path.name) for place in classes for path in opening.folders(place)):
        return False
    return any(coco_of(path) is not None for path in json_files(_places(folder)))


def is_coco_file(path: Path) -> bool:
    """Whether a list file is one of COCO."""
    return path.suffix.lower() in ANNOTATION_SUFFIXES and coco_of(path) is not None


def read_coco(folder: Path, opening: Opening) -> Listing:
    """Reads a dataset whose labels and masks are outlines of COCO."""
    return _read(list(json_files(_places(folder))), folder, opening)


def read_coco_file(path: Path, opening: Opening) -> Listing:
    """Reads the images of one COCO file, which lie in its folder, or beside it if that holds annotations."""
    folder = path.resolve().parent
    return _read([path], folder.parent if "annotation" in folder.name.casefold() else folder, opening)


def _read(paths: Iterable[Path], folder: Path, opening: Opening) -> Listing:
    word = opening.class_name(folder.resolve().name)
    files = [(path, found) for path in paths if (found := coco_of(path)) is not None]
    is_divided = any(_split_of(path, folder) == "test" for path, _ in files)
    samples: dict[Path, Sample] = {}
    problems: list[str] = []
    listed: set[Path] = set()
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in images_below(folder, include_results=opening.include_results):
        by_name[path.name].append(path)
    for path, entries in files:
        split = _split_of(path, folder) if is_divided else "test"
        for entry in entries:
            image = _image_of(entry, path, by_name)
            if image is None:
                problems.append(f"{path}: lists {entry.name}, which is not in {folder}")
                continue
            listed.add(image)
            is_wanted = opening.split != "train" or not entry.kinds  # training images are normal
            if opening.split in ("all", split) and is_wanted:
                defect = entry.kinds[0] if entry.kinds else "good"
                mask = entry.mask_path if entry.kinds else None
                samples[image] = Sample(image, word, int(bool(entry.kinds)), mask, defect)
    unlisted = [path for paths in by_name.values() for path in paths if path not in listed]
    if unlisted:
        problems.append(
            f"{folder}: {len(unlisted)} images are in no COCO file (first: {unlisted[0].name}); add them or "
            "move them away"
        )
    return Listing(tuple(samples.values()), tuple(problems))


def _image_of(entry: Annotated, file: Path, by_name: dict[str, list[Path]]) -> Path | None:
    """Returns the image that an entry means: its path ends like its name, nearest to the file."""
    found = by_name.get(PurePosixPath(entry.name.replace("\\", "/")).name, [])
    exact = [image for image in found if ends_with(image, entry.name)] or found
    beside = [image for image in exact if file.parent in image.parents]
    return next(iter(beside or exact), None)


def _split_of(file: Path, folder: Path) -> str:
    """Returns the split that the name of a file, or of the folder that it lies in, names; "" for none."""
    words = re.findall(r"[a-z]+", file.stem.casefold())
    words += [file.parent.name.casefold()] if file.parent != folder else []
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "")


def _places(folder: Path) -> Iterator[Path]:
    yield folder
    for name in folders_in(folder):
        if name.casefold() in SPLIT_WORDS or "annotation" in name.casefold():
            yield folder / name

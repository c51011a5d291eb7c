"""Reads a YAML or JSON file that names the folders of a dataset, as anomalib's `Folder` does.

    root: hazelnut              folder that the others start from; without it, the folder of the file
    normal_dir: good            each of them may be a list of folders
    abnormal_dir: [crack, cut]
    mask_dir: mask              may be missing
    normal_test_dir: good_test  may be missing; with it, the images in normal_dir are for training only
    name: hazelnut              may be missing; name of the category

The names may stand deeper in the file, such as below `data` and `init_args`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.data.annotations import CocoMasks
from zsad.data.layouts.listing import Listing
from zsad.data.layouts.truth import class_images, read_defects
from zsad.errors import ConfigError, DataError
from zsad.files.json_text import parse_json
from zsad.files.yaml_files import read_yaml
from zsad.types import Sample

if TYPE_CHECKING:
    from zsad.data.layouts.opening import Opening

YAML_SUFFIXES = (".yaml", ".yml")
_FOLDERS = ("normal_dir", "abnormal_dir", "mask_dir", "normal_test_dir")
_DEEPEST = 4


def names_directories(path: Path) -> bool:
    """Whether a list file names folders; every YAML file is expected to."""
    suffix = path.suffix.lower()
    return suffix in YAML_SUFFIXES or (suffix == ".json" and _entry(path) is not None)


def read_directories(path: Path, opening: Opening) -> Listing:
    """Reads the images of the folders that a file names.

    Raises:
        DataError: the file cannot be read, or names no such folders; or one of them does not exist.
    """
    entry = _entry(path)
    if entry is None:
        raise DataError(f"{path}: names no folders; expected normal_dir, abnormal_dir and perhaps mask_dir")
    root = path.parent / str(entry.get("root") or ".")
    folders = {key: list(_folders(path, root, key, entry.get(key))) for key in _FOLDERS}
    word = opening.class_name(str(entry.get("name") or root.resolve().name))
    normal = folders["normal_test_dir"] or folders["normal_dir"]
    training = folders["normal_dir"] if folders["normal_test_dir"] else []
    chosen = {"test": normal, "train": training, "all": [*training, *normal]}[opening.split]
    samples = tuple(Sample(image, word, 0) for folder in chosen for image in class_images(folder, opening))
    if opening.split == "train":
        return Listing(samples)
    found = read_defects(folders["abnormal_dir"], folders["mask_dir"], CocoMasks(), word, opening)
    return Listing((*samples, *found.samples), found.problems)


def _folders(path: Path, root: Path, key: str, given: Any) -> Iterator[Path]:
    for name in given if isinstance(given, list) else [given]:
        if name is None:
            continue
        folder = next((each / str(name) for each in (root, path.parent) if (each / str(name)).is_dir()), None)
        if folder is None:
            raise DataError(f"{path}: {key} names {name}, which is no folder in {root}; correct the path")
        yield folder


def _entry(path: Path) -> Mapping[str, Any] | None:
    return _found_in(_content(path, path.stat().st_mtime_ns), _DEEPEST)


@lru_cache(maxsize=4)
def _content(path: Path, time: int) -> Any:
    if path.suffix.lower() == ".json":
        try:
            return parse_json(path.read_bytes().decode("utf-8-sig"), str(path))
        except (DataError, OSError, UnicodeDecodeError):
            return None  # whoever reads it as a list of images says what is wrong
    try:
        return read_yaml(path, "normal_dir: good")
    except ConfigError as error:
        raise DataError(str(error)) from error


def _found_in(node: Any, depth: int) -> Mapping[str, Any] | None:
    """Returns the first mapping that names folders, at or below a node."""
    if not isinstance(node, dict) or depth == 0:
        return None
    if "normal_dir" in node or "abnormal_dir" in node:
        return node
    return next((found for child in node.values() if (found := _found_in(child, depth - 1))), None)

"""Reads the layouts of datasets on disk: each reader turns a folder into samples and problems.

A folder without a dataset's name is tried with the layouts in the order of `LAYOUTS`; the first one that
recognises it reads it. A prepared `meta.json` comes first, because whoever made it wants it to be used.
Layouts with files of their own come before those that only the names of folders tell apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zsad.data.layouts.class_folders import is_class_folders, read_class_folders, read_plain
from zsad.data.layouts.coco import is_coco, is_coco_file, read_coco, read_coco_file
from zsad.data.layouts.dagm import is_dagm, read_dagm
from zsad.data.layouts.directories import YAML_SUFFIXES, names_directories, read_directories
from zsad.data.layouts.listing import Listing, refuse_problems
from zsad.data.layouts.lists import (
    LIST_SUFFIXES,
    is_head_ct,
    is_meta,
    is_real_iad,
    is_visa,
    read_head_ct,
    read_list,
    read_meta,
    read_real_iad,
    read_visa,
)
from zsad.data.layouts.masked import is_folder_pair, is_kolektor, read_folder_pairs, read_kolektor
from zsad.data.layouts.mvtec import (
    Category,
    CategoryListing,
    find_categories,
    is_mvtec,
    list_category,
    read_mvtec,
    read_mvtec_layout,
)
from zsad.data.layouts.opening import ClassName, Opening, Split, check_split, folded_labels
from zsad.data.vocabulary import spaced

__all__ = [
    "LAYOUTS",
    "LIST_SUFFIXES",
    "PLAIN",
    "YAML_SUFFIXES",
    "Category",
    "CategoryListing",
    "ClassName",
    "Layout",
    "Listing",
    "Opening",
    "Split",
    "check_split",
    "find_categories",
    "folded_labels",
    "is_coco_file",
    "list_category",
    "names_directories",
    "read_coco_file",
    "read_directories",
    "read_list",
    "read_mvtec",
    "refuse_problems",
    "spaced",
]


@dataclass(frozen=True)
class Layout:
    """A layout of a dataset on disk.

    Attributes:
        name: name in the catalogue ("mvtec").
        shape: content of a folder in this layout, in one line for messages.
        recognises: function of folder and the user's wishes that tells whether a folder is in this layout.
        read: function of folder and the user's wishes that returns samples and problems.
    """

    name: str
    shape: str
    recognises: Callable[[Path, Opening], bool]
    read: Callable[[Path, Opening], Listing]


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("meta", "meta.json", is_meta, read_meta),
        Layout("visa", "split_csv/1cls.csv and the folders of the categories", is_visa, read_visa),
        Layout("real-iad", "realiad_jsons/ and realiad_1024/", is_real_iad, read_real_iad),
        Layout("dagm", "Class1/Test/*.PNG and Class1/Test/Label/Labels.txt", is_dagm, read_dagm),
        Layout("coco", "annotations/instances*.json or _annotations.coco.json", is_coco, read_coco),
        Layout("kolektor", "images beside their masks, X.png and X_GT.png", is_kolektor, read_kolektor),
        Layout("mvtec", "CATEGORY/test/good/* and CATEGORY/test/DEFECT/*", is_mvtec, read_mvtec_layout),
        Layout("head-ct", "labels.csv and head_ct/*.png", is_head_ct, read_head_ct),
        Layout("class-folders", "good/* and a folder for each defect", is_class_folders, read_class_folders),
        Layout("folder-pairs", "images/* and masks/*", is_folder_pair, read_folder_pairs),
    )
}
PLAIN = Layout("plain", "images", lambda folder, opening: True, read_plain)
"""The last resort: any folder with images, without labels."""

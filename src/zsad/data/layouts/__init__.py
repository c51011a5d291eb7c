"""On-disk layouts of datasets, read as they are: each is a function of a folder, samples and problems out.

`LAYOUTS` is in the order in which a folder without a name is tried: the first that recognises it reads it. A
prepared `meta.json` comes first, for whoever made it wants it used; layouts with files of their own come
before those that are only told by the names of folders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zsad.data.layouts.class_folders import is_class_folders, read_class_folders, read_plain
from zsad.data.layouts.dagm import is_dagm, read_dagm
from zsad.data.layouts.listing import ClassName, Listing, Split, check_split, refuse_problems, spaced
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

__all__ = [
    "LAYOUTS",
    "LIST_SUFFIXES",
    "PLAIN",
    "Category",
    "CategoryListing",
    "ClassName",
    "Layout",
    "Listing",
    "Split",
    "check_split",
    "find_categories",
    "list_category",
    "read_list",
    "read_mvtec",
    "refuse_problems",
    "spaced",
]


@dataclass(frozen=True)
class Layout:
    """A way in which a dataset lies on disk.

    Attributes:
        name: as the catalogue names it.
        shape: what a folder of this layout holds, in one line for messages.
        recognises: whether a folder is of this layout.
        read: (folder, split, class name of a category's folder) -> samples and problems.
    """

    name: str
    shape: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Split, ClassName], Listing]


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("meta", "meta.json", is_meta, read_meta),
        Layout("visa", "split_csv/1cls.csv and the folders of the categories", is_visa, read_visa),
        Layout("real-iad", "realiad_jsons/ and realiad_1024/", is_real_iad, read_real_iad),
        Layout("dagm", "Class1/Test/*.PNG and Class1/Test/Label/Labels.txt", is_dagm, read_dagm),
        Layout("kolektor", "images beside their masks, X.png and X_GT.png", is_kolektor, read_kolektor),
        Layout("mvtec", "CATEGORY/test/good/* and CATEGORY/test/DEFECT/*", is_mvtec, read_mvtec_layout),
        Layout("head-ct", "labels.csv and head_ct/*.png", is_head_ct, read_head_ct),
        Layout("class-folders", "good/* and a folder for each defect", is_class_folders, read_class_folders),
        Layout("folder-pairs", "images/* and masks/*", is_folder_pair, read_folder_pairs),
    )
}
PLAIN = Layout("plain", "images", lambda folder: True, read_plain)
"""What is left: any folder with images, none of them labelled."""

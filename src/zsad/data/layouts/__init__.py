"""On-disk layouts of datasets, read as they are: each is a function of a folder, samples and problems out."""

from zsad.data.layouts.mvtec import (
    Category,
    CategoryListing,
    Split,
    find_categories,
    list_category,
    read_mvtec,
    refuse_problems,
)

__all__ = [
    "Category",
    "CategoryListing",
    "Split",
    "find_categories",
    "list_category",
    "read_mvtec",
    "refuse_problems",
]

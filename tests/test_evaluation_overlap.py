"""What a checkpoint was trained on, recognised in words, against what is to be tested."""

from pathlib import Path

import pytest

from zsad.data.catalog import dataset_record
from zsad.data.folder import Dataset
from zsad.evaluation_overlap import named_datasets, overlap
from zsad.types import Sample


def dataset(name, *categories):
    samples = tuple(Sample(Path(f"{category}.png"), category, 0) for category in categories)
    try:
        record = dataset_record(name)
    except ValueError:
        record = None
    return Dataset(name if record is None else record.name, Path(name), samples, (), record)


MVTEC = dataset("mvtec", "bottle", "metal nut")


@pytest.mark.parametrize(
    ("auxiliary", "expected"),
    [
        ("", ""),
        ("MVTec AD", "mvtec"),
        ("mvtec_ad (test split, 1725 pictures)", "mvtec"),
        ("MVTec-AD test split", "mvtec"),
        ("mvtec_ad: metal_nut, screw (test split, 300 pictures)", "mvtec: metal nut"),
        ("VisA (candle), mvtec (bottle, Metal Nut)", "mvtec: bottle, metal nut"),
        ("mvtec: screw (test split, 90 pictures)", ""),  # another category
        ("concrete cracks; bottles and metal nuts of our own", ""),
        ("mvtec2024 of our own", ""),
    ],
)
def test_overlap(auxiliary, expected):
    assert overlap(auxiliary, MVTEC) == expected


def test_folders_of_ones_own_are_known_by_their_name():
    own = dataset("press_line_7", "gear")
    assert overlap("press line 7: gear, lid (test split, 20 pictures)", own) == "press_line_7: gear"
    assert overlap("press_line_7 (test split)", own) == "press_line_7"
    assert overlap("press_line_77 (test split)", own) == ""
    assert overlap("it is what it is", dataset("is", "gear")) == ""


def test_every_name_of_the_catalogue_is_recognised_as_its_own():
    from zsad.data.catalog import list_datasets

    for name in list_datasets():
        for spelling in (name, dataset_record(name).title, *dataset_record(name).aliases):
            assert [found.name for found in named_datasets(f"data: {spelling}.")] == [name], spelling

"""Reads the MVTec layout, and reports each kind of disorder by name."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad.data.layouts import find_categories, list_category, read_mvtec
from zsad.errors import ConfigError, DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def image(path: Path, size=(6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size[1], size[0]), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def nut(tmp_path):
    """`toys/metal_nut` with two normal and two bent images, and one training image."""
    category = tmp_path / "toys" / "metal_nut"
    for name in ("test/good/000.png", "test/good/001.JPG", "train/good/000.png"):
        image(category / name)
    for stem, mask in (("000", "000_mask.png"), ("001", "001.bmp")):
        image(category / f"test/bent/{stem}.png")
        image(category / f"ground_truth/bent/{mask}")
    return category


def problems(category: Path, split="test"):
    return [line for found in find_categories(category) for line in list_category(found, split).problems]


def test_reads_a_category(nut):
    samples = read_mvtec(nut)
    assert [(s.path.relative_to(nut).as_posix(), s.label, s.defect) for s in samples] == [
        ("test/bent/000.png", 1, "bent"),
        ("test/bent/001.png", 1, "bent"),
        ("test/good/000.png", 0, "good"),
        ("test/good/001.JPG", 0, "good"),
    ]
    assert [s.mask_path and s.mask_path.name for s in samples] == ["000_mask.png", "001.bmp", None, None]
    assert {s.category for s in samples} == {"metal nut"}


@pytest.mark.parametrize(("split", "count"), [("test", 4), ("train", 1), ("all", 5)])
def test_splits(nut, split, count):
    assert len(read_mvtec(nut, split)) == count


@pytest.mark.parametrize("up", [0, 1, 2])
def test_takes_a_category_a_dataset_or_a_folder_of_datasets(nut, up):
    folder = [nut, *nut.parents][up]
    (category,) = find_categories(folder)
    assert (category.name, category.dataset, category.class_name) == ("metal_nut", "toys", "metal nut")
    assert len(read_mvtec(folder)) == 4


def test_the_current_folder_has_a_name(nut, monkeypatch):
    monkeypatch.chdir(nut)
    (category,) = find_categories(".")
    assert (category.name, category.dataset) == ("metal_nut", "toys")


def test_several_categories_come_in_order(nut):
    image(nut.parent / "cable" / "test" / "good" / "0.png")
    assert [category.name for category in find_categories(nut.parent)] == ["cable", "metal_nut"]


def test_a_set_without_masks_has_image_labels(nut):
    image(nut.parent / "cell" / "test" / "cracked" / "0.png")
    (sample,) = read_mvtec(nut.parent / "cell")
    assert (sample.label, sample.mask_path, sample.defect) == (1, None, "cracked")


@pytest.mark.parametrize("name", ["good", "Good", "ok", "normal"])
def test_names_of_normal_folders(tmp_path, name):
    image(tmp_path / "test" / name / "0.png")
    (sample,) = read_mvtec(tmp_path)
    assert (sample.label, sample.defect) == (0, "good")


def test_other_files_are_left_out(nut):
    (nut / "test" / "bent" / "notes.txt").write_text("x")
    image(nut / "test" / "good" / "._000.png")
    image(nut / "test" / ".thumbnails" / "000.png")
    assert len(read_mvtec(nut)) == 4


def test_a_missing_mask_is_named(nut):
    (nut / "ground_truth/bent/000_mask.png").unlink()
    assert problems(nut) == [
        f"{nut}/test/bent/000.png: has no mask; expected {nut}/ground_truth/bent/000_mask.png"
    ]
    with pytest.raises(DataError, match=r"000\.png: has no mask"):
        read_mvtec(nut)


def test_a_mask_without_a_image_is_named(nut):
    image(nut / "ground_truth/bent/7_mask.png")
    (line,) = problems(nut)
    assert line.startswith(f"{nut}/ground_truth/bent/7_mask.png: belongs to no image")


def test_two_masks_or_two_images_of_one_name_are_named(nut):
    image(nut / "ground_truth/bent/000.png")
    image(nut / "test/bent/001.bmp")
    first, second = problems(nut)
    assert "has 2 masks (000.png, 000_mask.png)" in first
    assert "same name as" in second


def test_images_outside_the_layout_are_named(nut):
    image(nut / "test/loose.png")
    image(nut / "train/bent/0.png")
    test, train = problems(nut, "test"), problems(nut, "train")
    assert "loose.png: lies beside the defect folders" in test[0]
    assert "train/bent: training images are normal" in train[0]


def test_many_problems_are_counted(nut):
    for number in range(9):
        image(nut / f"test/bent/x{number}.png")
    with pytest.raises(DataError, match=r"9 problems:(?s:.*)and 4 more$"):
        read_mvtec(nut)


def test_an_empty_split_is_named(nut):
    (nut / "train/good/000.png").unlink()
    with pytest.raises(DataError, match=r"metal_nut: no images in train/good"):
        read_mvtec(nut, "train")


def test_folders_that_are_not_datasets_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        find_categories(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"it holds images\); expected CATEGORY/test/good"):
        find_categories(tmp_path)


def test_unknown_split(nut):
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        read_mvtec(nut, "tests")


@pytest.mark.data
@pytest.mark.parametrize("name", ["auxiliary", "evaluation"])
def test_the_real_sets_have_no_problems(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"../shared/data/{name} is not there")
    assert len(read_mvtec(SHARED / name, "all")) > 300

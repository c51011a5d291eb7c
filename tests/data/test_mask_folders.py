"""Folders of masks are the ground truth of the images beside them, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad.data.folder import open_dataset
from zsad.errors import DataError


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((16, 16), 60).save(path)


def mask(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.zeros((16, 16), np.uint8)
    levels[4:8, 4:8] = 255
    Image.fromarray(levels).save(path)


@pytest.mark.parametrize(
    "name",
    ["mask", "gt", "labels", "annotations", "bad_mask", "GroundTruth", "Masks", "marked"],
)
@pytest.mark.parametrize("place", ["", "test/"])
@pytest.mark.parametrize("file", ["{}/000.png", "{}/scratch/000_mask.png", "{}/mask_000.png"])
def test_masks_are_found(tmp_path, name, place, file):
    if name == "marked" and file != "{}/000.png":
        pytest.skip("a name that says nothing needs files of the same name")
    photo(tmp_path / place / "good" / "001.png")
    photo(tmp_path / place / "scratch" / "000.png")
    mask(tmp_path / place / file.format(name))
    dataset = open_dataset(tmp_path)
    assert not dataset.problems
    assert [(sample.label, sample.defect) for sample in dataset.samples] == [(0, "good"), (1, "scratch")]
    assert dataset.samples[1].mask_path == tmp_path / place / file.format(name)


@pytest.mark.parametrize("pair", ["Images Masks", "images GT", "IMG ground_truth", "image Labels"])
def test_pairs_of_folders(tmp_path, pair):
    images, masks = pair.split()
    photo(tmp_path / images / "1.png")
    mask(tmp_path / masks / "1_ground_truth.png")
    (sample,) = open_dataset(tmp_path).samples
    assert (sample.label, sample.mask_path) == (1, tmp_path / masks / "1_ground_truth.png")


def test_a_name_that_two_defects_share_is_not_guessed(tmp_path):
    for name in ("good", "dent", "scratch"):
        photo(tmp_path / "test" / name / "000.png")
    mask(tmp_path / "ground_truth" / "000.png")
    assert len(open_dataset(tmp_path).problems) == 2


@pytest.mark.parametrize(
    "file",
    [
        "{}scratch/masks_of_it/000.png", "{}scratch/marked/000_m.png", "{}scratch/marked/000.png",
        "{}scratch/GT/000.bmp", "{}scratch/000_m.png", "{}scratch/m_000.png", "{}scratch/000.bmp",
        "{}scratch/000-mask.png", "{}scratch/000.mask.png", "{}scratch/mask_000.png",
        "{}scratch/000_ground_truth.png", "{}scratch_mask/000.png", "{}Scratch_GT/000_mask.png",
        "ground_truth/000_ground_truth.png", "Ground Truth/Scratch/000.png", "masks/000-mask.png",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["", "test/"])
def test_masks_of_one_defect(tmp_path, file, place):
    photo(tmp_path / place / "good/000.png")
    photo(tmp_path / place / "scratch/000.png")
    mask(tmp_path / file.format(place))
    dataset = open_dataset(tmp_path)
    assert not dataset.problems
    assert [(sample.label, sample.defect) for sample in dataset.samples] == [(0, "good"), (1, "scratch")]
    assert dataset.samples[1].mask_path == tmp_path / file.format(place)


@pytest.mark.parametrize("place", ["", "test/"])
def test_a_folder_of_masks_for_each_class(tmp_path, place):
    for name in ("good", "dent", "scratch"):
        photo(tmp_path / place / name / "000.png")
        mask(tmp_path / place / f"{name}_mask" / "000.png")
    samples = open_dataset(tmp_path).samples
    masks = {sample.defect: sample.mask_path and sample.mask_path.parent.name for sample in samples}
    assert masks == {"good": None, "dent": "dent_mask", "scratch": "scratch_mask"}


@pytest.mark.parametrize("place", ["", "test/"])
def test_a_missing_mask_leaves_the_image(tmp_path, place):
    photo(tmp_path / place / "good/000.png")
    for number in range(3):
        photo(tmp_path / place / f"scratch/00{number}.png")
    mask(tmp_path / "ground_truth/scratch/000.png")
    mask(tmp_path / "ground_truth/scratch/001.png")
    mask(tmp_path / "ground_truth/scratch/001_mask.png")
    dataset = open_dataset(tmp_path)
    assert [(sample.label, sample.mask_path is not None) for sample in dataset.samples] == [
        (0, False),
        (1, True),
        (1, False),
        (1, False),
    ]
    assert ["has 2 masks" in dataset.problems[0], "has no mask" in dataset.problems[1]] == [True, True]


def test_photos_of_like_names_are_no_masks(tmp_path):
    photo(tmp_path / "good/000.png")
    for name in ("000.png", "000_top.png", "000.bmp"):
        photo(tmp_path / "scratch" / name)
    assert sum(sample.label for sample in open_dataset(tmp_path).samples) == 3


@pytest.mark.parametrize("is_3d", [True, False])
def test_layout_of_mvtec_3d(tmp_path, is_3d):
    root = tmp_path / "bagel"
    for part in ("train/good", "test/good", "test/bent"):
        photo(root / part / "rgb/000.png")
        mask(root / part / "gt/000.png")
        if is_3d:
            points = root / part / "xyz/000.tiff"
            points.parent.mkdir()
            Image.fromarray(np.random.default_rng(0).random((16, 16), np.float32)).save(points)
    samples = open_dataset(tmp_path, "all").samples
    found = [(sample.path.relative_to(root).as_posix(), sample.label) for sample in samples]
    assert found == [
        ("train/good/rgb/000.png", 0),
        ("test/bent/rgb/000.png", 1),
        ("test/good/rgb/000.png", 0),
    ]
    assert samples[1].mask_path == root / "test/bent/gt/000.png"
    assert {sample.category for sample in samples} == {"bagel"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.yaml", "normal_dir: good\nabnormal_dir: crack\nmask_dir: mask/crack\n"),
        ("d.yml", "normal_dir: good\nabnormal_dir: [crack]\nmask_dir:\n  - mask\n"),
        ("d.json", '{"normal_dir": "good", "abnormal_dir": ["crack"], "mask_dir": "mask/crack"}'),
        ("cfg/d.yaml", "data:\n  class_path: anomalib.data.Folder\n  init_args:\n    name: parts\n"
                       "    root: ..\n    normal_dir: good\n    abnormal_dir: crack\n"
                       "    mask_dir: mask/crack\n"),
    ],
)  # fmt: skip
def test_files_that_name_folders(tmp_path, name, text):
    root = tmp_path / "parts"
    photo(root / "good/000.png")
    photo(root / "crack/000.png")
    mask(root / "mask/crack/000.png")
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(text)
    dataset = open_dataset(root / name)
    assert not dataset.problems
    assert [(sample.label, sample.category) for sample in dataset.samples] == [(0, "parts"), (1, "parts")]
    assert dataset.samples[1].mask_path.name == "000.png"


def test_normal_test_folders_and_mistakes_of_such_files(tmp_path):
    for number, name in enumerate(("good", "good_test", "crack")):
        photo(tmp_path / name / f"{number}.png")
    path = tmp_path / "d.yaml"
    path.write_text("normal_dir: good\nnormal_test_dir: good_test\nabnormal_dir: crack\n")
    names = {split: [s.path.name for s in open_dataset(path, split).samples] for split in ("test", "train")}
    assert names == {"test": ["1.png", "2.png"], "train": ["0.png"]}
    for text, message in (
        ("normal_dir: gone\n", "normal_dir names gone, which is no folder"),
        ("a: [1\n", "is not YAML"),
        ("a: 1\n", "names no folders; expected normal_dir"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(DataError, match=rf"bad\.yaml: {message}"):
            open_dataset(tmp_path / "bad.yaml")


def test_folders_that_are_called_so(tmp_path):
    photo(tmp_path / "normal_dir/000.png")
    photo(tmp_path / "abnormal_dir/001.png")
    mask(tmp_path / "mask_dir/001.png")
    dataset = open_dataset(tmp_path)
    assert not dataset.problems
    assert [(sample.label, sample.mask_path is not None) for sample in dataset.samples] == [
        (0, False),
        (1, True),
    ]

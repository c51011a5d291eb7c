"""Folders of masks are the ground truth of the images beside them, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad.data.folder import open_dataset


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

"""What zsad wrote, and masks, are not taken for input when a folder is searched."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad.errors import DataError
from zsad.images.finding import find_images, folders_in, images_in, search_images
from zsad.images.mask_folders import has_mask_name
from zsad.images.saving import FILE_SUFFIXES, write_file

NOISE = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(NOISE).save(path)
    return path


def mask(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.zeros((16, 16), np.uint8)
    levels[4:8, 4:8] = 255
    Image.fromarray(levels).save(path)
    return path


def written(folder: Path) -> list[Path]:
    """The files that zsad writes about one image."""
    heat = NOISE[..., 0].astype(np.float32) / 255
    return [
        write_file(kind, folder / f"1{suffix}", NOISE, heat, (0.0, 1.0), mask=heat > 0.5)
        for kind, suffix in FILE_SUFFIXES.items()
        if kind != "npy"
    ]


def test_own_files_are_left_out_under_any_name(tmp_path):
    own = photo(tmp_path / "1.png")
    for number, path in enumerate(written(tmp_path / "any" / "where")):
        shutil.copy(path, tmp_path / f"renamed {number}{path.suffix}")
    search = search_images(tmp_path)
    assert search.images == [own]
    assert search.left_out.results == 8
    assert "8 images that zsad wrote itself" in str(search.left_out)
    assert len(find_images(tmp_path, include_results=True)) == 9
    assert images_in(tmp_path) == [own]
    assert folders_in(tmp_path) == []


def test_a_pattern_leaves_out_too_but_a_named_file_is_taken(tmp_path):
    own = photo(tmp_path / "1.png")
    files = written(tmp_path)
    assert find_images(str(tmp_path / "*.png")) == [own]
    assert find_images(files) == files
    own.unlink()
    with pytest.raises(DataError, match=r"4 images that zsad wrote itself.*--include-results"):
        find_images(tmp_path)


def test_results_of_earlier_versions_are_known_by_what_lies_beside_them(tmp_path):
    run = tmp_path / "any name"
    for name in ("overlays/a/1_overlay.jpg", "masks/1_mask.png", "thumbnails/1.jpg", "maps/mine.png"):
        photo(run / name)
    (run / "results.jsonl").touch()
    assert len(find_images(tmp_path)) == 4
    (run / "settings.json").touch()
    assert find_images(tmp_path) == [run / "maps/mine.png"]


def test_masks_of_a_dataset_are_left_out(tmp_path):
    for defect in ("good", "scratch"):
        photo(tmp_path / "test" / defect / "000.png")
    mask(tmp_path / "ground_truth" / "scratch" / "000_mask.png")
    mask(tmp_path / "test" / "marked up" / "000.png")
    photo(tmp_path / "test" / "flat.png")
    mask(tmp_path / "test" / "flat_mask.png")
    search = search_images(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in search.images]
    assert names == ["test/flat.png", "test/good/000.png", "test/scratch/000.png"]
    assert str(search.left_out) == "left out: 3 masks of images"
    assert len(find_images(tmp_path / "ground_truth")) == 1


def test_photos_in_a_folder_called_masks_are_no_masks(tmp_path):
    photo(tmp_path / "masks" / "ffp2.png")
    assert len(find_images(tmp_path)) == 1


@pytest.mark.parametrize("name", ["GroundTruth", "GT", "bad_mask", "Masks", "ground-truth", "labels"])
def test_names_of_mask_folders(name):
    assert has_mask_name(name)


@pytest.mark.parametrize("name", ["unmasked", "scratch", "missing_label", "images", "gtx", "seg2"])
def test_names_of_other_folders(name):
    assert not has_mask_name(name)

"""Prepares images and masks like the authors' data loaders, and reads mask files of every mode."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad.data.masks import read_mask
from zsad.data.samples import load_sample, prepare_sample, resize_mask
from zsad.errors import DataError, ImageReadError
from zsad.images.preparing import Preparation
from zsad.types import Sample

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PREPARATION = Preparation(70, MEAN, STD)


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "golden" / "preprocess.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("index", [0, 1])
def test_equals_the_authors_loader(golden, tmp_path, index):
    Image.fromarray(golden[f"raw_{index}"]).save(tmp_path / "image.png")
    Image.fromarray(golden[f"raw_mask_{index}"]).save(tmp_path / "mask.png")
    sample = Sample(tmp_path / "image.png", "nut", 1, tmp_path / "mask.png", "bent")
    prepared = load_sample(sample, PREPARATION)
    np.testing.assert_allclose(prepared.image, golden[f"anomalyclip.image_{index}"], atol=1e-6)
    np.testing.assert_array_equal(prepared.mask, golden[f"anomalyclip.mask_binary_{index}"][0])
    assert (prepared.label, prepared.class_name) == (1, "nut")


MASK = np.zeros((5, 7), dtype=bool)
MASK[1:3, 2:6] = True


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        (Image.fromarray(MASK.astype(np.uint8)), "png"),
        (Image.fromarray(MASK.astype(np.uint8) * 255), "png"),
        (Image.fromarray(MASK), "png"),
        (Image.fromarray(MASK.astype(np.uint16)), "png"),
        (Image.fromarray(MASK.astype(np.int32)), "tif"),
        (Image.fromarray(MASK.astype(np.float32) * 0.1), "tif"),
        (Image.fromarray(np.stack([MASK * np.uint8(200)] * 3, axis=-1)), "bmp"),
        (Image.fromarray(MASK.astype(np.uint8) * 255).convert("P"), "png"),
        (Image.fromarray(MASK.astype(np.uint8) * 255).convert("RGBA"), "png"),
    ],
    ids=["L01", "L255", "1", "I16", "I", "F", "RGB", "P", "RGBA"],
)
def test_masks_of_every_mode(tmp_path, image, suffix):
    image.save(tmp_path / f"mask.{suffix}")
    np.testing.assert_array_equal(read_mask(tmp_path / f"mask.{suffix}"), MASK)


def test_resizing_keeps_a_mask_at_its_own_size():
    mask = np.random.default_rng(0).integers(0, 2, (9, 9))
    np.testing.assert_array_equal(resize_mask(mask, 9), mask)
    assert resize_mask(np.ones((3, 50)), 16).all()
    assert not resize_mask(np.zeros((3, 50)), 16).any()


def test_normal_images_have_empty_masks_and_unknown_masks_stay_unknown():
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    assert prepare_sample(image, None, 0, "nut", PREPARATION).mask.sum() == 0
    assert prepare_sample(image, None, 1, "nut", PREPARATION).mask is None


def test_a_mask_of_another_size_is_named(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "image.png")
    Image.new("L", (6, 8)).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=r"mask\.png: the mask is 6 x 8 pixels, its image 8 x 6"):
        load_sample(Sample(tmp_path / "image.png", "nut", 1, tmp_path / "mask.png"), PREPARATION)


def test_unreadable_masks_and_impossible_labels_are_refused(tmp_path):
    (tmp_path / "mask.png").write_bytes(b"no image")
    with pytest.raises(ImageReadError, match=r"mask\.png: cannot be read as a mask"):
        read_mask(tmp_path / "mask.png")
    with pytest.raises(ImageReadError, match=r"gone\.png"):
        read_mask(tmp_path / "gone.png")
    with pytest.raises(DataError, match="label must be 0"):
        prepare_sample(np.zeros((8, 8, 3), dtype=np.uint8), None, 2, "nut", PREPARATION)

"""The region of interest: what a user types, and where it lies in images of any size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from zsad.detector.looking import as_region
from zsad.errors import ConfigError, ImageReadError
from zsad.images.region import Region


@pytest.mark.parametrize(
    ("given", "box"),
    [
        ("10,20,30,40", (10, 20, 40, 60)),
        (" 10 , 20,30 ,40 ", (10, 20, 40, 60)),
        ((10, 20, 30, 40), (10, 20, 40, 60)),
        (np.array([10, 20, 30, 40]), (10, 20, 40, 60)),
        ("10%,10%,80%,80%", (20, 10, 180, 90)),
        ("10 %,0,80%,50", (20, 0, 180, 50)),
        ("0.1,0.1,0.8,0.8", (20, 10, 180, 90)),
        ((0.1, 0.1, 0.8, 0.8), (20, 10, 180, 90)),
        (("25%", 0, "50%", 7), (50, 0, 150, 7)),
        ("0,0,1,1", (0, 0, 1, 1)),
        ("0,0,100%,100%", (0, 0, 200, 100)),
        ("150,50,1000,1000", (150, 50, 200, 100)),
        ("99.9%,99.9%,0.1%,0.1%", (199, 99, 200, 100)),
    ],
)
def test_boxes(given, box):
    region = as_region(given)
    assert region.window((200, 100)).box == box
    assert as_region(region) is region


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("10,10,0,5", "width and a height"),
        ("-1,0,5,5", "inside the image"),
        ("0,0,120%,5%", "inside the image"),
        ("0.1,0.1,0.8,80", "inside the image"),
        ("1,2,3", "x,y,width,height"),
        ("1,2,3,4,5", "x,y,width,height"),
        ("a,b,c,d", "x,y,width,height"),
        ((1, 2), "x,y,width,height"),
        ("no-such-mask.png", "no such mask"),
        (np.zeros((4, 4)), "marks nothing"),
        (np.zeros((4, 4, 3)), "has the shape"),
    ],
)
def test_what_is_no_region_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        as_region(given)


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "P"])
def test_a_mask_file_is_resized_to_the_image(tmp_path, mode):
    mask = np.zeros((10, 20), np.uint8)
    mask[2:5, 4:10] = 255
    mask[2, 4] = 0
    Image.fromarray(mask).convert(mode).save(tmp_path / "look here.png")
    window = as_region(str(tmp_path / "look here.png")).window((200, 100))
    assert window.box == (40, 20, 100, 50)
    assert not window.inside[:10, :10].any()
    assert window.inside[10:].all()
    assert window.pixels().sum() == window.inside.sum() == 30 * 60 - 100


def test_masks_that_cannot_be_used(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "black.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ConfigError, match=r"black\.png cannot be used: .*marks nothing"):
        as_region(tmp_path / "black.png")
    with pytest.raises(ConfigError, match=r"text\.png"):
        as_region(tmp_path / "text.png")


def test_the_identity_is_that_of_the_content():
    mask = np.eye(8)
    assert as_region(mask) == as_region(mask * 255) != as_region(np.ones((8, 8)))
    assert as_region("1,2,3,4") == as_region(" 1, 2,3,4") != as_region("1,2,3,5")


def test_a_region_outside_of_an_image():
    with pytest.raises(ImageReadError, match="300,0,5,5 lies outside of this image of 200 x 100 pixels"):
        Region.of_box("300,0,5,5").window((200, 100))
    mask = np.zeros((500, 500), bool)
    mask[3, 3] = True
    with pytest.raises(ImageReadError, match="outside"):
        Region.of_mask(mask).window((7, 7))


def test_cutting_hides_everything_outside():
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    region = Region.of_mask(np.arange(40)[None] + np.arange(30)[:, None] > 40)
    other = np.where(region.mask[..., None], levels, 255 - levels)
    window = region.window((40, 30))
    first, second = (np.asarray(window.cut(Image.fromarray(each))) for each in (levels, other))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[window.inside], levels[region.mask])


def test_maps_are_placed_in_the_whole_image():
    window = Region.of_box("25%,50%,50%,50%").window((8, 4))
    placed = window.place(np.full((2, 4), 0.7, np.float32), 0.1)
    assert placed.shape == (4, 8)
    assert placed.dtype == np.float32
    np.testing.assert_array_equal(placed > 0.5, window.pixels())
    assert set(placed[~window.pixels()]) == {np.float32(0.1)}


@pytest.mark.parametrize("text", ["90%,10%,80%,80%", "10%,50%,20%,60%", "0.9,0,0.2,1"])
def test_shares_that_end_outside_are_refused(text):
    with pytest.raises(ConfigError, match="ends inside the image"):
        Region.of_box(text)
    assert Region.of_box("10%,10%,90%,90%")


@pytest.mark.parametrize("text", ["10%,0,80%,300", "0.1,0.1,0.5,0.5", "3,4,5,6"])
def test_a_box_survives_its_text(text):
    assert Region.from_text(Region.of_box(text).to_text()).box == Region.of_box(text).box


def test_a_mask_survives_its_text():
    mask = np.random.default_rng(3).random((37, 51)) > 0.4
    kept = Region.from_text(Region.of_mask(mask).to_text())
    np.testing.assert_array_equal(kept.mask, mask)
    assert kept == Region.of_mask(mask)


@pytest.mark.parametrize("text", ["mask:", "mask:AAAA", "mask:?", "nonsense"])
def test_damaged_text_is_refused(text):
    with pytest.raises(ConfigError, match="region"):
        Region.from_text(text)

"""Masks of every mode and unit read the same."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from zsad.data.masks import read_mask
from zsad.errors import ImageReadError

TRUTH = np.zeros((16, 24), dtype=bool)
TRUTH[4:10, 6:17] = True
LEVELS = TRUTH.astype(np.uint8)


def rgb(levels):
    return np.repeat(levels[..., None], 3, axis=2)


def palette():
    image = Image.fromarray(LEVELS * 3, "P")
    image.putpalette([0, 0, 0, 9, 9, 9, 20, 30, 40, 0, 128, 0])
    return image


KINDS = {
    "1 bit": ("png", Image.fromarray(TRUTH)),
    "0 and 1": ("png", Image.fromarray(LEVELS)),
    "0 and 255": ("bmp", Image.fromarray(LEVELS * 255)),
    "0 and 128": ("tif", Image.fromarray(LEVELS * 128)),
    "palette": ("png", palette()),
    "RGB": ("png", Image.fromarray(rgb(LEVELS * 255))),
    "red only": ("png", Image.fromarray(rgb(LEVELS * 200) * np.array([1, 0, 0], np.uint8))),
    "RGBA, opaque": ("png", Image.fromarray(np.dstack([rgb(LEVELS * 255), np.full_like(LEVELS, 255)]))),
    "16 bit": ("png", Image.fromarray(LEVELS.astype(np.uint16) * 65535)),
    "16 bit, small": ("tif", Image.fromarray(LEVELS.astype(np.uint16))),
    "32 bit": ("tif", Image.fromarray(LEVELS.astype(np.int32) * 70000)),
    "float": ("tif", Image.fromarray(LEVELS.astype(np.float32) * 0.25)),
    "JPEG": ("jpg", Image.fromarray(LEVELS * 255)),
    "JPEG in colour": ("jpg", Image.fromarray(rgb(LEVELS * 255))),
    "GIF": ("gif", Image.fromarray(LEVELS * 255)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(tmp_path, kind):
    suffix, image = KINDS[kind]
    image.save(tmp_path / f"m.{suffix}")
    np.testing.assert_array_equal(read_mask(tmp_path / f"m.{suffix}"), TRUTH)


def test_noise_of_jpeg_does_not_count(tmp_path):
    Image.fromarray(LEVELS * 255).save(tmp_path / "m.jpg", quality=30)
    stored = np.asarray(Image.open(tmp_path / "m.jpg"))
    assert ((stored > 0) != TRUTH).sum() > 20
    assert (read_mask(tmp_path / "m.jpg") != TRUTH).sum() < 5


def test_an_empty_jpeg_is_empty(tmp_path):
    Image.fromarray(LEVELS * 0).save(tmp_path / "m.jpg")
    assert not read_mask(tmp_path / "m.jpg").any()


def test_numbered_regions_all_count(tmp_path):
    numbered = LEVELS.copy()
    numbered[5, 7:12] = 2
    Image.fromarray(numbered).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), TRUTH)


def test_a_folder_unites(tmp_path):
    left, right = TRUTH.copy(), TRUTH.copy()
    left[:, 10:], right[:, :10] = False, False
    for name, part in (("000.png", left), ("001.bmp", right)):
        Image.fromarray(part.astype(np.uint8) * 255).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    np.testing.assert_array_equal(read_mask(tmp_path), TRUTH)


def test_an_empty_folder_and_a_damaged_file_are_named(tmp_path):
    with pytest.raises(ImageReadError, match="holds no masks"):
        read_mask(tmp_path)
    (tmp_path / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageReadError, match=r"000\.png: cannot be read as a mask"):
        read_mask(tmp_path)


def test_alpha_tells_where_the_colour_says_nothing(tmp_path):
    alpha = np.zeros((6, 8), np.uint8)
    alpha[2:4, 3:5] = 255
    for number, colour in enumerate([(255, 255, 255), (0, 0, 0), (255, 0, 0)]):
        image = Image.new("RGB", (8, 6), colour)
        image.putalpha(Image.fromarray(alpha))
        image.save(tmp_path / f"{number}.png")
        assert np.array_equal(read_mask(tmp_path / f"{number}.png"), alpha > 0)
    Image.new("RGBA", (8, 6), (0, 0, 0, 255)).save(tmp_path / "empty.png")
    assert not read_mask(tmp_path / "empty.png").any()


@pytest.mark.parametrize("palette", [[255, 255, 255, 255, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 255, 0, 0]])
def test_number_0_of_a_palette_is_the_background(tmp_path, palette):
    numbers = np.zeros((6, 8), np.uint8)
    numbers[2:4, 3:5] = 1
    image = Image.new("P", (8, 6))
    image.putdata(numbers.ravel().tolist())
    image.putpalette(palette)
    image.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), numbers > 0)


def painted(mode, background, defect):
    image = Image.new(mode, (24, 16), background)
    image.paste(defect, (6, 4, 17, 10))
    return image


@pytest.mark.parametrize(
    "image",
    [
        painted("RGBA", (255, 255, 255, 0), (0, 0, 0, 255)),  # black on a transparent sheet
        painted("RGBA", (0, 0, 0, 0), (0, 0, 0, 90)),
        painted("RGBA", (9, 9, 9, 0), (0, 0, 1, 255)),
        painted("RGBA", (0, 0, 0, 0), (255, 0, 0, 255)),
        painted("LA", (255, 0), (255, 255)),
        painted("LA", (0, 255), (7, 255)),
        painted("RGB", (0, 0, 0), (0, 0, 1)),  # so dark a blue that grey levels round it to black
        painted("RGB", (0, 128, 0), (255, 255, 0)),  # no black: the commonest colour is the background
        painted("L", 1, 2),
        painted("L", 0, 3),
    ],
)
def test_colours_and_transparency(tmp_path, image):
    image.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), TRUTH)


def test_an_unused_alpha_channel_says_nothing(tmp_path):
    painted("RGBA", (0, 0, 0, 0), (255, 255, 255, 0)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), TRUTH)


def test_a_transparent_colour_of_a_palette_is_normal(tmp_path):
    image = Image.fromarray(LEVELS + np.uint8(1), "P")
    image.putpalette([0, 0, 0, 255, 255, 255, 255, 255, 255])
    image.save(tmp_path / "m.png", transparency=1)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), TRUTH)


def test_a_mask_of_one_colour_marks_everything(tmp_path):
    Image.new("L", (24, 16), 255).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").all()


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("colours", [[(255, 0, 0), (0, 0, 255)], [(85, 85, 85), (255, 255, 255)]])
def test_every_label_of_a_jpeg_counts(tmp_path, quality, colours):
    image = Image.new("RGB", (96, 96))
    image.paste(colours[0], (16, 16, 48, 48))
    image.paste(colours[1], (56, 56, 88, 88))
    image.save(tmp_path / "m.jpg", quality=quality)
    truth = np.asarray(image).any(axis=-1)
    assert (read_mask(tmp_path / "m.jpg") != truth).mean() < 0.02

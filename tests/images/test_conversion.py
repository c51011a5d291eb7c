"""Every Pillow mode and bit depth is compared with levels that were computed by hand."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from helpers.image_bytes import encode, grey, grey_tiff, pixels, png
from zsad.images.depth import eight_bits

COLOURS = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)


def test_mode_1_is_black_and_white() -> None:
    bits = np.array([[True, False], [False, True]])
    assert np.array_equal(pixels(Image.fromarray(bits)), grey(bits * 255))


def test_mode_l_repeats_the_level() -> None:
    assert np.array_equal(pixels(Image.fromarray(COLOURS[..., 0])), grey(COLOURS[..., 0]))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_shows_white_and_hides_the_colour_below(kind: str) -> None:
    rgba = np.array([[[200, 10, 90, 255], [200, 10, 90, 0], [200, 10, 90, 51]]], np.uint8)
    expected = np.array([[[200, 10, 90], [255, 255, 255], [244, 206, 222]]], np.uint8)  # 0.2 c + 0.8 * 255
    image = Image.fromarray(rgba)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert np.array_equal(pixels(image), expected)
    assert np.array_equal(pixels(encode(image, kind, **options)), expected)


def test_grey_with_alpha() -> None:
    image = Image.fromarray(np.array([[[100, 255], [100, 0], [100, 51]]], np.uint8))
    assert image.mode == "LA"
    assert np.array_equal(pixels(image), grey([[100, 255, 224]]))
    assert np.array_equal(pixels(encode(image, "PNG")), grey([[100, 255, 224]]))


def test_premultiplied_alpha() -> None:
    rgba = Image.fromarray(np.array([[[200, 10, 90, 255], [0, 0, 0, 0]]], np.uint8))
    assert pixels(rgba.convert("RGBa")).tolist() == [[[200, 10, 90], [255, 255, 255]]]
    assert pixels(rgba.convert("LA").convert("La"))[0, 1].tolist() == [255, 255, 255]


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert pixels(image).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert pixels(encode(image, "PNG")).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert pixels(encode(image, "GIF")).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    for kind in ("PNG", "GIF"):
        assert pixels(encode(image, kind, transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert pixels(encode(image, "PNG", transparency=b"\xff\x33")).tolist() == [
        [[10, 20, 30], [244, 224, 214]]
    ]


def test_palette_with_alpha_channel() -> None:
    image = Image.new("PA", (2, 1), (1, 0))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), (1, 255))
    assert pixels(image).tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_transparent_colour_of_rgb_and_grey_png() -> None:
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert pixels(encode(rgb, "PNG", transparency=(1, 2, 3))).tolist() == [[[255, 255, 255], [4, 5, 6]]]
    level = Image.fromarray(np.array([[7, 8]], np.uint8))
    assert np.array_equal(pixels(encode(level, "PNG", transparency=7)), grey([[255, 8]]))
    deep = png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 1000, 257), (b"tRNS", struct.pack(">H", 1000)))
    assert np.array_equal(pixels(deep), grey([[255, 1]]))
    deep_rgb = b"\0" + struct.pack(">6H", 1000, 2000, 3000, 65535, 0, 257)
    deep_rgb = png(2, 1, 16, 2, deep_rgb, (b"tRNS", struct.pack(">3H", 1000, 2000, 3000)))
    assert pixels(deep_rgb).tolist() == [[[255, 255, 255], [255, 0, 1]]]


SIXTEEN = np.array([[0, 128, 129, 257, 385, 386, 32768, 65279, 65535]], np.uint16)
SIXTEEN_AS_EIGHT = grey([[0, 0, 1, 1, 1, 2, 128, 254, 255]])  # v / 257 to the nearest level


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_files_are_scaled_not_clipped(kind: str) -> None:
    assert np.array_equal(pixels(encode(Image.fromarray(SIXTEEN), kind)), SIXTEEN_AS_EIGHT)


def test_16_bit_in_memory() -> None:
    assert np.array_equal(pixels(SIXTEEN), SIXTEEN_AS_EIGHT)
    assert np.array_equal(pixels(SIXTEEN.astype(">u2")), SIXTEEN_AS_EIGHT)
    assert np.array_equal(pixels(Image.fromarray(SIXTEEN)), SIXTEEN_AS_EIGHT)
    big_endian = Image.frombytes("I;16B", (9, 1), SIXTEEN.astype(">u2").tobytes())
    assert np.array_equal(pixels(big_endian), SIXTEEN_AS_EIGHT)
    assert np.array_equal(pixels(Image.fromarray(SIXTEEN.astype(np.int32))), SIXTEEN_AS_EIGHT)
    assert np.array_equal(pixels(Image.fromarray(SIXTEEN.astype(np.float32))), SIXTEEN_AS_EIGHT)


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff_of_either_byte_order_and_white_is_zero(order: str) -> None:
    assert np.array_equal(pixels(grey_tiff(SIXTEEN, order=order)), SIXTEEN_AS_EIGHT)
    if order == "<":  # Pillow reads white-is-zero of 16 bits in this order only
        assert np.array_equal(pixels(grey_tiff(SIXTEEN, order=order, photometric=0)), 255 - SIXTEEN_AS_EIGHT)


def test_dark_16_bit_png_stays_dark() -> None:
    dark = np.array([[0, 100, 255]], np.uint16)
    assert np.array_equal(pixels(encode(Image.fromarray(dark), "PNG")), grey([[0, 0, 1]]))
    portable = b"P5 3 1 65535\n" + dark.astype(">u2").tobytes()
    assert np.array_equal(pixels(portable), grey([[0, 0, 1]]))


def test_16_bit_colour_and_grey_alpha_png() -> None:
    rows = b"\0" + struct.pack(">3H", 257, 32896, 65535)
    assert pixels(png(1, 1, 16, 2, rows)).tolist() == [[[1, 128, 255]]]
    assert np.array_equal(
        pixels(png(2, 1, 16, 4, b"\0" + struct.pack(">4H", 1000, 0, 771, 65535))), grey([[255, 3]])
    )


def test_eight_bits_of_twelve() -> None:
    assert eight_bits(np.array([0, 2048, 4095, 5000]), 12).tolist() == [0, 128, 255, 255]


def test_32_bit_whole_numbers_by_range() -> None:
    small = np.array([[0, 7, 255]], np.int32)
    assert np.array_equal(pixels(Image.fromarray(small)), grey(small))
    assert np.array_equal(pixels(encode(Image.fromarray(small), "TIFF")), grey(small))


def test_floating_point_by_range() -> None:
    unit = np.array([[0, 0.5, 1]], np.float32)
    assert np.array_equal(pixels(Image.fromarray(unit)), grey([[0, 128, 255]]))
    assert np.array_equal(pixels(encode(Image.fromarray(unit), "TIFF")), grey([[0, 128, 255]]))
    assert np.array_equal(pixels(Image.fromarray(unit * 255)), grey([[0, 128, 255]]))


@pytest.mark.parametrize("mode", ["RGBX", "HSV", "CMYK", "YCbCr"])
def test_other_colour_spaces(mode: str) -> None:
    image = Image.fromarray(COLOURS).convert(mode)
    difference = np.abs(pixels(image).astype(int) - COLOURS)
    assert difference.max() <= (8 if mode == "HSV" else 3)  # what Pillow's 8-bit round trip loses


def test_lab_middle_grey() -> None:
    lab = Image.merge(
        "LAB", [Image.new("L", (2, 2), level) for level in (137, 128, 128)]
    )  # L* 53.7, a = b = 0
    result = pixels(lab).astype(int)
    assert np.ptp(result) <= 2
    assert abs(result.mean() - 128) <= 3


def test_cmyk_files() -> None:
    blocks = (8, 8, 1)  # whole JPEG blocks of one colour, which JPEG keeps
    ink = np.kron(np.array([[[255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 0, 255], [0, 0, 0, 0]]]), np.ones(blocks))
    seen = np.kron(np.array([[[0, 255, 255], [255, 0, 255], [0, 0, 0], [255, 255, 255]]]), np.ones(blocks))
    image = Image.frombytes("CMYK", (32, 8), ink.astype(np.uint8).tobytes())
    assert np.array_equal(pixels(image), seen)
    assert np.array_equal(pixels(encode(image, "TIFF")), seen)
    stored = encode(image, "JPEG", quality=100)
    assert b"Adobe" in stored  # such files hold inverted ink
    assert np.abs(pixels(stored) - seen).max() <= 8

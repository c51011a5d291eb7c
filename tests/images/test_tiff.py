"""TIFF of the kinds that Pillow scrambles or refuses, and pages of TIFF, GIF and WebP."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.image_bytes import encode, pixels
from zsad.errors import ImageReadError, ImageWarning
from zsad.images.reading import read_image

tifffile = pytest.importorskip("tifffile")
COLOURS = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
DEEP = COLOURS.astype(np.uint16) * 257


def tiff(values: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **{"photometric": "minisblack", **options})
    return stream.getvalue()


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("planar", [False, True])
def test_16_bit_colours(byteorder: str, compression: str | None, planar: bool) -> None:
    values = np.moveaxis(DEEP, 2, 0) if planar else DEEP
    config = "separate" if planar else "contig"
    content = tiff(
        values, photometric="rgb", planarconfig=config, compression=compression, byteorder=byteorder
    )
    assert (pixels(content) == COLOURS).all()


def test_depth_of_colours() -> None:
    content = tiff((COLOURS.astype(np.uint16) << 4) | 15, photometric="rgb")
    with pytest.warns(ImageWarning, match="uses 12 bits"):
        read_image(content)
    assert np.abs(np.asarray(read_image(content, bits=12)).astype(int) - COLOURS).max() <= 1


def test_alpha_and_orientation() -> None:
    alpha = np.zeros((9, 7, 1), np.uint16)
    content = tiff(
        np.concatenate([DEEP, alpha], 2), photometric="rgb", extrasamples=["unassalpha"],
        extratags=[(274, "H", 1, 6, True)],
    )  # fmt: skip
    shown = pixels(content)
    assert shown.shape == (7, 9, 3)
    assert (shown == 255).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.float32])
def test_floats(dtype: type) -> None:
    values = (COLOURS[..., 0] / 255).astype(dtype)
    assert (pixels(tiff(values))[..., 0] == COLOURS[..., 0]).all()


def test_signed_bytes_do_not_wrap() -> None:
    values = np.arange(-128, 128, dtype=np.int8).reshape(16, 16)
    assert (pixels(tiff(values))[..., 0].ravel() == np.arange(256)).all()


def test_packed_12_bits() -> None:
    pytest.importorskip("imagecodecs")
    import imagecodecs

    values = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    packed = imagecodecs.packints_encode(values, 12)
    content = tiff(np.zeros((8, 8), np.uint16))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages[0]
        edits = {258: 12, 279: len(packed)}
        changed = bytearray(content)
        for code, value in edits.items():
            tag = page.tags[code]
            changed[tag.valueoffset : tag.valueoffset + 2] = value.to_bytes(2, "little")
        start = page.dataoffsets[0]
    changed[start : start + len(packed)] = packed
    assert (pixels(bytes(changed))[..., 0] == np.rint(values / 4095 * 255)).all()


def test_many_channels() -> None:
    values = np.concatenate([COLOURS, COLOURS[..., :2]], 2)
    content = tiff(np.moveaxis(values, 2, 0), planarconfig="separate")
    with pytest.warns(ImageWarning, match="holds 5 channels, of which the first three"):
        assert (pixels(content) == COLOURS).all()


COLOUR = (200, 60, 30)


@pytest.mark.parametrize("mode", ["YCbCr", "CMYK", "LAB", "RGB", "P"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_colour_spaces_of_pillow(mode: str, compression: str | None) -> None:
    image = Image.new("RGB", (32, 32), COLOUR)
    if mode == "LAB":
        image = Image.new("LAB", (32, 32), (119, 128 + 53, 128 + 46))  # 100 L* / 255, a*, b*
        expected = np.array([193, 70, 42])
    else:
        image = image.convert(mode, palette=Image.Palette.ADAPTIVE)
        expected = np.array(COLOUR)
    shown = pixels(encode(image, "TIFF", compression=compression)).astype(int)
    assert np.abs(shown - expected).max() <= (12 if mode == "LAB" else 3)


@pytest.mark.parametrize("deep", [False, True])
def test_cmyk_by_tifffile(deep: bool) -> None:
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[..., 1], inks[..., 3] = 255, 51  # magenta and a fifth of black
    content = tiff(inks.astype(np.uint16) * 257 if deep else inks, photometric="separated")
    assert (pixels(content) == (204, 0, 204)).all()


def test_palette_of_16_bits() -> None:
    """The colours of a TIFF's palette have 16 bits; the numbers of its pixels have 8."""
    palette = np.zeros((3, 256), np.uint16)
    palette[:, 7] = [51400, 15420, 7710]
    content = tiff(np.full((8, 8), 7, np.uint8), photometric="palette", colormap=palette)
    assert (pixels(content) == (200, 60, 30)).all()


def test_pixels_of_16_bits_with_a_palette() -> None:
    palette = np.zeros((3, 65536), np.uint16)
    palette[:, 700] = [51400, 15420, 7710]
    content = tiff(np.full((8, 8), 700, np.uint16), photometric="palette", colormap=palette)
    assert (pixels(content) == (200, 60, 30)).all()


def test_cut_short() -> None:
    content = tiff(DEEP, photometric="rgb")
    for kept in (len(content) - 30, len(content) // 2):
        with pytest.raises(ImageReadError, match="cut short"):
            read_image(content[:kept])


PAGES = [Image.new("L", (6, 5), level) for level in (10, 120, 240)]


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP"])
def test_pages(kind: str, tmp_path: Path) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    path = tmp_path / f"shot#1.{kind.lower()}"
    path.write_bytes(encode(PAGES[0], kind, save_all=True, append_images=PAGES[1:], **options))
    with pytest.warns(ImageWarning, match=r"holds several .*#page=1"):
        assert read_image(path).getpixel((0, 0)) == (10,) * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, page in enumerate(PAGES):
            assert read_image(f"{path}#page={number}").getpixel((0, 0)) == (page.getpixel((0, 0)),) * 3
    with pytest.raises(ImageReadError, match="holds 3 pages, counted from 0; there is no page 3"):
        read_image(f"{path}#page=3")
    with pytest.raises(ImageReadError, match="expected page=NUMBER"):
        read_image(f"{path}#seite=3")


def test_deep_pages_and_ome(tmp_path: Path) -> None:
    path = tmp_path / "cells.ome.tif"
    tifffile.imwrite(path, np.stack([DEEP, DEEP[::-1]]), photometric="rgb", metadata={"axes": "TYXS"})
    with pytest.warns(ImageWarning, match="several pages"):
        assert (pixels(path) == COLOURS).all()
    assert (pixels(f"{path}#page=1") == COLOURS[::-1]).all()

"""Reading images: formats, orientation, input kinds, limits, threads, preprocessing."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps

from helpers.image_bytes import encode, grey, pixels
from zsad.errors import ConfigError
from zsad.images.preparing import Preparation, prepare, to_array
from zsad.images.reading import read_image

GOLDEN = Path(__file__).parents[1] / "golden" / "preprocess.npz"
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
COLOURS = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)


# ---- formats, frames, orientation ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}),
        ("TIFF", {"compression": "tiff_deflate"}), ("WEBP", {"lossless": True}),
        ("JPEG2000", {"irreversible": False}),
    ],
)  # fmt: skip
def test_lossless_formats(kind: str, options: dict[str, object]) -> None:
    assert np.array_equal(pixels(encode(Image.fromarray(COLOURS), kind, **options)), COLOURS)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats(kind: str) -> None:
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[:, None, None], (1, 64, 3))
    assert np.abs(pixels(encode(Image.fromarray(smooth), kind, quality=95)).astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_frame_of_several(kind: str) -> None:
    red, blue = Image.new("RGB", (9, 5), (255, 0, 0)), Image.new("RGB", (9, 5), (0, 0, 255))
    options = {"lossless": True} if kind == "WEBP" else {}
    stored = encode(red, kind, save_all=True, append_images=[blue], **options)
    assert np.array_equal(pixels(stored), np.asarray(red))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    image = Image.fromarray(COLOURS)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    stored = encode(image, kind, exif=exif, **options)
    tagged = image.copy()
    tagged.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(tagged))
    assert np.array_equal(pixels(stored), upright)
    assert np.array_equal(pixels(Image.open(io.BytesIO(stored))), upright)
    assert upright.shape == ((13, 17, 3) if orientation <= 4 else (17, 13, 3))


def test_rotated_telephone_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera's top is the image's right
    halves = np.zeros((16, 32, 3), np.uint8)
    halves[:, :16] = 255
    result = pixels(encode(Image.fromarray(halves), "JPEG", exif=exif, quality=100))
    assert result.shape == (32, 16, 3)
    assert result[:14].min() > 240
    assert result[18:].max() < 15


@pytest.mark.parametrize(
    "block",
    [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02"],
)
def test_damaged_exif_does_not_lose_the_image(block: bytes) -> None:
    stored = encode(Image.fromarray(COLOURS), "JPEG")
    with_block = stored[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + stored[2:]
    assert pixels(with_block).shape == (13, 17, 3)


# ---- input kinds ---------------------------------------------------------------------------------


def every_kind(array: np.ndarray, folder: Path) -> dict[str, object]:
    """Returns one RGB image in every form that `read_image` takes."""
    image = Image.fromarray(array)
    path = folder / "image.png"
    image.save(path)
    chw = np.ascontiguousarray(array.transpose(2, 0, 1))
    return {
        "str": str(path),
        "Path": path,
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "memoryview": memoryview(path.read_bytes()),
        "file object": io.BytesIO(path.read_bytes()),
        "PIL": image,
        "PIL file": Image.open(path),
        "uint8": array,
        "uint8 strided": np.repeat(array, 2, axis=1)[:, ::2],
        "uint8 read-only": np.frombuffer(array.tobytes(), np.uint8).reshape(array.shape),
        "uint8 with opaque alpha": np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]),
        "uint16": array.astype(np.uint16) * 257,
        "float64": chw / 255,
        "float32": chw.astype(np.float32) / 255,
        "float16": (chw / 255).astype(np.float16),
        "tensor": torch.from_numpy(chw) / 255,
        "tensor float64": torch.from_numpy(chw).double() / 255,
        "tensor half": (torch.from_numpy(chw) / 255).half(),
        "tensor with gradient": (torch.from_numpy(chw) / 255).requires_grad_(),
        "tensor strided": (torch.from_numpy(array) / 255).permute(2, 0, 1),
        "tensor uint8": torch.from_numpy(chw),
    }


def test_every_kind_of_input_gives_identical_pixels(tmp_path: Path) -> None:
    everything = np.arange(256 * 3, dtype=np.uint32).reshape(16, 16, 3).astype(np.uint8)  # every level
    for name, source in every_kind(everything, tmp_path).items():
        assert np.array_equal(pixels(source), everything), name


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 2, 3, 4]))))
def test_file_image_array_and_tensor_agree(array: np.ndarray) -> None:
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    chw = array.transpose(2, 0, 1)
    expected = pixels(array)
    for source in (encode(image, "PNG"), image, torch.tensor(chw) / 255, chw.astype(np.float32) / 255):
        assert np.array_equal(pixels(source), expected)


def test_grey_arrays() -> None:
    level = COLOURS[..., 0]
    for source in (level, level[..., None], level / 255, level[None] / 255, torch.tensor(level)[None] / 255):
        assert np.array_equal(pixels(source), grey(level))


def test_tiny_overshoot_of_resampled_floats_is_clipped() -> None:
    assert np.array_equal(pixels(np.array([[-0.001, 1.001]])), grey([[0, 255]]))


def test_source_stays_as_it_was(tmp_path: Path) -> None:
    array = COLOURS.copy()
    result = read_image(array)
    result.paste((0, 0, 0), (0, 0, 17, 13))
    assert np.array_equal(array, COLOURS)
    image = Image.fromarray(COLOURS)
    read_image(image).paste((0, 0, 0), (0, 0, 17, 13))
    assert np.array_equal(np.asarray(image), COLOURS)
    stream = io.BytesIO(encode(image, "PNG"))
    stream.seek(0, io.SEEK_END)  # the position after saving into it
    assert np.array_equal(pixels(stream), COLOURS)
    assert not stream.closed
    to_array(result)[:] = 1  # writable, and a copy
    assert np.asarray(result).max() == 0


def test_open_file_and_pipe_like_object(tmp_path: Path) -> None:
    path = tmp_path / "image.bin"
    path.write_bytes(encode(Image.fromarray(COLOURS), "PNG"))
    with path.open("rb") as stream:
        assert np.array_equal(pixels(stream), COLOURS)

    class Pipe(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return path.read_bytes()

    assert np.array_equal(pixels(Pipe()), COLOURS)


def test_other_kinds_of_path(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(encode(Image.fromarray(COLOURS), "PNG"))
    with os.scandir(os.fsencode(tmp_path)) as entries:
        assert np.array_equal(pixels(next(entries)), COLOURS)  # a path-like that holds bytes
    assert np.array_equal(pixels(np.str_(tmp_path / "image.png")), COLOURS)


def test_one_pixel_and_one_line() -> None:
    for shape in ((1, 1), (1, 5000), (5000, 1)):
        level = np.full((*shape, 3), 77, np.uint8)
        assert np.array_equal(pixels(level), level)
        assert np.array_equal(pixels(encode(Image.fromarray(level), "PNG")), level)
        prepared = prepare(read_image(level), Preparation(32, MEAN, STD))
        expected = np.broadcast_to(((77 / 255 - np.array(MEAN)) / STD)[:, None, None], (3, 32, 32))
        np.testing.assert_allclose(prepared, expected, atol=1e-6)


# ---- limit, warnings, threads --------------------------------------------------------------------


def test_limit_is_argument_then_environment_then_default(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = encode(Image.fromarray(COLOURS), "PNG")
    monkeypatch.setenv("ZSAD_MAX_PIXELS", "100")
    with pytest.raises(
        ValueError, match=r"13 = 221 pixels are more than the limit of 100.*ZSAD_MAX_PIXELS=221"
    ):
        read_image(stored)
    assert read_image(stored, max_pixels=221).size == (17, 13)
    monkeypatch.setenv("ZSAD_MAX_PIXELS", "1e9")
    with pytest.raises(ConfigError, match="ZSAD_MAX_PIXELS must be a whole number"):
        read_image(stored)
    with pytest.raises(ConfigError, match="max_pixels must be"):
        read_image(stored, max_pixels=0)


def test_limit_above_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    for kind in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        stored = encode(Image.fromarray(COLOURS), kind, **options)
        assert np.array_equal(pixels(stored), COLOURS)
        assert Image.MAX_IMAGE_PIXELS == 50


@pytest.mark.parametrize("workers", [1, 8])
def test_no_warning_leaks_and_filters_come_back(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = encode(Image.fromarray(COLOURS), "TIFF")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(stored))
    results: list[np.ndarray] = []

    def work() -> None:
        results.extend(pixels(stored) for _ in range(30))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        threads = [threading.Thread(target=work) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(warnings.filters) == before
    assert not caught
    assert len(results) == 30 * workers


def test_threads_read_the_same_file_alike(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(encode(Image.fromarray(COLOURS).resize((300, 200)), "JPEG"))
    expected = pixels(path)
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(pixels(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(np.array_equal(result, expected) for result in results)


def test_reading_needs_no_torch() -> None:
    code = "import sys; from zsad.images.reading import np, read_image; read_image(np.ones((2, 2), 'u1'))"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- preprocessing -------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1])
def test_prepare_equals_the_published_preprocessing(index: int) -> None:
    golden = np.load(GOLDEN)
    image = read_image(golden[f"raw_{index}"])
    result = prepare(image, Preparation(70, MEAN, STD))
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    # Made with Pillow 13, which resizes the higher image top to bottom first; rounding lies in between.
    tolerance = 1e-6 if int(PIL.__version__.split(".")[0]) >= 13 else 2.01 / 255 / min(STD)
    np.testing.assert_allclose(result, golden[f"anomalyclip.image_{index}"], rtol=0, atol=tolerance)


def test_prepare_greyscale_equals_the_published_preprocessing() -> None:
    golden = np.load(GOLDEN)
    level = Image.fromarray(golden["raw_0"][..., 0])
    result = prepare(read_image(level), Preparation(70, MEAN, STD))
    np.testing.assert_allclose(result, golden["anomalyclip.image_grey_0"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "mean", "std"),
    [
        (0, MEAN, STD),
        (-5, MEAN, STD),
        (2.5, MEAN, STD),
        (True, MEAN, STD),
        (8, (0.5,), STD),
        (8, MEAN, (1, 0, 1)),
    ],
)
def test_a_preparation_refuses(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"image size must be|mean and std must be"):
        Preparation(size, mean, std)

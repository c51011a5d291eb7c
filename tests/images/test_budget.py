"""Small files that would take very much memory or time are refused from their header."""

from __future__ import annotations

import gzip
import io
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.image_bytes import encode, pixels
from zsad.errors import ConfigError, ImageReadError
from zsad.images.limits import Reading, in_turn
from zsad.images.reading import read_image


def jpeg_of_size(width: int, height: int, **options: object) -> bytes:
    """A small JPEG whose header states other sizes."""
    content = bytearray(encode(Image.new("RGB", (64, 64), (9, 99, 200)), "JPEG", **options))
    place = content.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(content)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_too_short_for_its_pixels(progressive: bool) -> None:
    with pytest.raises(ImageReadError, match=r"cut short|takes about"):
        read_image(jpeg_of_size(14000, 14000, progressive=progressive))


def test_jpeg_of_many_scans() -> None:
    content = encode(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    place = content.rindex(b"\xff\xda")
    with pytest.raises(ImageReadError, match=r"JPEG of .* scans, expected at most 100"):
        read_image(content[:place] + content[place:-2] * 3000 + content[-2:])


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    )


def test_very_narrow_image() -> None:
    with pytest.raises(ImageReadError, match=r"bytes of memory.*ZSAD_MAX_BYTES=\d+ or max_bytes=\d+"):
        read_image(png_header(1, 200_000_000))


def test_limit_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    image = encode(Image.new("RGB", (100, 100)), "PNG")
    with pytest.raises(ImageReadError, match="more than the limit of 1000"):
        read_image(image, max_bytes=1000)
    monkeypatch.setenv("ZSAD_MAX_BYTES", "1000")
    with pytest.raises(ImageReadError, match="more than the limit of 1000"):
        read_image(image)
    assert read_image(image, max_bytes=200_000).size == (100, 100)
    with pytest.raises(ConfigError, match="max_bytes must be a whole number of bytes"):
        read_image(image, max_bytes=0)


@pytest.mark.parametrize("largest", [1, 17, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", [5, 6])
def test_netpbm(kind: int, largest: int) -> None:
    shape = (6, 5) if kind == 5 else (6, 5, 3)
    values = np.random.default_rng(0).integers(0, largest + 1, shape)
    body = values.astype("u1" if largest < 256 else ">u2").tobytes()
    shown = pixels(b"P%d 5 6 %d\n" % (kind, largest) + body)
    wanted = values if kind == 6 else values[..., None]
    assert np.abs(shown - wanted / largest * 255).max() <= (0.51 if kind == 5 or largest < 65535 else 1)
    if largest != 255:
        with pytest.raises(ImageReadError, match="cut short"):
            read_image(b"P%d 5 6 %d\n" % (kind, largest) + body[:-1])


def test_netpbm_is_fast() -> None:
    started = time.perf_counter()
    read_image(b"P5 3000 3000 17\n" + bytes(9_000_000))
    assert time.perf_counter() - started < 3


def test_deflated_dicom_that_inflates_to_very_much() -> None:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.Rows = dataset.Columns = 1000
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = bytes(20_000_000)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    assert len(stream.getvalue()) < 50_000
    with pytest.raises(ImageReadError, match="max_bytes=") as caught:
        read_image(stream.getvalue(), max_bytes=30_000_000)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("shape", [(584, 584, 584), (60, 60, 60, 20000)])
def test_volume_of_very_many_voxels(shape: tuple[int, ...], tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape(shape)
    path = tmp_path / "volume.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(1000)))
    started = time.perf_counter()
    with pytest.raises(ImageReadError, match=r"cut short or damaged: .* bytes cannot hold"):
        read_image(f"{path}#slice=3,volume=0" if len(shape) == 4 else path)
    assert time.perf_counter() - started < 3


def test_large_images_are_decoded_in_turn() -> None:
    """Threads that read ahead share the limit: of the large images, one at a time is decoded."""
    reading, at_once, most = Reading(max_bytes=800), 0, 0

    def decode(needed: int) -> None:
        nonlocal at_once, most
        with in_turn(needed, reading):
            at_once += 1
            most = max(most, at_once)
            time.sleep(0.05)
            at_once -= 1

    for needed, expected in ((101, 1), (10, 4)):
        most = 0
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(decode, [needed] * 4))
        assert most == expected


def test_text_pgm_is_fast() -> None:
    values = np.random.default_rng(0).integers(0, 200, (2000, 2500))
    content = b"P2 # made by hand\n2500 2000\n199\n" + " ".join(map(str, values.ravel())).encode()
    started = time.perf_counter()
    shown = np.asarray(read_image(content))[..., 0]
    assert time.perf_counter() - started < 5
    assert np.abs(shown - values / 199 * 255).max() <= 1
    bits = b"P1\n# a comment\n3 2\n1 0 1\n010\n"
    assert (np.asarray(read_image(bits))[..., 0] == [[0, 255, 0], [255, 0, 255]]).all()
    for damaged in (b"P2 3 2 255\n1 2 3", b"P1 3 2\n10", b"P2 2 1 255\n-1 4", b"P1 2 1\n1 7"):
        with pytest.raises(ImageReadError):
            read_image(damaged)

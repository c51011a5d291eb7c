"""Small files that ask for much are refused or read rightly, in little memory and within seconds."""

from __future__ import annotations

import functools
import gzip
import io
import struct
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from helpers.image_bytes import encode
from zsad.data.masks import read_mask
from zsad.errors import ImageReadError
from zsad.images.decoding import file_bytes
from zsad.images.reading import read_image

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs limits of resources")

MOST_BYTES = 1_500_000_000
MOST_SECONDS = 10  # of processor time, which a busy machine does not change

CHILD = textwrap.dedent(
    """
    import resource, sys
    limits = [int(text) for text in sys.argv[2:]]
    resource.setrlimit(resource.RLIMIT_AS, (limits[0],) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (limits[1],) * 2)
    from zsad.errors import ImageReadError
    from zsad.images.reading import read_image
    try:
        print("read", *read_image(sys.argv[1]).size)
    except ImageReadError as error:
        print("refused", error)
    """
)


def jpeg_of_size(width: int, height: int, padding: bytes = b"", **options: object) -> bytes:
    """A small JPEG whose header states another size."""
    content = bytearray(encode(Image.new("RGB", (64, 64), (9, 99, 200)), "JPEG", **options))
    place = content.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(content) + padding


def jpeg_of_scans(number: int) -> bytes:
    content = encode(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True)
    place = content.rindex(b"\xff\xda")
    return content[:place] + content[place:-2] * number + content[-2:]


def png_of_size(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compressobj()
    body = b"".join(rows.compress(bytes(height * (width + 1) // 100)) for _ in range(100)) + rows.flush()
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    )


def jpeg2000_of_size(side: int, mode: str) -> bytes:
    """A JPEG 2000 whose header states another size, with one tile that is as large."""
    if not features.check("jpg_2000"):
        pytest.skip("Pillow without JPEG 2000")
    content = bytearray(encode(Image.new(mode, (64, 64), 9), "JPEG2000"))
    place = content.index(b"\xff\x4f\xff\x51") + 8  # SIZ: sizes of image and tile
    content[place : place + 8] = struct.pack(">II", side, side)
    content[place + 16 : place + 24] = struct.pack(">II", side, side)
    box = content.index(b"ihdr")
    content[box + 4 : box + 12] = struct.pack(">II", side, side)
    return bytes(content)


def dicom(rows: int, pixels: bytes, syntax: str = "1.2.840.10008.1.2.1", frames: int | None = None) -> bytes:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.Rows = dataset.Columns = rows
    if frames:
        dataset.NumberOfFrames = frames
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    if pydicom.uid.UID(syntax).is_encapsulated:
        pixels = pydicom.encaps.encapsulate([pixels])
    dataset.PixelData = pixels
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@functools.cache
def deflated(megabytes: int) -> bytes:
    """A deflated DICOM of zeros, made without holding them."""
    whole = dicom(1000, bytes(1_000_000), "1.2.840.10008.1.2.1.99")
    start = 144 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    plain = zlib.decompress(whole[start:], wbits=-zlib.MAX_WBITS)[:-1_000_000]
    plain = plain[:-4] + struct.pack("<I", megabytes * 10**6)  # length of the pixels
    parts = [packer.compress(plain), *(packer.compress(bytes(10**6)) for _ in range(megabytes))]
    return whole[:start] + b"".join(parts) + packer.flush()


def without_length_of_group(content: bytes) -> bytes:
    return content[:140] + (2**31).to_bytes(4, "little") + content[144:]


def nifti(shape: tuple[int, ...], dtype: type | str, body: int = 1000) -> bytes:
    """A compressed volume of zeros; `body` bytes of them are there."""
    nibabel = pytest.importorskip("nibabel")
    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1) as packed:
        packed.write(header.binaryblock + bytes(4))
        for _ in range(body // 10**6):
            packed.write(bytes(10**6))
        packed.write(bytes(body % 10**6))
    return stream.getvalue()


JPEG_IN_DICOM = "1.2.840.10008.1.2.4.50"  # transfer syntax
CUT_SHORT, LIMIT = "cut short", "ZSAD_MAX_BYTES"
BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "jpeg": ("a.jpg", lambda: jpeg_of_size(14000, 14000), CUT_SHORT),
    "progressive jpeg": ("a.JPG", lambda: jpeg_of_size(14000, 14000, progressive=True), CUT_SHORT),
    "padded progressive jpeg": (
        "a.jpeg", lambda: jpeg_of_size(14000, 14000, bytes(10**6), progressive=True), LIMIT
    ),
    "scans": ("a.jpg", lambda: jpeg_of_scans(3000), "scans"),
    "narrow png": ("a.png", lambda: png_of_size(1, 200_000_000), LIMIT),
    "jpeg 2000": ("a.jp2", lambda: jpeg2000_of_size(12000, "L"), "read 12000 12000"),
    "coloured jpeg 2000": ("a.jp2", lambda: jpeg2000_of_size(12000, "RGB"), LIMIT),
    "pgm": ("a.pgm", lambda: b"P5 10000 5000 17\n" + bytes(50_000_000), "read 10000 5000"),
    "deflated dicom": ("a.dcm", lambda: deflated(1000), LIMIT),
    "deflated dicom without a suffix": ("IM0001", lambda: deflated(1000), LIMIT),
    "deflated dicom of a wrong length": ("a.dcm", lambda: without_length_of_group(deflated(1000)), LIMIT),
    "dicom of a large frame": (
        "a.dcm", lambda: dicom(64, jpeg_of_size(13000, 13000), JPEG_IN_DICOM), "header states 64 x 64"
    ),
    "dicom of a frame cut short": (
        "a.dcm", lambda: dicom(7000, jpeg_of_size(7000, 7000), JPEG_IN_DICOM), CUT_SHORT
    ),
    "large dicom": ("a.dcm", lambda: dicom(12000, bytes(1000)), LIMIT),
    "dicom of many frames": ("a.dcm", lambda: dicom(64, bytes(4096), frames=10**9), "frames"),
    "nifti without voxels": ("a.nii.gz", lambda: nifti((584, 584, 584), np.float64), CUT_SHORT),
    "four axes without voxels": ("a.nii.gz", lambda: nifti((60, 60, 60, 20000), np.int16), CUT_SHORT),
    "nifti": ("A.NII.GZ", lambda: nifti((584,) * 3, np.float64) + bytes(2 * 10**6), LIMIT),
    "nifti of four axes": ("a.nii.gz", lambda: nifti((300, 300, 300, 70), "u1") + bytes(2 * 10**6), LIMIT),
    "nifti of bytes": ("a.nii.gz", lambda: nifti((584,) * 3, np.uint8, 584**3), "read 584 584"),
    "nifti not compressed": (
        "a.nii", lambda: gzip.decompress(nifti((584, 584, 584), np.uint8)), CUT_SHORT
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bomb(name: str, tmp_path: Path) -> None:
    file, make, expected = BOMBS[name]
    path = tmp_path / file
    path.write_bytes(make())
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(path), str(MOST_BYTES), str(MOST_SECONDS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-500:]
    assert expected in found.stdout
    assert found.stdout.count("\n") == 1
    assert found.stderr == ""


def test_the_limit_is_raised_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom(100, bytes(10_000)))
    with pytest.raises(ImageReadError, match=r"ZSAD_MAX_BYTES=\d+ or max_bytes=\d+"):
        read_image(path, max_bytes=200_000)
    monkeypatch.setenv("ZSAD_MAX_BYTES", "200000")
    with pytest.raises(ImageReadError, match="limit of 200000"):
        read_image(path)
    monkeypatch.setenv("ZSAD_MAX_BYTES", "300000")
    assert read_image(path).size == (100, 100)


def test_masks_have_the_same_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSAD_MAX_BYTES", "200000")
    Image.new("L", (300, 300)).save(tmp_path / "a.png")
    (tmp_path / "a.dcm").write_bytes(dicom(100, bytes(10_000)))
    (tmp_path / "a.nii.gz").write_bytes(nifti((60, 60, 60), np.uint8, 60**3))
    for name in ("a.png", "a.dcm", "a.nii.gz"):
        with pytest.raises(ImageReadError, match=f"{name}: .*limit of 200000"):
            read_mask(tmp_path / name)


def test_estimates_before_reading_ahead(tmp_path: Path) -> None:
    """Depth, samples and alpha count, and so do pages and formats that Pillow does not know."""
    Image.new("L", (100, 100)).save(tmp_path / "grey.png")
    Image.new("RGBA", (100, 100)).save(tmp_path / "alpha.png")
    Image.new("L", (100, 100)).save(tmp_path / "a.tif")
    (tmp_path / "a.dcm").write_bytes(dicom(100, bytes(10_000)))
    (tmp_path / "deflated.dcm").write_bytes(dicom(100, bytes(10_000), "1.2.840.10008.1.2.1.99"))
    (tmp_path / "a.nii.gz").write_bytes(nifti((100, 100, 10), np.float32))
    (tmp_path / "damaged.dcm").write_bytes(bytes(128) + b"DICM" + bytes(99))
    sizes = {path.name: file_bytes(path) for path in tmp_path.iterdir()}
    assert sizes["grey.png"] > 50_000
    assert sizes["alpha.png"] > 2 * sizes["grey.png"]
    assert sizes["a.dcm"] > 240_000
    assert sizes["deflated.dcm"] > 240_000
    assert sizes["a.nii.gz"] > 800_000
    assert sizes["damaged.dcm"] == 0
    assert file_bytes(f"{tmp_path}/a.nii.gz#slice=3") == sizes["a.nii.gz"]
    assert file_bytes(f"{tmp_path}/a.tif#page=0") == sizes["a.tif"] > 0
    assert file_bytes(tmp_path / "none.png") == 0

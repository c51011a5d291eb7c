"""Refuses images whose decoding would take much more memory or time than their size suggests."""

from __future__ import annotations

import io
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from PIL import Image

from zsad.errors import ImageReadError
from zsad.images.limits import Reading, check_bytes

_LARGE_IMAGE = threading.RLock()
_ROW = 16  # bytes that Pillow takes for each row besides its pixels
_RGB_PIXEL = 4  # bytes of an RGB pixel in Pillow
_MOST_SCANS = 100  # of a progressive JPEG; usual ones have about ten, and each takes a pass over all pixels
_BLOCK = 64  # pixels that share at least one bit of a JPEG file
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_PREFIX = 144  # bytes of a DICOM file before the group that names the transfer syntax


@contextmanager
def in_turn(needed: int, reading: Reading) -> Iterator[None]:
    """Lets threads that read ahead decode only one large image at a time, so that they share the limit.

    Args:
        needed: memory in bytes that decoding takes.
        reading: limits; an image is large that takes more than an eighth of the memory.
    """
    if 8 * needed <= reading.max_bytes:
        yield
        return
    with _LARGE_IMAGE:
        yield


def check_decoding(image: Image.Image, reading: Reading) -> int:
    """Refuses a Pillow image, loaded or not, whose conversion to RGB would take too much memory.

    Returns:
        The memory in bytes that it takes, as estimated from size, mode and format.

    Raises:
        ImageReadError: the estimate from size, mode and format exceeds the limit.
    """
    width, height = image.size
    pixel = {"1": 1, "L": 1, "P": 1, "LA": 4, "PA": 4}.get(
        image.mode, 2 if image.mode.startswith("I;") else 4
    )
    needed = height * (2 * _ROW + max(4, width * pixel) + max(4, width * _RGB_PIXEL))
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        needed += 3 * pixel * width * height  # arrays between values and levels
    if image.has_transparency_data:
        needed += 2 * height * (_ROW + _RGB_PIXEL * width)  # background and colours without alpha
    if image.format == "JPEG2000":
        needed += 4 * len(image.getbands()) * width * height  # 32-bit numbers of each band
    if image.info.get("progressive"):
        needed += 2 * len(image.getbands()) * width * height  # 16-bit coefficients of the whole image
    check_bytes(needed, reading)
    return needed


def check_jpeg(image: Image.Image, stream: IO[bytes]) -> None:
    """Refuses a JPEG file that is too short for its pixels, or that has very many passes over them.

    Args:
        image: image whose header has been read.
        stream: seekable stream of the whole file; its place does not change.

    Raises:
        ImageReadError: the rest of the image would be grey, or decoding would take very long.
    """
    place = stream.tell()
    stream.seek(0)
    content = stream.read()
    stream.seek(place)
    if 8 * len(content) < image.width * image.height // _BLOCK:
        raise ImageReadError(
            f"cut short: {len(content)} bytes cannot hold {image.width} x {image.height} pixels; copy or "
            "save it again"
        )
    scans = content.count(b"\xff\xda")
    if scans > _MOST_SCANS:
        raise ImageReadError(
            f"a JPEG of {scans} scans, expected at most {_MOST_SCANS}, because each takes a pass over all "
            "pixels; save it again"
        )


def check_deflated(content: bytes, reading: Reading) -> None:
    """Refuses a deflated DICOM file that would inflate to more than the memory limit.

    Args:
        content: the whole file, whose first 132 bytes are those of DICOM.
        reading: limits.

    Raises:
        ImageReadError: the inflated data set, of which pydicom takes two copies, exceeds the limit.
    """
    if _DEFLATED not in content[:4096]:
        return
    start = _PREFIX + int.from_bytes(content[_PREFIX - 4 : _PREFIX], "little")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    rest, size = io.BytesIO(content[start:]), 0
    waiting = rest.read(1 << 16)
    while waiting and 2 * size <= reading.max_bytes:
        size += len(inflater.decompress(waiting, 1 << 24))
        waiting = inflater.unconsumed_tail or rest.read(1 << 16)
    check_bytes(2 * size, reading)

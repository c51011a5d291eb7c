"""Refuses images whose decoding would take much more memory or time than their size suggests."""

from __future__ import annotations

import io
import zlib
from typing import IO

from PIL import Image

from zsad.errors import ImageReadError
from zsad.images.limits import Reading, check_bytes, check_size

# Only formats that are decoded inside this process; EPS, for example, would start Ghostscript on the file.
_FORMATS = frozenset(
    {"PNG", "JPEG", "MPO", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF", "QOI"}
)
_ROW = 16  # bytes that Pillow takes for each row besides its pixels
_RGB_PIXEL = 4  # bytes of an RGB pixel in Pillow
_MOST_SCANS = 100  # of a progressive JPEG; usual ones have about ten, and each takes a pass over all pixels
_BLOCK = 64  # pixels that share at least one bit of a JPEG file
_PIECE, _MOST_INFLATED = 1 << 16, 1 << 24  # bytes of a deflate stream that are taken and made at a time


def pillow_formats() -> list[str]:
    """Names the formats that zsad lets Pillow read and for which a decoder is installed."""
    Image.init()
    return sorted(_FORMATS.intersection(Image.OPEN))


def check_header(image: Image.Image, stream: IO[bytes], reading: Reading) -> None:
    """Refuses an image that would take too much memory or time, before it is decoded.

    Args:
        image: image whose header has been read.
        stream: seekable stream of the whole file; its place does not change.
        reading: limits.

    Raises:
        ImageReadError: the image has too many pixels, takes too much memory, or is a JPEG that is cut short
            or has very many scans.
    """
    check_size(*image.size, reading)
    if image.format in ("JPEG", "MPO"):
        check_jpeg(image, stream)
    check_decoding(image, reading)


def check_decoding(image: Image.Image, reading: Reading) -> int:
    """Refuses a Pillow image whose conversion to RGB would take too much memory.

    Returns:
        The memory in bytes that it takes, as `decoding_bytes` estimates.

    Raises:
        ImageReadError: the estimate exceeds the limit.
    """
    needed = decoding_bytes(image)
    check_bytes(needed, reading)
    return needed


def decoding_bytes(image: Image.Image) -> int:
    """Estimates the memory in bytes that converting a Pillow image to RGB takes, loaded or not.

    Size, mode and format count, which the header of a file tells.
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


def inflated_size(content: bytes, most: int) -> int:
    """Measures what a raw deflate stream inflates to, in a few megabytes of memory.

    Args:
        content: the stream; what follows its end does not count.
        most: number of bytes after which measuring ends.

    Returns:
        Number of inflated bytes; a number above `most` if there are more.

    Raises:
        zlib.error: the stream is damaged.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    rest, size = io.BytesIO(content), 0
    waiting = rest.read(_PIECE)
    while waiting and size <= most:
        size += len(inflater.decompress(waiting, _MOST_INFLATED))
        waiting = inflater.unconsumed_tail or rest.read(_PIECE)
    return size

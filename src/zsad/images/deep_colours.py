"""Keeps the depth of colour PNG and JPEG 2000 files of more than 8 bits, of which Pillow keeps 8.

Pillow 13 also wraps white to black in JPEG 2000 of 12 bits, because it rounds up beyond 255.
"""

from __future__ import annotations

import importlib
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.errors import ImageReadError, MissingExtraError
from zsad.images.depth import CONTAINER, eight_bits, shown_bits, shown_levels
from zsad.images.limits import Reading, check_bytes

_DEPTH, _COLOUR_TYPE = 24, 25  # places in a PNG file
_COLOURS = (2, 6)  # RGB, and RGB with alpha
_SIZE_MARKER, _PRECISION = b"\xff\x4f\xff\x51", 42  # of JPEG 2000, and the place of the precision behind it
_DECODERS = {"PNG": "png_decode", "JPEG2000": "jpeg2k_decode"}


def jpeg2000_bits(content: bytes) -> int:
    """Returns the depth in bits that a JPEG 2000 file states, 8 if it states none; takes its first bytes."""
    place = content.find(_SIZE_MARKER) + _PRECISION
    found = content[place : place + 1] if place >= _PRECISION else b""
    return (found[0] & 0x7F) + 1 if found else 8


def colour_bits(image: Image.Image, start: bytes) -> int:
    """Returns the depth that a colour PNG or JPEG 2000 file states, 8 for every other file.

    Args:
        image: image whose header has been read.
        start: first 4096 bytes of the file.
    """
    if image.format == "PNG" and start[_COLOUR_TYPE] in _COLOURS:
        return start[_DEPTH]
    if image.format == "JPEG2000" and image.mode in ("RGB", "RGBA"):
        return min(jpeg2000_bits(start), CONTAINER)
    return 8


def read_deep(stream: IO[bytes], image: Image.Image, stated: int, reading: Reading) -> NDArray[np.uint8]:
    """Decodes a colour image at the depth that `reading` wishes.

    Args:
        stream: seekable stream of the whole file.
        image: image whose header has been read, and whose size has been checked.
        stated: depth that the file states, 9 to 16 bits.
        reading: limits and depth of the values.

    Returns:
        (H, W, 3) or, with alpha, (H, W, 4) levels.

    Raises:
        ImageReadError: imagecodecs is not installed, or the image would take too much memory.
    """
    check_bytes(40 * image.width * image.height, reading)  # values, levels and Pillow's copies
    try:
        imagecodecs = importlib.import_module("imagecodecs")
    except ImportError as error:
        missing = MissingExtraError("imagecodecs", "tiff", "the depth of colour files of 16 bits")
        raise ImageReadError(str(missing)) from error
    stream.seek(0)
    values = getattr(imagecodecs, _DECODERS[str(image.format)])(stream.read())
    levels = shown_levels(values, stated, reading)
    if levels.shape[2] == 4:
        levels[..., 3] = eight_bits(values[..., 3], stated)  # alpha has the depth of the file
    return levels


def note_depth(shown: Image.Image, stated: int, reading: Reading) -> None:
    """Notes that an image is dark, of which Pillow has kept the upper 8 bits of `stated`."""
    lost = 2 ** (stated - 8)
    shown_bits(lost * int(np.asarray(shown).max()) + lost - 1, stated, reading)

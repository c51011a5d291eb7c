"""Keeps the depth of colour PNG files of 16 bits, of which Pillow drops the lower half."""

from __future__ import annotations

import importlib
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.errors import ImageReadError, MissingExtraError
from zsad.images.depth import CONTAINER, shown_bits
from zsad.images.limits import Reading, check_bytes

_DEPTH, _COLOUR_TYPE = 24, 25  # places in the file
_COLOURS = (2, 6)  # RGB, and RGB with alpha


def is_deep_png(start: bytes) -> bool:
    """Whether a file begins like a colour PNG of 16 bits; takes its first 26 bytes or more."""
    return start.startswith(b"\x89PNG") and start[_DEPTH] == CONTAINER and start[_COLOUR_TYPE] in _COLOURS


def read_deep_png(stream: IO[bytes], size: tuple[int, int], reading: Reading) -> NDArray[np.uint16]:
    """Decodes a colour PNG of 16 bits at the depth that `reading` wishes.

    Args:
        stream: seekable stream of the whole file.
        size: width and height in pixels, which have been checked.
        reading: limits and depth; its depth is not None.

    Returns:
        (H, W, 3) or (H, W, 4) uint16.

    Raises:
        ImageReadError: imagecodecs is not installed, or the image would take too much memory.
    """
    check_bytes(40 * size[0] * size[1], reading)  # values, levels and Pillow's copies
    try:
        imagecodecs = importlib.import_module("imagecodecs")
    except ImportError as error:
        missing = MissingExtraError("imagecodecs", "tiff", "the depth of colour PNG files of 16 bits")
        raise ImageReadError(str(missing)) from error
    stream.seek(0)
    pixels: NDArray[np.uint16] = imagecodecs.png_decode(stream.read())
    return pixels


def note_depth(shown: Image.Image, reading: Reading) -> None:
    """Notes that an image is dark, whose upper bytes Pillow has kept."""
    shown_bits(256 * int(np.asarray(shown).max()) + 255, CONTAINER, reading)

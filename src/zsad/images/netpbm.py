"""Decodes binary PGM and PPM files of any largest value, of which Pillow takes a microsecond per pixel."""

from __future__ import annotations

import numpy as np
from PIL import Image

from zsad.errors import ImageReadError


def read_netpbm(image: Image.Image) -> Image.Image | None:
    """Decodes the pixels of a binary PGM or PPM file whose largest value is neither 255 nor 65535.

    Args:
        image: image that Pillow has opened and not loaded.

    Returns:
        Image of mode "L" or "RGB", scaled so that the largest value is white; None for every other file.

    Raises:
        ImageReadError: the file is cut short.
    """
    tiles = getattr(image, "tile", None)
    if not tiles or tiles[0][0] != "ppm":
        return None
    _, _, offset, arguments = tiles[0]
    largest = arguments[-1] if isinstance(arguments, tuple) else arguments
    channels = 3 if image.mode == "RGB" else 1
    kind = np.dtype("u1" if largest < 256 else ">u2")
    count = image.width * image.height * channels
    stream = image.fp  # type: ignore[attr-defined] # every image from a file has one
    stream.seek(offset)
    content = stream.read(count * kind.itemsize)
    if len(content) < count * kind.itemsize:
        raise ImageReadError("cut short: its pixels end before the image does; copy or save it again")
    steps = np.minimum(np.arange(2 ** (8 * kind.itemsize)), largest)
    table = ((steps * 510 + largest) // (2 * largest)).astype(np.uint8)
    levels = table[np.frombuffer(content, kind)]
    shape = (image.height, image.width, 3) if channels == 3 else (image.height, image.width)
    return Image.fromarray(levels.reshape(shape))

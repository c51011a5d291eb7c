"""Decodes PGM and PPM files of any largest value, binary or text, of which Pillow is slow or loses depth."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.errors import ImageReadError
from zsad.images.depth import scaled, shown_bits
from zsad.images.limits import Reading, check_bytes

_DEEP = 255  # a larger largest value takes two bytes
_PLAIN, _BLACK_AND_WHITE = "ppm_plain", "1;I"  # Pillow's names of decoder and mode
_CUT_SHORT = "cut short: its pixels end before the image does; copy or save it again"


def read_netpbm(image: Image.Image, reading: Reading) -> Image.Image | None:
    """Decodes the pixels of a PBM, PGM or PPM file that Pillow reads slowly or without its depth.

    Args:
        image: image that Pillow has opened and not loaded, whose size has been checked.
        reading: limits, and depth of values above 255.

    Returns:
        Image of mode "L" or "RGB", in which the largest value that the file states is white, or that of the
        depth of `reading`; None for every other file.

    Raises:
        ImageReadError: the file is cut short, or its text holds something other than numbers.
    """
    tiles = getattr(image, "tile", None)
    if image.format != "PPM" or not tiles or image.mode == "F":
        return None
    decoder, _, offset, arguments = tiles[0]
    stream = image.fp  # type: ignore[attr-defined] # every image from a file has one
    stream.seek(offset)
    mode, largest = arguments if isinstance(arguments, tuple) else (arguments, 65535)
    channels = 3 if image.mode == "RGB" else 1
    count = image.width * image.height * channels
    values: NDArray[Any]
    if mode == _BLACK_AND_WHITE and decoder == _PLAIN:
        values, largest = 1 - _digits(stream.read(), count), 1
    elif decoder == _PLAIN:
        values = _numbers(stream.read(), count, reading)
    elif decoder == "ppm" or mode == "I;16B":
        kind = np.dtype("u1" if largest <= _DEEP else ">u2")
        content = stream.read(count * kind.itemsize)
        if len(content) < count * kind.itemsize:
            raise ImageReadError(_CUT_SHORT)
        values = np.frombuffer(content, kind)
    else:
        return None
    if largest > _DEEP:
        stated = int(largest).bit_length()
        bits = shown_bits(int(values.max()), stated, reading)
        largest = largest if bits == stated else 2**bits - 1
    levels = scaled(values, largest)
    shape = (image.height, image.width, 3) if channels == 3 else (image.height, image.width)
    return Image.fromarray(levels.reshape(shape))


def _numbers(text: bytes, count: int, reading: Reading) -> NDArray[np.uint16]:
    """The numbers of a plain file, in ASCII digits between white space and comments."""
    check_bytes(2 * len(text) + 8 * count, reading)
    found = np.fromstring(_without_comments(text).decode("latin-1"), np.int32, sep=" ")[:count]
    if len(found) < count:
        raise ImageReadError(_CUT_SHORT)
    if found.min() < 0:
        raise ImageReadError("its text holds a number below 0; save it again")
    return found.clip(0, 65535).astype(np.uint16)


def _digits(text: bytes, count: int) -> NDArray[np.uint8]:
    """The digits 0 and 1 of a plain black-and-white file, with or without white space between them."""
    digits = np.frombuffer(_without_comments(text).translate(None, b" \t\r\n\v\f")[:count], np.uint8)
    if len(digits) < count:
        raise ImageReadError(_CUT_SHORT)
    bits: NDArray[np.uint8] = digits - np.uint8(ord("0"))
    if bits.max() > 1:
        raise ImageReadError("its text holds something other than the digits 0 and 1; save it again")
    return bits


def _without_comments(text: bytes) -> bytes:
    return re.sub(rb"#[^\r\n]*", b"", text) if b"#" in text else text

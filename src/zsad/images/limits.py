"""How one image is read: limits of pixels and memory, the depth of its values, and notes about it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from zsad.errors import ConfigError, ImageReadError, ImageTooLargeError

MAX_PIXELS_VARIABLE = "ZSAD_MAX_PIXELS"
MAX_BYTES_VARIABLE = "ZSAD_MAX_BYTES"
BITS_VARIABLE = "ZSAD_BITS"

DEFAULT_MAX_PIXELS = 200_000_000
"""Largest number of pixels that is read by default: 600 MB as RGB, the 200-megapixel mode of telephones."""

DEFAULT_MAX_BYTES = 3 * 2**29
"""Memory in bytes that decoding one image may take by default: 1.5 GiB, as for 200 megapixels of JPEG."""

TIMES_FOR_TILES = 2
"""Both limits are this many times as large for images that are read to be cut into tiles."""

_LARGE_IMAGE = threading.RLock()

AUTO: Literal["auto"] = "auto"
Bits = int | Literal["auto"] | None
"""Depth of the values in 16-bit files: 1 to 16, "auto" (what the images use), None (what the file states)."""


@dataclass(frozen=True)
class Reading:
    """How one image is read, and what there is to say about it.

    Attributes:
        max_pixels: largest number of pixels to accept.
        max_bytes: memory in bytes that decoding may take, as estimated from the header.
        bits: depth of the values in 16-bit files, see `Bits`.
        notes: sentences without the image's name, such as that the file holds more pages; the decoders add
            them and `read_image` warns of them.
        depths: bits that the values of a 16-bit image use; the decoders add them.
        raising_pixels: what raises `max_pixels`, for messages, each to be followed by "=" and a number.
        raising_bytes: what raises `max_bytes`.
    """

    max_pixels: int = DEFAULT_MAX_PIXELS
    max_bytes: int = DEFAULT_MAX_BYTES
    bits: Bits = None
    notes: list[str] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    raising_pixels: tuple[str, ...] = (MAX_PIXELS_VARIABLE, "max_pixels")
    raising_bytes: tuple[str, ...] = (MAX_BYTES_VARIABLE, "max_bytes")


def chosen_reading(
    max_pixels: int | None = None,
    max_bytes: int | None = None,
    bits: Bits = None,
    *,
    for_tiles: bool = False,
) -> Reading:
    """Fills in how an image is read: the argument, else the environment variable, else the default.

    Args:
        max_pixels: largest number of pixels to accept; None takes ZSAD_MAX_PIXELS.
        max_bytes: memory in bytes that decoding may take; None takes ZSAD_MAX_BYTES.
        bits: depth of the values in 16-bit files; None takes ZSAD_BITS.
        for_tiles: whether the image will be cut into tiles, which makes the default limits larger.

    Raises:
        ConfigError: a limit is not a whole number above 0, or the depth is none of `Bits`.
    """
    times = TIMES_FOR_TILES if for_tiles else 1
    return Reading(
        _limit("max_pixels", max_pixels, MAX_PIXELS_VARIABLE, "pixels", times * DEFAULT_MAX_PIXELS),
        _limit("max_bytes", max_bytes, MAX_BYTES_VARIABLE, "bytes", times * DEFAULT_MAX_BYTES),
        common_depth(None) if bits is None else checked_bits(bits),
    )


def common_depth(bits: object) -> int | None:
    """Returns the depth of the values in 16-bit files that holds for many images.

    Args:
        bits: 1 to 16, as a number or as text; None takes ZSAD_BITS.

    Returns:
        The depth in bits; None for what each file states.

    Raises:
        ConfigError: the depth is not a whole number from 1 to 16; "auto" would give each image its own scale.
    """
    depth = checked_bits((os.environ.get(BITS_VARIABLE) or None) if bits is None else bits)
    if depth == AUTO:
        raise ConfigError(
            "--bits auto is for predict, which sees all images at once, and would give each image a scale "
            "of its own here; give the depth of the camera, as in "
            f"--bits 12, bits=12 or {BITS_VARIABLE}=12"
        )
    return depth


def checked_bits(bits: object) -> Bits:
    """Returns a depth from an argument, an option or the environment.

    Raises:
        ConfigError: it is neither a whole number from 1 to 16 nor "auto" nor None.
    """
    if bits is None:
        return None
    text = str(bits).strip().lower()
    if text == AUTO:
        return AUTO
    if isinstance(bits, bool) or not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 16:
        raise ConfigError(
            f"bits (--bits, {BITS_VARIABLE}) must be the depth of the values in 16-bit files, 1 to 16, "
            f"or auto; got {bits!r}"
        )
    return int(text)


def check_size(width: int, height: int, limits: Reading) -> None:
    """Refuses an image without pixels or with more than the limit.

    Raises:
        ImageReadError: the image has no pixels.
        ImageTooLargeError: the image has too many pixels; the message tells how to raise the limit.
    """
    if width < 1 or height < 1:
        raise ImageReadError(f"{width} x {height} pixels: it holds no pixels")
    pixels = width * height
    if pixels > limits.max_pixels:
        raise ImageTooLargeError(
            f"{width} x {height} = {pixels} pixels are more than the limit of {limits.max_pixels}; make it "
            f"smaller or cut it into tiles (tile=auto), or, if you trust it, raise the limit with "
            f"{_raised(limits.raising_pixels, pixels)}"
        )


def check_bytes(needed: int, limits: Reading) -> None:
    """Refuses an image whose decoding would take more memory than the limit.

    Raises:
        ImageTooLargeError: `needed`, in bytes, exceeds the limit; the message tells how to raise it.
    """
    if needed > limits.max_bytes:
        raise ImageTooLargeError(
            f"decoding it takes about {needed} bytes of memory, more than the limit of {limits.max_bytes}; "
            f"make it smaller or cut it into tiles, or, if you trust it, raise the limit with "
            f"{_raised(limits.raising_bytes, needed)}"
        )


def _raised(ways: tuple[str, ...], needed: int) -> str:
    """The ways to raise a limit to what an image needs."""
    return " or ".join(f"{way}={needed}" for way in ways)


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


def _limit(name: str, argument: int | None, variable: str, unit: str, default: int) -> int:
    """Returns a limit in force.

    Raises:
        ConfigError: the limit is not a whole number above 0.
    """
    given: object = os.environ.get(variable) if argument is None else argument
    if given is None or given == "":
        return default
    try:
        limit = int(str(given))
    except ValueError:
        limit = 0
    if limit < 1:
        raise ConfigError(
            f"{variable if argument is None else name} must be a whole number of {unit} above 0, such as "
            f"{2 * default}; got {given!r}"
        )
    return limit

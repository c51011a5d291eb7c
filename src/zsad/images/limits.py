"""Limits the number of pixels that an image may have."""

from __future__ import annotations

import os

from zsad.errors import ConfigError, ImageReadError

MAX_PIXELS_VARIABLE = "ZSAD_MAX_PIXELS"


def check_size(width: int, height: int, limit: int) -> None:
    """Refuses an image without pixels or with more than the limit.

    Raises:
        ImageReadError: the image has no pixels or too many; the message tells how to raise the limit.
    """
    if width < 1 or height < 1:
        raise ImageReadError(f"{width} x {height} pixels: it holds no pixels")
    pixels = width * height
    if pixels > limit:
        raise ImageReadError(
            f"{width} x {height} = {pixels} pixels are more than the limit of {limit}; make it smaller or "
            f"cut it into tiles, or, if you trust it, raise the limit with {MAX_PIXELS_VARIABLE}={pixels} "
            f"or max_pixels={pixels}"
        )


DEFAULT_MAX_PIXELS = 200_000_000
"""Largest number of pixels that is read by default: 600 MB as RGB, the 200-megapixel mode of telephones."""


def pixel_limit(max_pixels: int | None) -> int:
    """Returns the limit in force: the argument, else the environment variable, else the default.

    Raises:
        ConfigError: the limit is not a whole number above 0.
    """
    given: object = os.environ.get(MAX_PIXELS_VARIABLE) if max_pixels is None else max_pixels
    if given is None or given == "":
        return DEFAULT_MAX_PIXELS
    try:
        limit = int(str(given))
    except ValueError:
        limit = 0
    if limit < 1:
        name = MAX_PIXELS_VARIABLE if max_pixels is None else "max_pixels"
        raise ConfigError(
            f"{name} must be a whole number of pixels above 0, such as 400000000; got {given!r}"
        )
    return limit

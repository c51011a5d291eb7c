"""From an RGB image to the network's input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.errors import ConfigError
from zsad.images.conversion import rgb_from_pillow


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of an image as an array of its own: (H, W, 3) uint8 RGB."""
    return np.array(image if image.mode == "RGB" else rgb_from_pillow(image), dtype=np.uint8)


def prepare(
    image: Image.Image, size: int, mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Resizes and normalises an image for the network, as the published systems do.

    Pillow's bicubic filter (antialiased) squashes the image to a square, the aspect ratio is not kept; then
    x / 255, minus mean, over std. Pillow rounds to whole levels after each of the two directions; which one
    comes first depends on the shape from Pillow 13 on, so that older versions may differ by two levels.

    Args:
        image: mode "RGB", as `read_image` gives it.
        size: pixels of one side of the result, at least 1.
        mean: of R, G and B in [0, 1] units.
        std: of R, G and B in [0, 1] units, not 0.

    Returns:
        (3, size, size) float32, contiguous.

    Raises:
        ConfigError: an impossible size, mean or std.
    """
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise ConfigError(f"image size must be a whole number of pixels above 0, got {size!r}")
    means, deviations = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    if means.shape != (3,) or deviations.shape != (3,) or not (deviations != 0).all():
        raise ConfigError(f"mean and std must be three numbers each, std not 0; got {mean!r} and {std!r}")
    rgb = image if image.mode == "RGB" else rgb_from_pillow(image)
    squashed = rgb.resize((int(size), int(size)), Image.Resampling.BICUBIC)
    levels = np.asarray(squashed, dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(((levels - means) / deviations).transpose(2, 0, 1))

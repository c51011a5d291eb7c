"""Prepares an RGB image as the input of a network."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.errors import ConfigError
from zsad.images.ahead import THREADS
from zsad.images.conversion import rgb_from_pillow

PIXELS_COPIED_AT_ONCE = 10_000_000


@dataclass(frozen=True)
class Preparation:
    """How an image becomes the input of a network.

    Attributes:
        size: side of the square network input, in pixels, at least 1.
        mean: mean of the R, G and B channels, in [0, 1] units; it is subtracted.
        std: standard deviation of the R, G and B channels, in [0, 1] units, not 0; the difference is divided
            by it.
        bits: depth of the values in 16-bit files, 1 to 16; None for what the files state.

    Raises:
        ConfigError: an impossible size, mean or standard deviation.

    Example:
        >>> prepare(Image.new("RGB", (40, 30)), Preparation(8, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))).shape
        (3, 8, 8)
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bits: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, (int, np.integer)) or self.size < 1:
            raise ConfigError(f"image size must be a whole number of pixels above 0, got {self.size!r}")
        mean, std = (np.asarray(values, dtype=np.float32) for values in (self.mean, self.std))
        if mean.shape != (3,) or std.shape != (3,) or not std.all():
            raise ConfigError(
                f"mean and std must be three numbers each, std not 0; got {self.mean!r} and {self.std!r}"
            )


def prepare(image: Image.Image, preparation: Preparation) -> NDArray[np.float32]:
    """Resizes and normalises an image for the network, as the published systems do.

    Pillow's bicubic filter (antialiased) squashes the image to a square and does not keep the aspect ratio.
    The values are then (x / 255 - mean) / std. Pillow rounds to whole levels after each of the two
    directions. From Pillow 13 on, the shape decides which direction comes first, so that older versions may
    differ by two levels.

    Args:
        image: image of mode "RGB", as `read_image` returns it.
        preparation: size of the result and normalisation of its values.

    Returns:
        (3, size, size) float32, contiguous.
    """
    rgb = image if image.mode == "RGB" else rgb_from_pillow(image)
    squashed = rgb.resize((int(preparation.size), int(preparation.size)), Image.Resampling.BICUBIC)
    levels = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    mean, std = (np.asarray(values, dtype=np.float32) for values in (preparation.mean, preparation.std))
    table = (levels - mean) / std  # what each level becomes in each channel
    pixels = np.asarray(squashed)
    return np.stack([table[:, channel].take(pixels[..., channel]) for channel in range(3)])


def prepare_batch(images: Iterable[Image.Image], preparation: Preparation) -> NDArray[np.float32]:
    """Prepares a batch as a network takes it.

    Args:
        images: RGB images of any sizes, at least one. Those of a list are prepared side by side; of another
            iterable, each is taken when the one before it is prepared.
        preparation: size S and normalisation of the network's input.

    Returns:
        (B, 3, S, S) float32.
    """
    if not isinstance(images, list) or len(images) == 1:
        return np.stack([prepare(image, preparation) for image in images])
    with ThreadPoolExecutor(min(THREADS, len(images))) as pool:  # Pillow resizes without Python's lock
        return np.stack(list(pool.map(lambda image: prepare(image, preparation), images)))


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Copies the pixels of an image: (H, W, 3) uint8 RGB, levels 0 to 255.

    Large images are copied in bands, because NumPy copies the bytes that Pillow copies.
    """
    rgb = image if image.mode == "RGB" else rgb_from_pillow(image)
    width, height = rgb.size
    if width * height <= PIXELS_COPIED_AT_ONCE:
        return np.array(rgb, dtype=np.uint8)
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, PIXELS_COPIED_AT_ONCE // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = np.asarray(rgb.crop((0, top, width, bottom)))
    return pixels

"""Draws anomaly maps: heat map, overlay, mask and contour, each by a function of its own.

The colour scale is fixed by default: a map value has the same colour in every image, so that two images can
be compared and a clean image looks clean. On request, one image gets a scale of its own, which is then
printed into it.
"""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from zsad.errors import ConfigError, unknown_name
from zsad.images.colours import colour_levels, colour_table

Scale = Literal["fixed", "image"]

SCALES: tuple[Scale, ...] = ("fixed", "image")
STRONGEST_ALPHA = 0.78  # part of the image stays visible even under the highest value
CONTOUR_COLOUR = (255, 64, 64)

DIMMED = 3  # outside of the region of interest, levels are divided by this
_ROWS_AT_A_TIME = 256  # bounds the memory of blending very large images


def heat_map(
    anomaly_map: NDArray[np.floating], map_range: tuple[float, float] = (0.0, 1.0)
) -> NDArray[np.uint8]:
    """Colours an anomaly map.

    Args:
        anomaly_map: (H, W) map.
        map_range: values that get the first and the last colour; values outside are clipped.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ConfigError: the map is not (H, W), or the range is empty.
    """
    colours: NDArray[np.uint8] = colour_table()[colour_levels(anomaly_map, map_range)]
    return colours


def overlay(
    image: NDArray[np.uint8],
    anomaly_map: NDArray[np.floating],
    map_range: tuple[float, float] = (0.0, 1.0),
    *,
    scale: Scale = "fixed",
    strength: float = STRONGEST_ALPHA,
    roi: NDArray[np.bool_] | None = None,
) -> Image.Image:
    """Lays the heat map over the image; the higher a value, the more opaque its colour.

    Args:
        image: (H, W, 3) uint8 RGB.
        anomaly_map: (H, W) map, aligned with `image`.
        map_range: smallest and largest value of the fixed colour scale.
        scale: "fixed" uses `map_range`, so that images can be compared; "image" stretches this map's own
            values over all colours and prints their range into the lower left corner.
        strength: opacity of the highest value, in [0, 1].
        roi: (H, W) bool, region of interest, outside of which the image is dark; None for all.

    Returns:
        An RGB image of the same size.

    Raises:
        ConfigError: the shapes do not fit together, the range is empty, the scale is unknown, or the strength
            is not in [0, 1].
    """
    _check_aligned(image, anomaly_map)
    if not 0 <= strength <= 1:
        raise ConfigError(f"strength is an opacity between 0 and 1, got {strength!r}")
    if scale not in SCALES:
        raise unknown_name("scale", str(scale), SCALES)
    chosen_range = (
        map_range if scale == "fixed" else _range_of(anomaly_map if roi is None else anomaly_map[roi])
    )
    tables = _blending_tables(float(strength))
    blended = np.empty_like(image)
    for top in range(0, image.shape[0], _ROWS_AT_A_TIME):
        rows = slice(top, top + _ROWS_AT_A_TIME)
        places = colour_levels(anomaly_map[rows], chosen_range).astype(np.uint16) << 8
        for channel, table in enumerate(tables):
            blended[rows, :, channel] = table.take(places | image[rows, :, channel])
        if roi is not None:
            blended[rows][~roi[rows]] = image[rows][~roi[rows]] // DIMMED
    result = Image.fromarray(blended)
    if scale == "image":
        low, high = chosen_range
        _print_label(result, f"scale of this image only: {low:.3g} to {high:.3g}")
    return result


def draw_mask(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    *,
    colour: tuple[int, int, int] = CONTOUR_COLOUR,
    alpha: float = 0.5,
) -> Image.Image:
    """Tints the anomalous pixels of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, True where anomalous.
        colour: RGB levels of the tint, 0 to 255.
        alpha: opacity of the tint, in [0, 1].

    Returns:
        An RGB image of the same size.

    Raises:
        ConfigError: image and mask differ in size.
    """
    _check_aligned(image, mask)
    tinted = image.copy()
    tint = np.array(colour, dtype=np.float32) * alpha
    tinted[mask] = np.round(image[mask] * (1 - alpha) + tint).astype(np.uint8)
    return Image.fromarray(tinted)


def draw_contour(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    *,
    colour: tuple[int, int, int] = CONTOUR_COLOUR,
    width: int | None = None,
) -> Image.Image:
    """Draws a line around the anomalous regions; the pixels inside them do not change.

    The line lies just outside the mask, between two thin dark lines, so that it is visible on any background.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, True where anomalous.
        colour: RGB levels of the line, 0 to 255.
        width: width of the line, in pixels; None derives it from the size of the image.

    Returns:
        An RGB image of the same size.

    Raises:
        ConfigError: image and mask differ in size, or the width is below 1.
    """
    _check_aligned(image, mask)
    width = max(2, round(max(mask.shape) / 300)) if width is None else width
    if width < 1:
        raise ConfigError(f"the contour's width must be at least 1 pixel, got {width}")
    edge = max(1, width // 3)
    near = _grown(mask, edge)
    line = _grown(near, width)
    outside = _grown(line, edge)
    drawn = image.copy()
    drawn[outside & ~mask] = (24, 24, 24)
    drawn[line & ~near] = colour
    return Image.fromarray(drawn)


def mask_image(mask: NDArray[np.bool_]) -> Image.Image:
    """Draws a mask in black and white: mode "L", 255 where anomalous, 0 elsewhere."""
    return Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))


def thumbnail(image: Image.Image, side: int = 320) -> Image.Image:
    """Copies an image as RGB, shrunk so that its longer side has at most `side` pixels."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=1.0)
    return small


@functools.lru_cache(maxsize=4)
def _blending_tables(strength: float) -> tuple[NDArray[np.uint8], ...]:
    """What a level of the image becomes under a level of the map, at 256 * map level + image level.

    Returns:
        Three arrays (65536,) uint8: red, green, blue.
    """
    # A smooth step keeps low values nearly clear, since normal surface must look like the image itself.
    values = np.linspace(0, 1, 256)
    alphas = np.round(256 * strength * values**2 * (3 - 2 * values)).astype(np.uint32)[:, None]
    below = np.arange(256, dtype=np.uint32) * (256 - alphas)
    colours = colour_table().astype(np.uint32).T
    return tuple(((below + colour[:, None] * alphas) >> 8).astype(np.uint8).ravel() for colour in colours)


def _range_of(anomaly_map: NDArray[np.floating]) -> tuple[float, float]:
    finite = anomaly_map[np.isfinite(anomaly_map)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low, low + 1.0)


def _check_aligned(image: NDArray[np.uint8], values: NDArray[np.floating] | NDArray[np.bool_]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ConfigError(f"the image must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    if image.shape[:2] != values.shape:
        raise ConfigError(f"the image is {image.shape[:2]} and the map or mask {values.shape}: not aligned")


def _grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Widens a mask by some pixels; alternating crosses and squares give nearly round corners."""
    grown = mask
    for step in range(pixels):
        widened = grown.copy()
        widened[1:] |= grown[:-1]
        widened[:-1] |= grown[1:]
        base = widened.copy() if step % 2 else grown
        widened[:, 1:] |= base[:, :-1]
        widened[:, :-1] |= base[:, 1:]
        grown = widened
    return grown


def _print_label(image: Image.Image, text: str) -> None:
    """Prints a line into the lower left corner, on a dark plate, in a size that suits the image."""
    size = max(9, round(min(image.width / 24, image.height / 16)))
    font = ImageFont.load_default(size)
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    padding = max(2, size // 4)
    plate_top = image.height - (bottom - top) - 2 * padding
    draw.rectangle((0, plate_top, right - left + 2 * padding, image.height), fill=(20, 20, 20))
    draw.text((padding - left, plate_top + padding - top), text, fill=(255, 255, 255), font=font)

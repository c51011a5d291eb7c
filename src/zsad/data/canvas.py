"""Draws the regions of a ground truth as a mask; a pixel counts by its centre."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from zsad.images.limits import check_size, chosen_reading

Point = tuple[float, float]
_SCALE = 2  # outlines are drawn this much larger, so that the centre of each pixel can be looked up


class Canvas:
    """Draws the regions of one image.

    Args:
        width: width of the image, in pixels.
        height: height of the image, in pixels.

    Raises:
        ValueError: a size is missing or no positive whole number.
        ImageReadError: the image has more pixels than images may have.
    """

    def __init__(self, width: object, height: object) -> None:
        if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
            raise ValueError(f"the size of the image must be given, got {width!r} x {height!r}")
        check_size(width, height, chosen_reading())
        self._drawn = Image.new("L", (width * _SCALE, height * _SCALE))
        self._added = np.zeros((height, width), dtype=np.bool_)
        self._pen = ImageDraw.Draw(self._drawn)

    def polygon(self, points: Sequence[Point]) -> None:
        """Fills a polygon; fewer than three points enclose nothing and are drawn as a line."""
        if len(points) < 3:
            self.line(points)
        else:
            self._pen.polygon(_scaled(points), fill=1)

    def circle(self, centre: Point, radius: float) -> None:
        """Fills a circle."""
        x, y = centre
        self._pen.ellipse(_scaled([(x - radius, y - radius), (x + radius, y + radius)]), fill=1)

    def line(self, points: Sequence[Point]) -> None:
        """Draws a line one pixel wide, or a point."""
        for x, y in points:
            self._pen.rectangle(_scaled([(math.floor(x), math.floor(y)), (x + 1, y + 1)]), fill=1)
        self._pen.line(_scaled(points), fill=1, width=2 * _SCALE)

    def paste(self, region: NDArray[np.bool_], corner: Point) -> None:
        """Adds a region whose upper left corner lies at a point."""
        left, top = (max(0, round(value)) for value in corner)
        place = self._added[top : top + region.shape[0], left : left + region.shape[1]]
        place |= region[: place.shape[0], : place.shape[1]]

    def add(self, region: NDArray[np.bool_]) -> None:
        """Adds a mask of the size of the image."""
        if region.shape != self._added.shape:
            raise ValueError(f"a region is of size {region.shape}, its image of size {self._added.shape}")
        self._added |= region

    def mask(self) -> NDArray[np.bool_]:
        """Returns the mask of all regions."""
        centres = np.asarray(self._drawn)[1::_SCALE, 1::_SCALE] > 0
        return np.asarray(centres | self._added)


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * _SCALE, y * _SCALE) for x, y in points]

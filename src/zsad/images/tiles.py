"""Cuts an image into overlapping tiles and blends their anomaly maps without a seam; NumPy only.

Neighbouring tiles share at least `OVERLAP` of their side. In the shared strip the map passes smoothly from
one tile to the next, by a Hann window over each tile. The windows of rows and columns are normalised one
axis at a time, so that the weights of all tiles sum to one at every pixel. Maps are added up one row of
tiles after another, so that besides the finished map only one such row is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zsad.errors import ConfigError

Tile = int | Literal["auto", "none"] | None
"""Side of the tiles in pixels; "auto" decides by the size of each image, "none" never cuts an image."""

AUTO: Literal["auto"] = "auto"
WHOLE: Literal["none"] = "none"

OVERLAP = 0.25
"""Smallest part of its side that a tile shares with the next one."""

MOST_TIMES_ENLARGED = 8
"""The network's input may be at most this many times the side of a tile."""

WHOLE_SHARE = 0.25
"""Weight of the whole image beside its tiles, in score and map."""

MOST_TIMES_REDUCED = 2
"""Longer side of an image over the network's input, above which "auto" cuts it; also that of its tiles."""

MOST_TIMES_AS_LONG = 3
"""Longer side of an image over its shorter one, above which "auto" cuts it."""

MOST_TILES = 512
"""Tiles of an image above which "auto" doubles their side."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom of a tile in pixels, as `PIL.Image.Image.crop` takes them."""


@dataclass(frozen=True)
class TileGrid:
    """The tiles of one image, in rows and columns that cover it.

    Attributes:
        height: height of the image in pixels.
        width: width of the image in pixels.
        tile: height and width of each tile in pixels; at most those of the image.
        tops: first pixel row of each row of tiles, rising.
        lefts: first pixel column of each column of tiles, rising.
    """

    height: int
    width: int
    tile: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    @property
    def boxes(self) -> list[Box]:
        """The tiles, row by row."""
        high, wide = self.tile
        return [(left, top, left + wide, top + high) for top in self.tops for left in self.lefts]


def checked_tile(tile: object) -> Tile:
    """Returns a tile setting from an argument or an option; "auto", "none" and None may also be typed.

    Raises:
        ConfigError: it is neither a whole number of pixels above 0 nor "auto" nor "none" nor None.

    Example:
        >>> checked_tile("512"), checked_tile("auto")
        (512, 'auto')
    """
    text = str(tile).strip().lower()
    if tile is None or text == WHOLE:
        return None if tile is None else WHOLE
    if text == AUTO:
        return AUTO
    if isinstance(tile, bool) or not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ConfigError(f"tile is a side in pixels above 0, auto or none; got {tile!r}: type tile=512, say")
    return int(text)


def setting_of(tile: object) -> Tile:
    """A tile setting of a user as a detector keeps it: pixels, "auto", or None for whole images.

    Raises:
        ConfigError: the setting is impossible.
    """
    checked = checked_tile(tile)
    return None if checked == WHOLE else checked


def tile_side(height: int, width: int, tile: Tile, network: int) -> int | None:
    """The side of the tiles that an image is cut into.

    "auto" cuts an image whose longer side is more than `MOST_TIMES_REDUCED` times the network's input, or
    that is larger than the input and more than `MOST_TIMES_AS_LONG` times as long as its shorter side. Tiles
    are `MOST_TIMES_REDUCED` times as large as the input; in a narrow strip they are squares as wide as the
    strip, but at least half the input. Where there would be more than `MOST_TILES`, their side is doubled
    until there are not.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        tile: setting of the user.
        network: side of the network's square input in pixels.

    Returns:
        Pixels; None for an image that is not cut.

    Raises:
        ConfigError: the tiles would be much smaller than the network's input.

    Example:
        >>> [tile_side(*size, "auto", 320) for size in ((480, 640), (3000, 4000), (256, 4096))]
        [None, 640, 256]
    """
    longer, shorter = max(height, width), min(height, width)
    if tile is None or tile == WHOLE:
        return None
    if tile != AUTO:
        if tile * MOST_TIMES_ENLARGED < network:
            raise ConfigError(
                f"tiles of {tile} pixels would be enlarged {network / tile:.0f} times to the network's input "
                f"of {network}: give at least tile={math.ceil(network / MOST_TIMES_ENLARGED)}, or auto"
            )
        return tile if tile < longer else None
    is_strip = longer > network and longer > MOST_TIMES_AS_LONG * shorter
    if longer <= MOST_TIMES_REDUCED * network and not is_strip:
        return None
    side = max(min(MOST_TIMES_REDUCED * network, shorter), math.ceil(network / 2))
    while len(tile_grid(height, width, side)) > MOST_TILES:
        side *= 2
    return side


def tiling_note(sides: Sequence[int | None], tile: Tile, network: int) -> str:
    """A line that says how many images were cut into tiles, and why; empty if none was.

    Args:
        sides: side of the tiles of each image in pixels; None for an image that was not cut.
        tile: setting of the user.
        network: side of the network's input in pixels.

    Example:
        >>> tiling_note([None, 640, 640], "auto", 320)
        '2 of 3 images cut into tiles of 640 pixels (auto: a side above 640 pixels, or 3 times the other one)'
    """
    cut = [side for side in sides if side is not None]
    if not cut:
        return ""
    listed = " or ".join(map(str, sorted(set(cut))[:3]))
    why = "larger than the tiles asked for"
    if tile == AUTO:
        limit = MOST_TIMES_REDUCED * network
        why = f"auto: a side above {limit} pixels, or {MOST_TIMES_AS_LONG} times the other one"
    return f"{len(cut)} of {len(sides)} images cut into tiles of {listed} pixels ({why})"


def tile_grid(height: int, width: int, side: int, overlap: float = OVERLAP) -> TileGrid:
    """Covers an image with the fewest tiles of one size that overlap enough, evenly spread.

    Args:
        height: height of the image in pixels, at least 1.
        width: width of the image in pixels, at least 1.
        side: side of a tile in pixels; where the image is shorter, the tile is as short as the image.
        overlap: smallest part of its side that a tile shares with the next one, in [0, 1).

    Example:
        >>> tile_grid(256, 1000, 400).boxes
        [(0, 0, 400, 256), (300, 0, 700, 256), (600, 0, 1000, 256)]
    """
    tile = min(side, height), min(side, width)
    return TileGrid(height, width, tile, _starts(height, tile[0], overlap), _starts(width, tile[1], overlap))


def blend(
    grid: TileGrid, maps: Iterable[NDArray[np.float32]], whole: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Joins the anomaly maps of all tiles into the map of the image.

    Each map is resized bilinearly to its tile and weighted by its window. Everywhere, the result lies between
    the values of the tiles that cover the pixel.

    Args:
        grid: tiles of the image.
        maps: (S, S) float32 maps of the tiles, row by row, all of one size; taken one after another.
        whole: (S, S) float32 map of the whole image, which then has the weight `WHOLE_SHARE`; None for the
            tiles alone.

    Returns:
        (height, width) float32 map.

    Example:
        >>> blend(tile_grid(2, 6, 3), [np.full((4, 4), 0.5, np.float32)] * 3).round(3)
        array([[0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
               [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]], dtype=float32)
    """
    blended = np.zeros((grid.height, grid.width), np.float32)
    share = 1.0 if whole is None else 1 - WHOLE_SHARE
    waiting = iter(maps)
    across = seam_weights(grid.width, grid.tile[1], grid.lefts)
    down = seam_weights(grid.height, grid.tile[0], grid.tops)
    for top, row_weights in zip(grid.tops, down, strict=True):
        parts = [_widened(next(waiting), grid.tile[1]) for _ in grid.lefts]
        band = np.zeros((len(parts[0]), grid.width), np.float32)
        for left, weights, part in zip(grid.lefts, across, parts, strict=True):
            band[:, left : left + grid.tile[1]] += weights * part
        _add_heightened(blended[top : top + grid.tile[0]], band, np.float32(share) * row_weights)
    if whole is not None:
        once = np.full(grid.height, 1 - share, np.float32)
        _add_heightened(blended, _widened(whole, grid.width), once)
    return blended


def seam_weights(length: int, side: int, starts: tuple[int, ...]) -> NDArray[np.float32]:
    """The weight of each tile at each of its pixels, along one axis.

    Args:
        length: pixels of the image along the axis.
        side: pixels of a tile along the axis.
        starts: first pixel of each tile.

    Returns:
        (tiles, side) float32 in (0, 1]; the weights of all tiles at a pixel of the image sum to one.

    Example:
        >>> seam_weights(6, 4, (0, 2)).round(2)
        array([[1.  , 1.  , 0.85, 0.15],
               [0.15, 0.85, 1.  , 1.  ]], dtype=float32)
    """
    window = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    total = np.zeros(length)
    for start in starts:
        total[start : start + side] += window
    return np.stack([window / total[start : start + side] for start in starts]).astype(np.float32)


def enlarged(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resizes a map bilinearly, without antialiasing; values are those of areas.

    Equal to rounding to what a detector does with torch (`zsad.methods.functional.maps.upsample`).

    Args:
        values: (S, T) float32.
        size: height and width of the result in pixels.

    Returns:
        (height, width) float32.

    Example:
        >>> enlarged(np.array([[0, 1]], np.float32), (1, 4))
        array([[0.  , 0.25, 0.75, 1.  ]], dtype=float32)
    """
    found = np.zeros(size, np.float32)
    _add_heightened(found, _widened(values, size[1]), np.ones(size[0], np.float32))
    return found


def _starts(length: int, side: int, overlap: float) -> tuple[int, ...]:
    """First pixel of each tile along one axis; the first tile begins and the last one ends with the image."""
    if length == side:
        return (0,)
    step = max(1, int(side * (1 - overlap)))
    count = 1 + math.ceil((length - side) / step)
    return tuple(round(index * (length - side) / (count - 1)) for index in range(count))


def _widened(values: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """(S, width) map, resized bilinearly along its rows; values are those of areas."""
    lower, upper, fraction = _neighbours(values.shape[1], width)
    return values[:, lower] * (1 - fraction) + values[:, upper] * fraction


def _add_heightened(
    total: NDArray[np.float32], values: NDArray[np.float32], weights: NDArray[np.float32]
) -> None:
    """Adds a map, resized along its columns to the height of `total`, with a weight for each row.

    A few rows at a time, so that the resized map is never in memory as a whole.
    """
    lower, upper, fraction = _neighbours(len(values), len(total))
    for start in range(0, len(total), _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        below, above = weights[rows] * (1 - fraction[rows]), weights[rows] * fraction[rows]
        total[rows] += values[lower[rows]] * below[:, None] + values[upper[rows]] * above[:, None]


def _neighbours(size: int, length: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """The two of `size` values that each of `length` places lies between, and its distance from the first."""
    places = np.clip((np.arange(length) + 0.5) * size / length - 0.5, 0, size - 1)
    lower = places.astype(np.intp)
    return lower, np.minimum(lower + 1, size - 1), (places - lower).astype(np.float32)


_ROWS_AT_A_TIME = 256

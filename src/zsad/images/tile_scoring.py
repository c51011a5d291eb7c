"""Scores images by tiles: which images are cut, and how the answers for tiles and whole are joined. No torch.

The tiles show small defects, and the whole image, made as small as the network's input, shows what belongs
where. The score is the weighted mean of the largest score of a tile (3/4) and of the score of the whole image
(1/4); the map is that of the blended maps of the tiles and of the enlarged map of the whole image.
benchmarks/tiling.py compares this with the tiles alone and with other weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.images.tiles import WHOLE_SHARE, Box, Tile, blend, tile_grid, tile_side

TILES_AT_ONCE = 16


class Answers(Protocol):
    """What a network says about a batch, in arrays or tensors."""

    @property
    def scores(self) -> Any:
        """(B,) image anomaly scores."""

    @property
    def maps(self) -> Any:
        """(B, S, S) anomaly maps."""


Score = Callable[[Iterable[Image.Image], Sequence[str | None], bool], Answers]
"""Scores images at once, given their class names and whether they are tiles."""

Resize = Callable[[Any, tuple[int, int] | None], NDArray[np.float32]]
"""Resizes maps of `Answers`, (..., S, S), to a height and width; None leaves them as they are."""


@dataclass(frozen=True)
class ImageAnswer:
    """What a method says about one image.

    Attributes:
        score: image anomaly score.
        anomaly_map: (H, W) float32 at the image's size.
        tile: side of the tiles in pixels; None for an image that was not cut.
    """

    score: float
    anomaly_map: NDArray[np.float32]
    tile: int | None = None


@dataclass(frozen=True)
class Cutting:
    """How images are cut.

    Attributes:
        tile: tile setting; None for whole images.
        network: side of the network's input in pixels.
    """

    tile: Tile
    network: int

    def side(self, image: Image.Image) -> int | None:
        """Side of the tiles of an image in pixels; None for an image that is not cut.

        Raises:
            ConfigError: the tiles would be much smaller than the network's input.
        """
        return tile_side(image.height, image.width, self.tile, self.network)

    def boxes(self, image: Image.Image) -> list[Box]:
        """The tiles of an image, row by row; only the image itself if it is not cut."""
        side = self.side(image) or max(image.size)
        return tile_grid(image.height, image.width, side).boxes


NOT_CUT = Cutting(None, 0)


def score_images(
    images: Sequence[Image.Image],
    names: Sequence[str | None],
    score: Score,
    resize: Resize,
    cutting: Cutting,
    at_once: int = TILES_AT_ONCE,
) -> list[ImageAnswer]:
    """Scores images: those that are not cut together, each of the others by its tiles.

    Args:
        images: RGB images; at least one.
        names: class name of each image; None stands for "object".
        score: asks the method.
        resize: turns maps of the answers into arrays of a size.
        cutting: how images are cut.
        at_once: number of tiles that go through the network together.

    Returns:
        One answer per image, in order.

    Raises:
        ConfigError: the tiles would be much smaller than the network's input.
    """
    sides = [cutting.side(image) for image in images]
    whole = [place for place, side in enumerate(sides) if side is None]
    found: dict[int, ImageAnswer] = {}
    if whole:
        raw = score([images[place] for place in whole], [names[place] for place in whole], False)
        for place, value, raw_map in zip(whole, raw.scores.tolist(), raw.maps, strict=True):
            size = images[place].height, images[place].width
            found[place] = ImageAnswer(value, resize(raw_map, size))
    for place, side in enumerate(sides):
        if side is not None:
            found[place] = _by_tiles(images[place], names[place], side, score, resize, at_once)
    return [found[place] for place in range(len(images))]


def _by_tiles(
    image: Image.Image, name: str | None, side: int, score: Score, resize: Resize, at_once: int
) -> ImageAnswer:
    """The answer for an image from its tiles and from the whole of it."""
    grid = tile_grid(image.height, image.width, side)
    whole = score([image], [name], False)
    scores: list[float] = []

    def maps() -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(grid), at_once):
            boxes = grid.boxes[start : start + at_once]
            raw = score(map(image.crop, boxes), [name] * len(boxes), True)
            scores.extend(raw.scores.tolist())
            yield from resize(raw.maps, None)

    joined = blend(grid, maps(), resize(whole.maps, None)[0])
    score_of_tiles, score_of_whole = max(scores), float(whole.scores[0])
    return ImageAnswer(score_of_tiles + WHOLE_SHARE * (score_of_whole - score_of_tiles), joined, side)

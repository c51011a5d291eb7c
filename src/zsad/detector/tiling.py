"""Scores images by tiles: which images are cut, how tiles are joined, and what their references are.

The tiles show small defects, and the whole image, made as small as the network's input, shows what belongs
where. The score is the weighted mean of the largest score of a tile (3/4) and of the score of the whole image
(1/4); the map is that of the blended maps of the tiles and of the enlarged map of the whole image.
benchmarks/tiling.py compares this with the tiles alone and with other weights.

References and companions are cut in the same way, and tiles are compared with tiles: with at most
`MOST_REFERENCE_TILES` tiles of references, and as many tiles of companions as a method takes images, evenly
spread over all of them. Under the general rule, the answers to the tiles of references say what is usual
for a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from zsad.detector.general_rule import remembered
from zsad.detector.reference_tiles import ReferenceTiles
from zsad.errors import ConfigError
from zsad.images.tiles import WHOLE_SHARE, Box, Tile, blend, tile_grid, tile_side
from zsad.methods.base import Support
from zsad.methods.functional.maps import upsample
from zsad.methods.functional.references import WAYS_TO_TURN

if TYPE_CHECKING:
    from torch import Tensor

    from zsad.methods.base import Method
    from zsad.methods.functional.references import ReferenceMemory
    from zsad.types import RawOutput

TILES_AT_ONCE = 16
MOST_REFERENCE_TILES = 256

Score = Callable[[Iterable[Image.Image], Sequence[str | None], bool], "RawOutput"]
"""Scores images at once, given their class names and whether they are tiles: (B,) scores, (B, S, S) maps."""

Stack = Callable[[Iterable[Image.Image]], "Tensor"]
"""Prepares images, each taken when the one before it is done, as (B, 3, S, S) on the detector's device."""


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


def check_tileable(method: Method, tile: Tile, *, is_joint: bool) -> None:
    """Refuses to cut images for a method that compares whole images with each other.

    Raises:
        ConfigError: the method scores images together and takes no companions.
    """
    if tile is not None and is_joint and not method.MOST_COMPANIONS:
        raise ConfigError(
            f"{method.INFO.name} scores all images together, and tiles of different images cannot be "
            "compared so: leave tile out, or take a method that scores each image by itself (`zsad methods`)"
        )


def score_images(
    images: Sequence[Image.Image],
    names: Sequence[str | None],
    score: Score,
    cutting: Cutting,
    at_once: int = TILES_AT_ONCE,
) -> list[ImageAnswer]:
    """Scores images: those that are not cut together, each of the others by its tiles.

    Args:
        images: RGB images; at least one.
        names: class name of each image; None stands for "object".
        score: asks the method.
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
            found[place] = ImageAnswer(value, upsample(raw_map, size).cpu().numpy())
    for place, side in enumerate(sides):
        if side is not None:
            found[place] = _by_tiles(images[place], names[place], side, score, at_once)
    return [found[place] for place in range(len(images))]


def _by_tiles(image: Image.Image, name: str | None, side: int, score: Score, at_once: int) -> ImageAnswer:
    """The answer for an image from its tiles and from the whole of it."""
    grid = tile_grid(image.height, image.width, side)
    whole = score([image], [name], False)
    scores: list[float] = []

    def maps() -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(grid), at_once):
            boxes = grid.boxes[start : start + at_once]
            raw = score(map(image.crop, boxes), [name] * len(boxes), True)
            scores.extend(raw.scores.tolist())
            yield from raw.maps.cpu().numpy()

    joined = blend(grid, maps(), whole.maps[0].cpu().numpy())
    score_of_tiles, score_of_whole = max(scores), float(whole.scores[0])
    return ImageAnswer(score_of_tiles + WHOLE_SHARE * (score_of_whole - score_of_tiles), joined, side)


@dataclass(frozen=True)
class Sources:
    """The images that others are compared with, as the user gave them, so that they can be cut later.

    Attributes:
        references: known-normal images, as `Detector.predict` takes them.
        companions: unlabelled images of the same folder.
    """

    references: tuple[Any, ...] = ()
    companions: tuple[Any, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.references or self.companions)

    def support(
        self,
        method: Method,
        cutting: Cutting,
        read: Callable[[Any], Image.Image],
        stack: Stack,
        class_name: str,
        are_turned: bool = False,
    ) -> Support:
        """References and companions, cut like the images that are compared with them.

        Args:
            method: remembers the references.
            cutting: how images are cut.
            read: reads one of the images.
            stack: prepares images as (B, 3, S, S) on the detector's device.
            class_name: name of what the images show.
            are_turned: whether tiles of references also count turned and flipped.
        """
        tiles = None
        for number, source in enumerate(self.references):
            image, most = read(source), tiles_of_each(len(self.references), are_turned)
            more = reference_tiles(method, image, cutting, most, number, stack, class_name, are_turned)
            tiles = more if tiles is None else tiles.joined_with(more)
        drawn: list[Tensor] = []
        each = -(-method.MOST_COMPANIONS // max(1, len(self.companions)))
        for number, source in enumerate(self.companions):
            image = read(source)
            boxes = _evenly(cutting.boxes(image), each, first=number)
            drawn.append(stack(map(image.crop, boxes)))
        unlabelled = torch.cat(drawn)[: method.MOST_COMPANIONS] if drawn else None
        if tiles is None:
            return Support(unlabelled=unlabelled)
        tiles = tiles.bounded()
        return Support(None, unlabelled, tiles.memory, tiles.maps, are_turned)


def tiles_of_each(references: int, are_turned: bool) -> int:
    """Largest number of tiles of each of so many references; an eighth of it if each counts in eight ways."""
    most = MOST_REFERENCE_TILES // WAYS_TO_TURN if are_turned else MOST_REFERENCE_TILES
    return max(1, most // max(1, references))


def _evenly(boxes: Sequence[Box], most: int, first: int) -> list[Box]:
    """At most `most` tiles, evenly spread over an image, beginning with another one in each image."""
    count = min(most, len(boxes))
    places = sorted((first + number * len(boxes) // count) % len(boxes) for number in range(count))
    return [boxes[place] for place in places]


def reference_tiles(
    method: Method,
    image: Image.Image,
    cutting: Cutting,
    most: int,
    first: int,
    stack: Stack,
    class_name: str,
    are_turned: bool,
) -> ReferenceTiles:
    """What is kept of the tiles of one known-normal image, as image number 0.

    Args:
        method: remembers the tiles.
        image: RGB image.
        cutting: how images are cut.
        most: largest number of tiles, which are then evenly spread over the image.
        first: place of the first tile to take, another one for each image.
        stack: prepares images.
        class_name: name of what the image shows.
        are_turned: whether tiles also count turned and flipped.
    """
    boxes = _evenly(cutting.boxes(image), most, first)
    starts = range(0, len(boxes), TILES_AT_ONCE)
    patch = method.backbone.config.vision.patch_size
    found: list[ReferenceMemory] = []
    maps: list[Tensor] = []
    for start in starts:
        tiles = stack(map(image.crop, boxes[start : start + TILES_AT_ONCE]))
        memory, answers = remembered(method, tiles, class_name, are_turned)
        found.append(memory)
        if method.INFO.references != "own":
            maps.append(F.avg_pool2d(answers.maps[:, None], patch)[:, 0])
    memory = reduce(lambda known, more: known.joined_with(more), found)
    memory = replace(memory, owners=tuple(torch.zeros_like(owner) for owner in memory.owners))
    owners = torch.zeros(len(boxes), dtype=torch.int64, device=memory.levels[0].device)
    return ReferenceTiles(memory, torch.cat(maps) if maps else None, owners)

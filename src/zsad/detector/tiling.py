"""Tiles in a detector: which methods can be cut, and what tiles are compared with.

References and companions are cut like the images (`zsad.images.tile_scoring`), and tiles are compared with
tiles: with at most `MOST_REFERENCE_TILES` tiles of references, and as many tiles of companions as a method
takes images, evenly spread over all of them. Under the general rule, the answers to the tiles of references
say what is usual for a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from zsad.images.tile_scoring import TILES_AT_ONCE, Cutting
from zsad.methods.base import Support
from zsad.methods.functional.maps import upsample
from zsad.methods.functional.references import WAYS_TO_TURN

if TYPE_CHECKING:
    from torch import Tensor

    from zsad.images.tiles import Box, Tile
    from zsad.methods.base import Method
    from zsad.methods.functional.references import ReferenceMemory

MOST_REFERENCE_TILES = 256

Stack = Callable[[Iterable[Image.Image]], "Tensor"]
"""Prepares images, each taken when the one before it is done, as (B, 3, S, S) on the detector's device."""


def resized(maps: Tensor, size: tuple[int, int] | None) -> NDArray[np.float32]:
    """Maps of the network at a height and width, in the CPU's memory.

    Args:
        maps: (..., S, S) float32.
        size: height and width in pixels; None leaves the maps as they are.
    """
    at_size: NDArray[np.float32] = (maps if size is None else upsample(maps, size)).cpu().numpy()
    return at_size


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

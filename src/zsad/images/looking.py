"""How images are looked at: read at a depth, cut to a region of interest and into tiles, and prepared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from zsad.images.limits import Bits, common_depth
from zsad.images.preparing import Preparation, to_array
from zsad.images.reading import read_image
from zsad.images.region import Region, check_region
from zsad.images.tile_scoring import Cutting
from zsad.images.tiles import Tile, setting_of

if TYPE_CHECKING:
    from PIL import Image

    from zsad.images.streams import ReadImage


@dataclass(frozen=True)
class Looking:
    """How the images of a detector become what its network sees.

    Attributes:
        preparation: size and normalisation of the network's input, and depth of the values in 16-bit files.
        tile: how large images are cut into tiles; None for whole images.
        roi: region of interest; None for whole images.

    Example:
        >>> looking = Looking(Preparation(32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
        >>> looking.at_depth(12).with_tile(64).cutting
        Cutting(tile=64, network=32)
    """

    preparation: Preparation
    tile: Tile = None
    roi: Region | None = None

    @property
    def bits(self) -> int | None:
        """Depth of the values in 16-bit files; None for what each file states."""
        return self.preparation.bits

    @property
    def cutting(self) -> Cutting:
        """How images are cut into tiles."""
        return Cutting(self.tile, int(self.preparation.size))

    def at_depth(self, bits: Bits) -> Looking:
        """The same at another depth; None keeps the depth.

        Raises:
            ConfigError: the depth is not a whole number from 1 to 16.
        """
        return self if bits is None else self.with_depth(common_depth(bits))

    def with_depth(self, depth: int | None) -> Looking:
        """The same at a depth of 1 to 16 bits; None for what each file states."""
        return replace(self, preparation=replace(self.preparation, bits=depth))

    def with_tile(self, tile: Tile) -> Looking:
        """The same with another tile setting; None keeps the setting.

        Raises:
            ConfigError: the setting is impossible.
        """
        return self if tile is None else replace(self, tile=setting_of(tile))

    def read(self, source: Any) -> ReadImage:
        """Reads an image; one that will be cut into tiles may be larger.

        Args:
            source: an `ImageSource`, or a tensor.

        Returns:
            The file that it comes from, None for an image in memory, and the image.

        Raises:
            ImageReadError: the image cannot be read, or the region lies outside of it.
        """
        path = Path(source).expanduser() if isinstance(source, (str, Path)) else None
        image = read_image(source, bits=self.bits, for_tiles=self.tile is not None)
        check_region(image, self.roi, path)
        return path, image

    def read_part(self, source: Any) -> Image.Image:
        """Reads an image; the part of it that is looked at.

        Raises:
            ImageReadError: as for `read`.
        """
        return cut(self.read(source)[1], self.roi)


class _Prediction(Protocol):
    """A dataclass with these fields, and fields `image` and `roi`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def anomaly_map(self) -> NDArray[np.float32]: ...

    @property
    def map_range(self) -> tuple[float, float]: ...


PredictionT = TypeVar("PredictionT", bound=_Prediction)


def cut(image: Image.Image, roi: Region | None) -> Image.Image:
    """The part of an image that is looked at; see `zsad.images.region.Window.cut`."""
    return image if roi is None else roi.window(image.size).cut(image)


def look(
    images: Sequence[ReadImage],
    roi: Region | None,
    predict: Callable[[Sequence[ReadImage]], list[PredictionT]],
) -> list[PredictionT]:
    """Predicts the parts of images that are looked at, and places them in the whole images.

    Args:
        images: the images as they were read.
        roi: region of interest; None for whole images.
        predict: gives the `zsad.Prediction` of each image.

    Raises:
        ImageReadError: the region lies outside of an image.
    """
    if roi is None:
        return predict(images)
    windows = [roi.window(image.size) for _, image in images]
    found = predict(
        [(path, window.cut(image)) for (path, image), window in zip(images, windows, strict=True)]
    )
    return [
        replace(
            one,
            image=to_array(image),
            anomaly_map=window.place(one.anomaly_map, one.map_range[0]),
            roi=window.pixels(),
        )
        for one, (_, image), window in zip(found, images, windows, strict=True)
    ]

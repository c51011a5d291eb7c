"""Looks at a region of interest only: cuts images to it, and places predictions in the whole images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from zsad.images.preparing import to_array

if TYPE_CHECKING:
    from PIL import Image

    from zsad.images.region import Region
    from zsad.images.streams import ReadImage


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

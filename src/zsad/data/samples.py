"""Prepares images and masks for the network and the metrics, with NumPy and Pillow only.

Source: the preparation that the CLIP-based systems share (AnomalyCLIP's `get_transform` and dataset). Image:
RGB, squashed to a square with Pillow's bicubic filter, normalised. Mask: grey, `> 0`, squashed with Pillow's
bilinear filter (antialiased) at 8 bits, `> 0.5`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.data.masks import read_mask
from zsad.errors import DataError, ImageReadError
from zsad.images.preparing import Preparation, prepare
from zsad.images.reading import read_image
from zsad.types import UNLABELLED

if TYPE_CHECKING:
    from zsad.types import Sample


@dataclass(frozen=True)
class PreparedSample:
    """One labelled image, ready for a batch.

    Attributes:
        image: (3, S, S) float32, resized and normalised.
        mask: (S, S) uint8 in {0, 1}, 1 where anomalous; None for an anomalous image without a mask.
        label: 1 anomalous, 0 normal.
        class_name: name of the category for prompts ("metal nut").
    """

    image: NDArray[np.float32]
    mask: NDArray[np.uint8] | None
    label: int
    class_name: str


def resize_mask(mask: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """Squashes a mask to a square.

    Args:
        mask: (H, W), anomalous where it is above 0.
        size: side of the result, in pixels.

    Returns:
        (size, size) uint8 in {0, 1}: 1 where more than half of the pixel's neighbourhood is anomalous.
    """
    levels = Image.fromarray((np.asarray(mask) > 0).astype(np.uint8) * np.uint8(255))
    squashed = np.asarray(levels.resize((size, size), Image.Resampling.BILINEAR))
    return (squashed > 127).astype(np.uint8)  # in [0, 1] units: more than 0.5


def prepare_sample(
    source: Any,
    mask: NDArray[Any] | None,
    label: int,
    class_name: str,
    preparation: Preparation,
) -> PreparedSample:
    """Prepares an image and its mask together.

    Args:
        source: anything that `zsad.images.reading.read_image` takes.
        mask: (H, W) mask of the size of the image, anomalous where above 0; None for a normal image, in which
            no pixel is anomalous, or for an anomalous one whose anomalous pixels are unknown.
        label: 1 anomalous, 0 normal.
        class_name: name of the category for prompts ("metal nut").
        preparation: size of the network's input, normalisation of its values, depth of 16-bit files.

    Returns:
        Image and mask at (size, size).

    Raises:
        ImageReadError: the image cannot be read.
        DataError: mask and image differ in size, or the label is neither 0 nor 1.
    """
    if label == UNLABELLED:
        raise DataError("has no label; say in a CSV list whether it is normal or anomalous")
    if label not in (0, 1):
        raise DataError(f"label must be 0 (normal) or 1 (anomalous), got {label!r}")
    image = read_image(source, bits=preparation.bits)
    if mask is not None and mask.shape != (image.height, image.width):
        raise DataError(
            f"the mask is {' x '.join(map(str, mask.shape[::-1]))} pixels, its image {image.width} x "
            f"{image.height}; both must be of one size"
        )
    resized = None if mask is None else resize_mask(mask, preparation.size)
    if mask is None and label == 0:
        resized = np.zeros((preparation.size, preparation.size), dtype=np.uint8)
    return PreparedSample(prepare(image, preparation), resized, int(label), class_name)


def load_sample(sample: Sample, preparation: Preparation) -> PreparedSample:
    """Reads and prepares a sample of a dataset.

    Args:
        sample: sample of a dataset.
        preparation: size of the network's input, normalisation of its values, depth of 16-bit files.

    Returns:
        Image and mask at (size, size).

    Raises:
        ImageReadError: image or mask cannot be read.
        DataError: mask and image differ in size; the message names the mask.
    """
    mask = None if sample.mask_path is None else read_mask(sample.mask_path)
    try:
        return prepare_sample(sample.path, mask, sample.label, sample.category, preparation)
    except ImageReadError:
        raise
    except DataError as error:
        raise DataError(f"{sample.mask_path or sample.path}: {error}") from error

"""Prepares images and masks for the network and the metrics, with NumPy and Pillow only.

Source: the preparation that the CLIP-based systems share (AnomalyCLIP's `get_transform` and dataset). Image:
RGB, squashed to a square with Pillow's bicubic filter, normalised. Mask: grey, `> 0`, squashed with Pillow's
bilinear filter (antialiased) at 8 bits, `> 0.5`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
    from zsad.images.region import Region
    from zsad.types import Sample


Change = Callable[[Image.Image, NDArray[np.bool_]], tuple[Image.Image, NDArray[np.bool_]]]


@dataclass(frozen=True)
class PreparedSample:
    """One labelled image, ready for a batch.

    Attributes:
        image: (3, S, S) float32, resized and normalised.
        mask: (S, S) uint8 in {0, 1}, 1 where anomalous; None for an anomalous image without a mask.
        label: 1 anomalous, 0 normal.
        class_name: name of the category for prompts ("metal nut").
        inside: (S, S) bool, pixels of the region of interest; None for all.
        mask_fault: line that begins with the file of a mask that cannot be used, and says why; None if the
            mask is used, or if there is none.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.uint8] | None
    label: int
    class_name: str
    inside: NDArray[np.bool_] | None = None
    mask_fault: str | None = None


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
    roi: Region | None = None,
    change: Change | None = None,
) -> PreparedSample:
    """Prepares an image and its mask together.

    Args:
        source: anything that `zsad.images.reading.read_image` takes.
        mask: (H, W) mask of the size of the image, anomalous where above 0; None for a normal image, in which
            no pixel is anomalous, or for an anomalous one whose anomalous pixels are unknown.
        label: 1 anomalous, 0 normal.
        class_name: name of the category for prompts ("metal nut").
        preparation: size of the network's input, normalisation of its values, depth of 16-bit files.
        roi: region of interest, to whose bounding box image and mask are cut; None for the whole image.
        change: changes the image and its mask together before they are resized; None for no change.

    Returns:
        Image and mask at (size, size).

    Raises:
        ImageReadError: the image cannot be read, or the region lies outside of it.
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
    inside = None
    if roi is not None:
        window = roi.window(image.size)
        image = window.cut(image)
        mask = None if mask is None else window.cut_array(mask)
        inside = None if window.inside is None else resize_mask(window.inside, preparation.size) > 0
    if change is not None:
        known = np.zeros((image.height, image.width), dtype=np.bool_) if mask is None else mask > 0
        image, known = change(image, known)
        mask = None if mask is None else known
    resized = None if mask is None else resize_mask(mask, preparation.size)
    if mask is None and label == 0:
        resized = np.zeros((preparation.size, preparation.size), dtype=np.uint8)
    return PreparedSample(prepare(image, preparation), resized, int(label), class_name, inside)


def load_sample(
    sample: Sample, preparation: Preparation, roi: Region | None = None, change: Change | None = None
) -> PreparedSample:
    """Reads and prepares a sample of a dataset.

    Args:
        sample: sample of a dataset.
        preparation: size of the network's input, normalisation of its values, depth of 16-bit files.
        roi: region of interest, as `prepare_sample` takes it.
        change: change of image and mask, as `prepare_sample` takes it.

    Returns:
        Image and mask at (size, size).

    Raises:
        ImageReadError: image or mask cannot be read.
        DataError: mask and image differ in size; the message names the mask.
    """
    mask = None if sample.mask_path is None else read_mask(sample.mask_path)
    try:
        return prepare_sample(sample.path, mask, sample.label, sample.category, preparation, roi, change)
    except ImageReadError:
        raise
    except DataError as error:
        raise DataError(f"{sample.mask_path or sample.path}: {error}") from error


def load_for_scoring(sample: Sample, preparation: Preparation, roi: Region | None = None) -> PreparedSample:
    """Reads and prepares a sample whose image counts even if its mask cannot be used.

    Args:
        sample: sample of a dataset.
        preparation: size of the network's input and normalisation of its values.
        roi: region of interest, as `prepare_sample` takes it.

    Returns:
        Image and mask at (size, size). A mask that cannot be read, has another size than its image, or marks
        nothing in an anomalous image is None, and `mask_fault` says so.

    Raises:
        ImageReadError: the image cannot be read.
        DataError: the sample has no label.
    """
    mask, fault = usable_mask(sample)
    try:
        prepared = prepare_sample(sample.path, mask, sample.label, sample.category, preparation, roi)
    except DataError as error:
        if mask is None:
            raise DataError(f"{sample.path}: {error}") from error
        fault = f"{sample.mask_path}: {error}"
        prepared = prepare_sample(sample.path, None, sample.label, sample.category, preparation, roi)
    return replace(prepared, mask_fault=fault)


def usable_mask(sample: Sample) -> tuple[NDArray[np.bool_] | None, str | None]:
    """Returns the mask of a sample, or None and the line that says why it cannot be used."""
    if sample.mask_path is None:
        return None, None
    try:
        mask = read_mask(sample.mask_path)
    except ImageReadError as error:
        return None, str(error)
    if sample.label == 1 and not mask.any():
        return None, f"{sample.mask_path}: marks nothing, but {sample.path} is anomalous; mark the defect"
    return mask, None

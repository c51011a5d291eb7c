"""Scores labelled images by tiles; maps and masks have the size of the image, so that small defects count."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from zsad.data.samples import usable_mask
from zsad.errors import ZsadError, one_line
from zsad.images.ahead import read_ahead
from zsad.images.reading import read_image
from zsad.images.region import check_region
from zsad.images.scoring import score_batch

if TYPE_CHECKING:
    from PIL import Image

    from zsad.detector.detector import Detector
    from zsad.images.region import Region
    from zsad.types import Sample


@dataclass(frozen=True)
class ReadSample:
    """An image with its mask, or the line that says why it cannot be read.

    Attributes:
        seconds: time to read both.
        image: RGB image; None after an error.
        mask: (H, W) bool of the image or of the region's box; None if unknown or unusable.
        inside: (H, W) bool, pixels of the box that belong to the region; None for all.
        mask_fault: line that says why the mask cannot be used; None if it can, or there is none.
        error: one line; None if the image was read.
    """

    seconds: float
    image: Image.Image | None = None
    mask: NDArray[np.bool_] | None = None
    inside: NDArray[np.bool_] | None = None
    mask_fault: str | None = None
    error: str | None = None


def read_samples(
    samples: Iterable[Sample], bits: int | None, roi: Region | None
) -> Generator[ReadSample, None, None]:
    """Reads images with their masks, one ahead of the one that is used, because they may be very large."""
    with closing(read_ahead(partial(_read, bits, roi), ([sample] for sample in samples))) as reading:
        for (read,) in reading:
            yield read


def predict_sample(
    detector: Detector, image: Image.Image, category: str, seed: int
) -> tuple[float, NDArray[np.float32]] | str:
    """Score and map of one image, or the line that says why there are none.

    Raises:
        ConfigError: the detector refuses its settings, which would be the same for every image.
    """

    def score(images: Sequence[Image.Image]) -> list[tuple[float, NDArray[np.float32]]]:
        torch.manual_seed(seed)
        found = detector.predict(list(images), classes=category)
        return [(each.score, _in_box(each.anomaly_map, detector.roi)) for each in found]

    return score_batch(score, [image])[0]


def _in_box(anomaly_map: NDArray[np.float32], roi: Region | None) -> NDArray[np.float32]:
    """The part of a map inside the bounding box of the region of interest."""
    if roi is None:
        return anomaly_map
    left, top, right, bottom = roi.window(anomaly_map.shape[::-1]).box
    return anomaly_map[top:bottom, left:right]


def _read(bits: int | None, roi: Region | None, sample: Sample) -> ReadSample:
    started = time.perf_counter()
    try:
        image = read_image(sample.path, bits=bits, for_tiles=True)
        check_region(image, roi, sample.path)
    except (ZsadError, OSError, MemoryError) as error:
        return ReadSample(time.perf_counter() - started, error=one_line(error))
    mask, fault = usable_mask(sample)
    if mask is not None and mask.shape != (image.height, image.width):
        fault = (
            f"{sample.mask_path}: the mask is {mask.shape[1]} x {mask.shape[0]} pixels, its image "
            f"{image.width} x {image.height}; both must be of one size"
        )
        mask = None
    if mask is None and fault is None and sample.label == 0:
        mask = np.zeros((image.height, image.width), np.bool_)
    inside = None
    if roi is not None:
        window = roi.window(image.size)
        mask, inside = None if mask is None else window.cut_array(mask), window.inside
    return ReadSample(time.perf_counter() - started, image, mask, inside, fault)

"""Mosaics: four images of a category as one, which APRIL-GAN and AdaCLIP train on when they use MVTec AD.

Source: the data loaders of both authors' code. An image that comes up in training is replaced, by chance, by
2 x 2 images of its category, each from a random kind ("good" counts as one) and of it a random image; the
masks go along. The label stays that of the replaced image, whatever the four are, and so does the class.

Which images are replaced, and by what, follows from seed, epoch and the image's number alone, so that a
resumed training, other numbers of threads or of devices see the same mosaics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.data.masks import read_mask
from zsad.data.samples import PreparedSample, prepare_sample
from zsad.errors import DataError
from zsad.images.reading import read_image

if TYPE_CHECKING:
    from zsad.images.preparing import Preparation
    from zsad.types import Sample

STREAM = 1  # tells these random numbers from those of the order of the images


@dataclass(frozen=True)
class Mosaic:
    """Four samples that take the place of one.

    Attributes:
        tiles: upper left, upper right, lower left, lower right.
        replaced: the sample whose label and class they get.
    """

    tiles: tuple[Sample, Sample, Sample, Sample]
    replaced: Sample


class Mosaics:
    """Decides for each image of an epoch whether it is replaced by a mosaic."""

    def __init__(self, samples: Sequence[Sample], groups: Sequence[int], chances: Sequence[float]) -> None:
        """Sorts the samples by group and kind.

        Args:
            samples: of the training data.
            groups: of each sample; tiles come from its own group.
            chances: of each sample, in [0, 1].
        """
        self._samples = samples
        self._groups = groups
        self._chances = chances
        self._kinds: dict[int, dict[str, list[Sample]]] = {}
        for sample, group in zip(samples, groups, strict=True):
            self._kinds.setdefault(group, {}).setdefault(sample.defect, []).append(sample)

    def draw(self, index: int, seed: int, epoch: int) -> Sample | Mosaic:
        """The sample of a number, or what replaces it in an epoch.

        Args:
            index: of the sample.
            seed: of the training.
            epoch: from 1.
        """
        sample = self._samples[index]
        generator = np.random.default_rng([seed, epoch, index, STREAM])
        if generator.random() >= self._chances[index]:
            return sample
        kinds = list(self._kinds[self._groups[index]].values())
        upper_left, upper_right, lower_left, lower_right = (
            of_kind[generator.integers(len(of_kind))]
            for of_kind in (kinds[generator.integers(len(kinds))] for _ in range(4))
        )
        return Mosaic((upper_left, upper_right, lower_left, lower_right), sample)


def load_mosaic(mosaic: Mosaic, preparation: Preparation) -> PreparedSample:
    """Reads four images and prepares them as one.

    The tiles have the size of the first image; others are brought to it.

    Args:
        mosaic: which images.
        preparation: size of the network's input and normalisation of its values.

    Returns:
        Image and mask at (size, size).

    Raises:
        ImageReadError: an image or mask cannot be read.
        DataError: a mask is missing or not of its image's size; the message names the file.
    """
    loaded = [_load_tile(sample) for sample in mosaic.tiles]
    width, height = loaded[0][0].size
    image, mask = Image.new("RGB", (2 * width, 2 * height)), Image.new("L", (2 * width, 2 * height))
    for number, (tile, tile_mask) in enumerate(loaded):
        corner = (number % 2 * width, number // 2 * height)
        image.paste(tile.resize((width, height), Image.Resampling.BICUBIC), corner)
        levels = Image.fromarray(tile_mask.astype(np.uint8) * np.uint8(255))
        mask.paste(levels.resize((width, height), Image.Resampling.NEAREST), corner)
    replaced = mosaic.replaced
    return prepare_sample(image, np.asarray(mask), replaced.label, replaced.category, preparation)


def _load_tile(sample: Sample) -> tuple[Image.Image, NDArray[np.bool_]]:
    """Image and (H, W) mask of a sample at the image's own size."""
    image = read_image(sample.path)
    shape = (image.height, image.width)
    if sample.mask_path is None:
        if sample.label:
            raise DataError(f"{sample.path}: anomalous without a mask, which a mosaic needs")
        return image, np.zeros(shape, dtype=bool)
    mask = read_mask(sample.mask_path)
    if mask.shape != shape:
        raise DataError(
            f"{sample.mask_path}: the mask is {mask.shape[1]} x {mask.shape[0]} pixels, its image "
            f"{shape[1]} x {shape[0]}; both must be of one size"
        )
    return image, mask

"""Mosaics: four images of a category joined to one, on which APRIL-GAN and AdaCLIP train with MVTec AD.

Source: the data loaders in the code of both papers. In training, an image is replaced with a given
probability by 2 x 2 images of its category. Each of them is a random image of a random kind of defect, where
"good" counts as a kind; the masks are joined in the same way. Label and class stay those of the replaced
image, whatever the four images are.

Seed, epoch and number of the image alone decide which images are replaced, and by what. A resumed training,
or one with another number of threads or devices, therefore sees the same mosaics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.data.augmentation import Augmented
from zsad.data.masks import read_mask
from zsad.data.samples import PreparedSample, load_sample, prepare_sample
from zsad.errors import DataError
from zsad.images.reading import read_image
from zsad.types import Sample

if TYPE_CHECKING:
    from zsad.data.samples import Change
    from zsad.images.preparing import Preparation

STREAM = 1  # keeps these random numbers apart from those that decide the order of the images


@dataclass(frozen=True)
class Mosaic:
    """Four samples that replace one.

    Attributes:
        tiles: samples in the upper left, upper right, lower left and lower right corner.
        replaced: sample whose label and class the mosaic gets.
    """

    tiles: tuple[Sample, Sample, Sample, Sample]
    replaced: Sample


class Mosaics:
    """Decides for each image of an epoch whether it is replaced by a mosaic."""

    def __init__(self, samples: Sequence[Sample], groups: Sequence[int], chances: Sequence[float]) -> None:
        """Groups the samples by category and kind of defect.

        Args:
            samples: samples of the training data.
            groups: number of the category of each sample; its tiles come from the same category.
            chances: probability that each sample is replaced, in [0, 1].
        """
        self._samples = samples
        self._groups = groups
        self._chances = chances
        self._kinds: dict[int, dict[str, list[Sample]]] = {}
        for sample, group in zip(samples, groups, strict=True):
            self._kinds.setdefault(group, {}).setdefault(sample.defect, []).append(sample)

    def draw(self, index: int, seed: int, epoch: int) -> Sample | Mosaic:
        """Returns a sample, or the mosaic that replaces it in an epoch.

        Args:
            index: number of the sample, from 0.
            seed: seed of the training.
            epoch: number of the epoch, from 1.
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


def load_mosaic(mosaic: Mosaic, preparation: Preparation, change: Change | None = None) -> PreparedSample:
    """Reads four images and prepares them as one.

    Images of another size are resized to the size of the first one.

    Args:
        mosaic: the four samples, and the one that they replace.
        change: change of the whole mosaic, as `zsad.data.samples.prepare_sample` takes it.
        preparation: size of the network's input and normalisation of its values.

    Returns:
        Image and mask at (size, size); no mask if that of an anomalous tile is not known.

    Raises:
        ImageReadError: an image or mask cannot be read.
        DataError: a mask has another size than its image; the message names the file.
    """
    loaded = [_load_tile(sample, preparation.bits) for sample in mosaic.tiles]
    width, height = loaded[0][0].size
    image, mask = Image.new("RGB", (2 * width, 2 * height)), Image.new("L", (2 * width, 2 * height))
    for number, (tile, tile_mask) in enumerate(loaded):
        corner = (number % 2 * width, number // 2 * height)
        image.paste(tile.resize((width, height), Image.Resampling.BICUBIC), corner)
        if tile_mask is None:
            continue
        levels = Image.fromarray(tile_mask.astype(np.uint8) * np.uint8(255))
        mask.paste(levels.resize((width, height), Image.Resampling.NEAREST), corner)
    replaced = mosaic.replaced
    prepared = prepare_sample(
        image, np.asarray(mask), replaced.label, replaced.category, preparation, change=change
    )
    is_known = all(tile_mask is not None for _, tile_mask in loaded)
    return prepared if is_known else dataclasses.replace(prepared, mask=None)


def _load_tile(sample: Sample, bits: int | None) -> tuple[Image.Image, NDArray[np.bool_] | None]:
    """Reads the image of a sample and its (H, W) mask, at the size of the image; None if it is not known."""
    image = read_image(sample.path, bits=bits)
    shape = (image.height, image.width)
    if sample.mask_path is None:
        return image, None if sample.label else np.zeros(shape, dtype=bool)
    mask = read_mask(sample.mask_path)
    if mask.shape != shape:
        raise DataError(
            f"{sample.mask_path}: the mask is {mask.shape[1]} x {mask.shape[0]} pixels, its image "
            f"{shape[1]} x {shape[0]}; both must be of one size"
        )
    return image, mask


def prepare_item(item: Any, preparation: Preparation, change: Change | None = None) -> PreparedSample:
    """Makes an item of the training data ready for a batch.

    Args:
        item: a `Sample`, a `Mosaic` of them, or (image, mask, label, class name); or one of these as
            `Augmented`.
        preparation: size of the network's input and normalisation of its values.
        change: change of image and mask, as `zsad.data.samples.prepare_sample` takes it.

    Returns:
        The image with its mask, if it has one.

    Raises:
        ImageReadError: image or mask cannot be read.
        DataError: the mask does not have the size of the image.
    """
    if isinstance(item, Augmented):
        return prepare_item(item.item, preparation, item.change)
    if isinstance(item, Mosaic):
        return load_mosaic(item, preparation, change)
    if isinstance(item, Sample):
        return load_sample(item, preparation, change=change)
    image, mask, label, class_name = item
    mask = None if mask is None else np.asarray(mask)
    return prepare_sample(image, mask, int(label), str(class_name), preparation, change=change)

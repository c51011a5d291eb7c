"""Random changes of training images: small rotations and shifts, mirrors, colours, noise and blur.

Two kinds, as two papers train:

* "shifted" (AA-CLIP, 2503.06661, stages 1 and 2): rotation by up to 30 degrees, a shift of up to 15 % of each
  side, and both mirrors, each with probability 0.5;
* "shifted_coloured" (AA-CLIP, stage 2): before it, brightness, contrast and saturation changed by a factor in
  [0.5, 1.5], each with probability 0.7;
* "varied" (Bayes-PFL, 2503.10080): rotation by up to 30 degrees, quarter turns, brightness and contrast,
  Gaussian noise, and either a blur or a change of colours, each with probability 0.5.

Deviation: AA-CLIP's authors move the network's normalised input, where the border is filled with 0, the mean
colour; here the image is moved before it is resized, and the border gets the mean colour of the image.

All numbers come from the generator that is given, so a resumed training sees the same images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

if TYPE_CHECKING:
    from zsad.types import Augmentation

LARGEST_ANGLE = 30.0
LARGEST_SHIFT = 0.15
LARGEST_NOISE = 0.04
LARGEST_BLUR = 2.0
STREAM = 2  # keeps these random numbers apart from those of the order and of mosaics

Pair = tuple[Image.Image, Image.Image]


@dataclass(frozen=True)
class Augmented:
    """An item of the training data that is changed at random before it is used.

    Attributes:
        item: the item, as `zsad.data.mosaic.prepare_item` takes it.
        kind: which changes.
        seed: numbers that the changes depend on: seed of the training, epoch, number of the item.
    """

    item: Any
    kind: Augmentation
    seed: tuple[int, ...]

    def change(self, image: Image.Image, mask: NDArray[np.bool_]) -> tuple[Image.Image, NDArray[np.bool_]]:
        """`augment` with the random numbers of this item."""
        return augment(image, mask, self.kind, np.random.default_rng([*self.seed, STREAM]))


def augment(
    image: Image.Image, mask: NDArray[np.bool_], kind: Augmentation, generator: np.random.Generator
) -> tuple[Image.Image, NDArray[np.bool_]]:
    """Changes an image and its mask together.

    Args:
        image: RGB image of H x W pixels.
        mask: (H, W), True where anomalous.
        kind: which changes; "none" returns both as they are.
        generator: source of the random numbers.

    Returns:
        Image and mask of one size, which a quarter turn swaps.

    Example:
        >>> image, mask = Image.new("RGB", (6, 4)), np.zeros((4, 6), dtype=bool)
        >>> augment(image, mask, "shifted", np.random.default_rng(0))[0].size
        (6, 4)
    """
    if kind == "none":
        return image, mask
    if kind == "shifted_coloured":
        image = _coloured(image, generator, chance=0.7, strength=0.5, saturation=True)
    pair = image, Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    if kind == "varied":
        pair = _sometimes(generator, _turned, pair)
        pair = _sometimes(generator, _quarter_turned, pair)
        changed = _varied(pair[0], generator)
        return changed, np.asarray(pair[1]) > 0
    for change in (_turned, _moved, _mirrored, _flipped):
        pair = _sometimes(generator, change, pair)
    return pair[0], np.asarray(pair[1]) > 0


def _sometimes(
    generator: np.random.Generator, change: Callable[[Pair, np.random.Generator], Pair], pair: Pair
) -> Pair:
    """Applies a change with probability 0.5."""
    return change(pair, generator) if generator.random() < 0.5 else pair


def _turned(pair: Pair, generator: np.random.Generator) -> Pair:
    angle = generator.uniform(-LARGEST_ANGLE, LARGEST_ANGLE)
    image, mask = pair
    return image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=_mean_colour(image)), mask.rotate(angle)


def _moved(pair: Pair, generator: np.random.Generator) -> Pair:
    image, mask = pair
    right, down = generator.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, 2) * image.size
    matrix = (1, 0, -round(right), 0, 1, -round(down))
    affine = Image.Transform.AFFINE
    return (
        image.transform(image.size, affine, matrix, fillcolor=_mean_colour(image)),
        mask.transform(mask.size, affine, matrix),
    )


def _mirrored(pair: Pair, _: np.random.Generator) -> Pair:
    return _transposed(pair, Image.Transpose.FLIP_LEFT_RIGHT)


def _flipped(pair: Pair, _: np.random.Generator) -> Pair:
    return _transposed(pair, Image.Transpose.FLIP_TOP_BOTTOM)


def _quarter_turned(pair: Pair, generator: np.random.Generator) -> Pair:
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    return _transposed(pair, turns[generator.integers(len(turns))])


def _transposed(pair: Pair, how: Image.Transpose) -> Pair:
    return pair[0].transpose(how), pair[1].transpose(how)


def _varied(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Bayes-PFL's changes of the image alone."""
    if generator.random() < 0.5:
        image = _coloured(image, generator, chance=1.0, strength=0.2, saturation=False)
    if generator.random() < 0.5:
        levels = np.asarray(image, dtype=np.float32)
        noise = generator.normal(0, 255 * generator.uniform(0.01, LARGEST_NOISE), levels.shape)
        image = Image.fromarray((levels + noise).clip(0, 255).round().astype(np.uint8))
    if generator.random() < 0.5:
        if generator.random() < 1 / 3:
            return _coloured(image, generator, chance=1.0, strength=0.2, saturation=True)
        return image.filter(ImageFilter.GaussianBlur(generator.uniform(0.5, LARGEST_BLUR)))
    return image


def _coloured(
    image: Image.Image,
    generator: np.random.Generator,
    *,
    chance: float,
    strength: float,
    saturation: bool,
) -> Image.Image:
    """Changes brightness, contrast and perhaps saturation by factors in [1 - strength, 1 + strength]."""
    kinds = [ImageEnhance.Brightness, ImageEnhance.Contrast]
    for enhance in [*kinds, ImageEnhance.Color] if saturation else kinds:
        if generator.random() < chance:
            image = enhance(image).enhance(generator.uniform(1 - strength, 1 + strength))
    return image


def _mean_colour(image: Image.Image) -> tuple[int, ...]:
    return tuple(int(value) for value in np.asarray(image).reshape(-1, 3).mean(axis=0).round())

"""Class token in the joint space, and patches of chosen layers as they leave the blocks of the image encoder.

Shapes: B images, T used layers, N = G*G patches, D encoder width, E joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zsad.methods.functional.maps import grid_side, in_parts

if TYPE_CHECKING:
    from zsad.backbones.vision import VisionTower

IMAGES_AT_ONCE = 8  # of a batch that holds a whole category


@dataclass(frozen=True)
class RawFeatures:
    """The frozen part of a batch.

    Attributes:
        image_features: (B, E) float32 image embedding, not normalised.
        patch_tokens: (B, T, N, D) float32 patches after each of the T used layers, before the final layer
            norm.
    """

    image_features: Tensor
    patch_tokens: Tensor

    def image_size(self, patch_size: int) -> int:
        """Pixels a side of the images that the features were made from."""
        return grid_side(self.patch_tokens.shape[-2]) * patch_size

    def rows(self, images: slice) -> RawFeatures:
        """The features of some images of the batch."""
        return RawFeatures(self.image_features[images], self.patch_tokens[images])


def raw_features(
    visual: VisionTower, images: Tensor, layers: Sequence[int], at_once: int | None = None
) -> RawFeatures:
    """One pass through the image encoder.

    Args:
        visual: the image encoder.
        images: (B, 3, S, S) resized and normalised images.
        layers: T 1-based layers.
        at_once: number of images that go through the encoder together; None for all.
    """

    def read(part: Tensor) -> tuple[Tensor, Tensor]:
        output = visual(part, taps=layers)
        tokens = torch.stack([output.tokens[layer][:, 1:] for layer in layers], dim=1)
        return visual.project(output.class_token).float(), tokens.float()

    return RawFeatures(*(read(images) if at_once is None else in_parts(read, images, at_once)))


def slices(count: int, at_once: int = IMAGES_AT_ONCE) -> list[slice]:
    """Rows of a batch, a few at a time.

    Example:
        >>> slices(3, at_once=2)
        [slice(0, 2, None), slice(2, 4, None)]
    """
    return [slice(start, start + at_once) for start in range(0, count, at_once)]

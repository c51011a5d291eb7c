"""What a detector is given to score, as the network takes it: checked, and stacked into batches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsad.backbones.vision import check_image_size
from zsad.errors import ConfigError
from zsad.images.preparing import Preparation, prepare_batch

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP
    from zsad.methods.base import Method

MOST_TIMES_NATIVE = 8  # sides of the input over the side that the position table was made for
LARGEST_ALWAYS = 1024  # pixels a side that are allowed whatever the table

ImageInput = str | Path | IO[bytes] | Image.Image | NDArray[Any] | Tensor
"""One image: a path, an open file, a PIL image, an HWC uint8 array or a CHW float tensor in [0, 1]."""


def stack(images: Iterable[Image.Image], preparation: Preparation) -> Tensor:
    """A batch as the network takes it.

    Args:
        images: RGB images of any sizes, at least one, as `prepare_batch` takes them.
        preparation: size S and normalisation of the network's input.

    Returns:
        (B, 3, S, S) float32 on the CPU.
    """
    return torch.from_numpy(prepare_batch(images, preparation))


def batch_for(method: Method, images: Iterable[Image.Image], preparation: Preparation) -> Tensor:
    """A batch as the network of a method takes it: (B, 3, S, S) float32 on its device; see `stack`."""
    return stack(images, preparation).to(method.backbone.text_projection.device)


def check_size(image_size: int, backbone: CLIP) -> None:
    """Refuses a size in pixels that a backbone cannot work at.

    Raises:
        ConfigError: the size is not a whole number, not a positive multiple of the patch size, or much larger
            than the size of the weights, so that an image would take hours.
    """
    patch_size = backbone.config.vision.patch_size
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < patch_size:
        raise ConfigError(
            f"image_size must be a multiple of the patch size {patch_size} in pixels, got {image_size!r}"
        )
    check_image_size(image_size, image_size, patch_size)
    largest = max(MOST_TIMES_NATIVE * backbone.config.vision.image_size, LARGEST_ALWAYS)
    if image_size > largest:
        raise ConfigError(
            f"image_size must be at most {largest} pixels for weights that were made for "
            f"{backbone.config.vision.image_size}, got {image_size}: give a smaller one"
        )


def check_trained(method: Method, is_trained: bool) -> None:
    """Refuses to predict with parameters that have not been learnt.

    Raises:
        ConfigError: the method has not been trained; the message says how to train it.
    """
    if not is_trained:
        name = method.INFO.name
        backbone = method.backbone.record.name if method.backbone.record else "this network"
        raise ConfigError(
            f"{name} on {backbone} has random parameters, so its predictions would mean nothing: give "
            f"checkpoint=FILE, or train it with `zsad train --method {name} --backbone {backbone}`"
        )


def check_tensors(images: Any) -> None:
    """Refuses anything but a batch of resized and normalised images.

    Raises:
        ConfigError: the input is not a floating tensor of shape (B, 3, S, S).
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ConfigError(f"score_tensors takes a tensor of shape (B, 3, S, S), got {shape}")
    if not images.is_floating_point():
        raise ConfigError(f"score_tensors takes normalised floating images, got {images.dtype}")

"""What a detector is given to score: checked, read, and stacked into batches for the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsad.backbones.vision import check_image_size
from zsad.errors import ConfigError
from zsad.images.preparing import Preparation, prepare
from zsad.images.reading import read_image

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

SEVERAL = 4  # dimensions of an array that holds several images

ImageInput = str | Path | IO[bytes] | Image.Image | NDArray[Any] | Tensor
"""One image: a path, an open file, a PIL image, an HWC uint8 array or a CHW float tensor in [0, 1]."""

ReadImage = tuple[Path | None, Image.Image]
"""An image with the file it comes from; None for an image in memory."""


def holds_several(inputs: Any) -> TypeGuard[Sequence[Any]]:
    """Whether an input of `Detector.predict` is a list, a tuple or a four-dimensional array of images."""
    return isinstance(inputs, (list, tuple)) or (
        isinstance(inputs, (np.ndarray, Tensor)) and inputs.ndim == SEVERAL
    )


def read(source: Any) -> ReadImage:
    """Reads an image.

    Args:
        source: an `ImageInput`.

    Raises:
        ImageReadError: the image cannot be read.
    """
    path = Path(source) if isinstance(source, (str, Path)) else None
    return path, read_image(source)


def stack(images: Sequence[Image.Image], preparation: Preparation) -> Tensor:
    """A batch as the network takes it.

    Args:
        images: RGB images of any sizes; at least one.
        preparation: size S and normalisation of the network's input.

    Returns:
        (B, 3, S, S) float32 on the CPU.
    """
    arrays = [prepare(image, preparation) for image in images]
    return torch.from_numpy(np.stack(arrays))


def check_size(image_size: int, backbone: CLIP) -> None:
    """Refuses a size in pixels that the patches of a backbone do not divide.

    Raises:
        ConfigError: the size is not a whole number, or not a positive multiple of the patch size.
    """
    patch_size = backbone.config.vision.patch_size
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < patch_size:
        raise ConfigError(
            f"image_size must be a multiple of the patch size {patch_size} in pixels, got {image_size!r}"
        )
    check_image_size(image_size, image_size, patch_size)


def check_stream(source: Any, batch_size: int) -> None:
    """Refuses what `Detector.predict_iter` cannot iterate over in batches.

    Raises:
        ConfigError: the source is a single image, or the batch size is not a whole number above 0.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size must be a whole number of images above 0, got {batch_size!r}")
    if isinstance(source, Image.Image) or getattr(source, "ndim", SEVERAL) < SEVERAL:
        raise ConfigError("predict_iter takes many images; for one image use predict(image)")


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

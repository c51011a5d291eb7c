"""What a detector is given to score: checked, read, and stacked into batches for the network."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsad.backbones.vision import check_image_size
from zsad.errors import ConfigError
from zsad.images.ahead import read_ahead
from zsad.images.preparing import Preparation, prepare
from zsad.images.reading import read_image

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP
    from zsad.methods.base import Method

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
    path = Path(source).expanduser() if isinstance(source, (str, Path)) else None
    return path, read_image(source)


def read_batches(
    images: Iterator[tuple[ImageInput, str | None]], batch_size: int
) -> Generator[tuple[tuple[ReadImage, ...], tuple[str | None, ...]], None, None]:
    """Reads a stream of images in batches, each batch while the one before it is used.

    Args:
        images: images with their class names.
        batch_size: number of images in a batch; the last batch may be smaller.

    Yields:
        The images of a batch and their class names.

    Raises:
        ImageReadError: an image cannot be read.
    """
    batches = iter(lambda: list(itertools.islice(images, batch_size)), [])

    def read_pair(pair: tuple[ImageInput, str | None]) -> tuple[ReadImage, str | None]:
        return read(pair[0]), pair[1]

    with contextlib.closing(read_ahead(read_pair, batches)) as reading:
        for batch in reading:
            found, names = zip(*batch, strict=True)
            yield found, names


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

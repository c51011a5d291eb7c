"""Streams of images to score: read ahead in batches, and each result or error in its place."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, TypeGuard, get_args

from numpy.typing import NDArray
from PIL import Image

from zsad.errors import ConfigError, ImageReadError, unknown_name
from zsad.images.ahead import MOST_BYTES_AT_ONCE, parts_by_size, read_ahead
from zsad.images.decoding import file_bytes
from zsad.images.names import Pages

SEVERAL = 4  # dimensions of an array that holds several images

ImageSource = str | Path | IO[bytes] | Image.Image | NDArray[Any]
"""One image: a path, an open file, a PIL image, an HWC uint8 array or a CHW float array in [0, 1]."""

OnError = Literal["raise", "skip", "yield"]
"""What becomes of an image that cannot be read: the stream ends, leaves it out, or holds its error."""

ReadImage = tuple[Path | None, Image.Image]
"""An image with the file it comes from; None for an image in memory."""


def holds_several(inputs: Any) -> TypeGuard[Sequence[Any]]:
    """Whether an input of `Detector.predict` is a list, a tuple or a four-dimensional array of images."""
    return isinstance(inputs, (list, tuple)) or getattr(inputs, "ndim", None) == SEVERAL


def read_batches(
    images: Iterator[tuple[Any, str | None]],
    batch_size: int,
    read: Callable[[Any], ReadImage],
    *,
    are_named: bool = True,
    is_joint: bool = False,
) -> Generator[list[tuple[ReadImage | ImageReadError, str | None]], None, None]:
    """Reads a stream of images in batches, each batch while the one before it is used.

    Args:
        images: images with their class names.
        batch_size: number of images in a batch; the last batch may be smaller.
        read: reads an image, or raises an `ImageReadError`.
        are_named: whether the names of files tell the images apart; otherwise an error begins with the
            position of the image ("inputs[2]: ").
        is_joint: whether the images of a batch belong together; otherwise a batch of very large files comes
            in several parts.

    Yields:
        The images of a batch, each with its class name; in place of an image that cannot be read, the error.
    """
    numbered = enumerate(images)
    batches = iter(lambda: list(itertools.islice(numbered, batch_size)), [])
    most_bytes = None if is_joint else MOST_BYTES_AT_ONCE
    parts = (part for batch in batches for part in parts_by_size(batch, _bytes, most_bytes))

    def read_one(
        item: tuple[int, tuple[Any, str | None]],
    ) -> tuple[ReadImage | ImageReadError, str | None]:
        position, (image, name) = item
        try:
            return read(image), name
        except ImageReadError as error:
            return error if are_named else ImageReadError(f"inputs[{position}]: {error}"), name

    with contextlib.closing(read_ahead(read_one, parts)) as reading:
        yield from reading


def _bytes(item: tuple[int, tuple[Any, str | None]]) -> int:
    """Memory in bytes that decoding a file takes; 0 for an image that is in memory already."""
    image = item[1][0]
    return file_bytes(image) if isinstance(image, str | Path) else 0


def scored_stream(
    batches: Generator[list[tuple[ReadImage | ImageReadError, str | None]], None, None],
    score: Callable[[Sequence[ReadImage], Sequence[str | None]], Sequence[Any]],
    on_error: OnError,
) -> Iterator[Any]:
    """Scores a stream of batches as `in_their_places` does each; the next one is read meanwhile."""
    with contextlib.closing(batches):
        for batch in batches:
            yield from in_their_places(batch, score, on_error)


def in_their_places(
    batch: Sequence[tuple[ReadImage | ImageReadError, str | None]],
    score: Callable[[Sequence[ReadImage], Sequence[str | None]], Sequence[Any]],
    on_error: OnError,
) -> Iterator[Any]:
    """Scores the readable images of a batch, and does with the others what the user wishes.

    Args:
        batch: images or errors with class names, from `read_batches`.
        score: gives one result for each image.
        on_error: what becomes of an image that could not be read.

    Yields:
        Results in the order of the images; with "yield", errors in the place of images.

    Raises:
        ImageReadError: with "raise", an image could not be read.
    """
    readable = [(image, name) for image, name in batch if not isinstance(image, ImageReadError)]
    errors = [image for image, _ in batch if isinstance(image, ImageReadError)]
    if errors and on_error == "raise":
        raise errors[0]
    results = iter(score(*zip(*readable, strict=True)) if readable else ())
    for image, _ in batch:
        if not isinstance(image, ImageReadError):
            yield next(results)
        elif on_error == "yield":
            yield image


def check_stream(source: Any, batch_size: int, on_error: str, pages: str) -> None:
    """Refuses what `Detector.predict_iter` cannot iterate over in batches.

    Raises:
        ConfigError: the source is a single image, the batch size is not a whole number above 0, or
            `on_error` or `pages` is unknown, or all pages are asked for of a stream.
    """
    if on_error not in get_args(OnError):
        raise unknown_name("on_error", str(on_error), get_args(OnError))
    if pages not in get_args(Pages):
        raise unknown_name("pages", str(pages), get_args(Pages))
    if pages == "all" and not isinstance(source, (str, Path)):
        raise ConfigError(
            f'pages="all" takes a folder, file or pattern, got {type(source).__name__}; list the pages with '
            'zsad.images.finding.find_images(files, pages="all")'
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size must be a whole number of images above 0, got {batch_size!r}")
    if isinstance(source, Image.Image) or getattr(source, "ndim", SEVERAL) < SEVERAL:
        raise ConfigError("predict_iter takes many images; for one image use predict(image)")

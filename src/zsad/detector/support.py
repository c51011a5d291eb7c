"""References and companions, the images that others are compared with: which ones, and how they are read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from zsad.errors import ConfigError, DataError, ZsadError
from zsad.images.finding import find_and_tell
from zsad.images.names import RemoteFile, file_and_part, is_pattern
from zsad.methods import _registry as registry

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from zsad.methods.base import Method
    from zsad.types import Sample

    OneImage = str | Path | IO[bytes] | Image.Image | NDArray[Any] | Tensor
    Images = OneImage | Iterable[OneImage]
    """One image, a folder, a pattern, or several of these."""

ReadT = TypeVar("ReadT")

LEAST_PICTURES = 8
FOLDER_METHOD = "auto"
DEFAULT_METHOD = "anomalyclip"
SEVERAL_IMAGES = 4  # dimensions of an array that holds several images


def images_given(source: Images | None) -> list[Any]:
    """The single images that a user named, with folders and patterns replaced by their files.

    Args:
        source: one image as `Detector.predict` takes it, a folder, a pattern, a list of these, or an array of
            four dimensions; None stands for no image.

    Returns:
        Images as `Detector.predict` takes them; a path that does not exist stays, so that reading reports it.

    Raises:
        DataError: a folder or pattern holds no image.
    """
    if source is None:
        return []
    is_one = isinstance(source, (str, os.PathLike, Image.Image)) or hasattr(source, "read")
    is_one = is_one or getattr(source, "ndim", SEVERAL_IMAGES) < SEVERAL_IMAGES
    items: list[Any] = [source] if is_one else list(source)  # type: ignore[arg-type]
    found: list[Any] = []
    for item in items:
        is_path = isinstance(item, (str, os.PathLike)) and not isinstance(item, RemoteFile)
        if is_path and (os.path.isdir(os.path.expanduser(item)) or is_pattern(os.fspath(item))):
            found.extend(find_and_tell(item))
        else:
            found.append(item)
    return found


def again_readable(items: Sequence[Any]) -> tuple[Any, ...]:
    """The same images, such that each can be read more than once: open files are replaced by their bytes."""
    return tuple(_content(item) if hasattr(item, "read") else item for item in items)


def _content(file: Any) -> Any:
    """The bytes of an open file; the file itself if it cannot be read, so that reading the image says why."""
    with contextlib.suppress(Exception):
        file.seek(0)
        return file.read()
    return file


def readable(items: Sequence[Any], read: Callable[[Any], ReadT]) -> dict[int, ReadT]:
    """What could be read, by position; whatever cannot be read is left out.

    Args:
        items: files or images in memory.
        read: reads one of them; called for one after the other, because files may be very large.
    """
    found = {}
    for position, item in enumerate(items):
        with contextlib.suppress(ZsadError, OSError, MemoryError):
            found[position] = read(item)
    return found


def check_augmented(given: Sequence[Any], augment: bool) -> None:
    """Refuses to turn and flip references that are not there.

    Raises:
        ConfigError: the message says what to give.
    """
    if augment and not given:
        raise ConfigError(
            "there are no references to turn and flip: give some (references=, --references good/) or "
            "leave augment_references out"
        )


def check_companions(given: Sequence[Any], method: Method, *, is_fitted: bool) -> None:
    """Refuses unlabelled images of the folder where images are not compared one by one.

    Raises:
        ConfigError: the detector is fitted, or the method takes no companions; the message names those that
            do.
    """
    if given and is_fitted:
        raise ConfigError(
            "a fitted detector scores each image by itself, because its threshold holds for that: for "
            "companions, load a detector with references= instead"
        )
    if given and not method.MOST_COMPANIONS:
        able = [name for name in registry.list_methods() if registry.method_class(name).MOST_COMPANIONS]
        raise ConfigError(f"{method.INFO.name} takes no companions; methods that do: {', '.join(able)}")


def default_method(files: Sequence[Path]) -> str | None:
    """What scores images if the user chose nothing: "auto" from 8 files on, else `zsad.load`'s own."""
    here = sum(os.path.isfile(file_and_part(path)[0]) for path in files)
    return FOLDER_METHOD if here >= LEAST_PICTURES else None


def evenly_spread(files: Sequence[Path], count: int) -> list[Path]:
    """At most `count` files, evenly spread over the list, so that every sub-folder contributes.

    Example:
        >>> [path.name for path in evenly_spread([Path(f"{n}.png") for n in range(7)], 3)]
        ['0.png', '3.png', '6.png']
    """
    if count < 1:
        raise ConfigError(f"the number of images to draw must be at least 1, got {count}")
    if len(files) <= count:
        return list(files)
    return [files[round(index * (len(files) - 1) / max(1, count - 1))] for index in range(count)]


def choose_references(candidates: Sequence[Sample], count: int, seed: int, category: str) -> tuple[Path, ...]:
    """Normal images of a category, drawn by seed; the same whatever the other categories are.

    Raises:
        DataError: there are not that many.
    """
    normal = [sample.path for sample in candidates if sample.label == 0]
    if len(normal) < count:
        raise DataError(
            f"category {category!r} has {len(normal)} normal training images, {count} references were "
            "asked for; use a smaller --reference"
        )
    drawn = np.random.default_rng([seed, *category.encode()]).choice(len(normal), count, replace=False)
    return tuple(normal[index] for index in drawn)


def choose_companions(samples: Sequence[Sample], most: int) -> tuple[Path, ...]:
    """The images of a category that each of its images is compared with, as `zsad predict` draws them.

    Args:
        samples: samples of the category.
        most: largest number that the method takes; 0 for a method that takes none.

    Returns:
        Paths; none if there are too few images to compare.
    """
    if not most or len(samples) < LEAST_PICTURES:
        return ()
    return tuple(evenly_spread([sample.path for sample in samples], most))

"""Class names as a detector takes them: one for all images, or one per image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from zsad.errors import ConfigError

Classes = str | Sequence[str] | None


def class_names(classes: Classes, count: int) -> list[str | None]:
    """The class name of each image.

    Args:
        classes: one name for all images, one per image, or None.
        count: number of images.

    Returns:
        A name or None for each image.

    Raises:
        ConfigError: names and images differ in number, or a name is not a text or empty.
    """
    if classes is None or isinstance(classes, str):
        return [checked_name(classes)] * count
    if len(classes) != count:
        raise ConfigError(f"{len(classes)} class names for {count} images: give one name, or one per image")
    return [checked_name(name) for name in classes]


def with_class_names(images: Iterable[Any], classes: Classes) -> Iterator[tuple[Any, str | None]]:
    """Pairs images with their class names; a stream is read to its end first only if there are several names.

    Raises:
        ConfigError: names and images differ in number, or a name is not a text or empty.
    """
    if classes is None or isinstance(classes, str):
        name = checked_name(classes)
        return ((image, name) for image in images)
    items = images if isinstance(images, Sequence) else list(images)
    return zip(items, class_names(classes, len(items)), strict=True)


def checked_name(name: Any) -> str | None:
    """Returns a class name that prompts can hold, or None for None.

    Raises:
        ConfigError: the name is not a text, or is empty.
    """
    if name is None:
        return None
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f'a class name must be a text such as "metal nut", got {name!r}')
    return name

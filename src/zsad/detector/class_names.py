"""What images show: class names as a detector takes them, one for all or one per image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from zsad.errors import ConfigError

Classes = str | Sequence[str] | None


def class_names(classes: Classes, count: int) -> list[str | None]:
    """One class name, or None, per image.

    Raises:
        ConfigError: there are more or fewer names than images, or one is not a text.
    """
    if classes is None or isinstance(classes, str):
        return [checked_name(classes)] * count
    if len(classes) != count:
        raise ConfigError(f"{len(classes)} class names for {count} images: give one name, or one per image")
    return [checked_name(name) for name in classes]


def with_class_names(pictures: Iterable[Any], classes: Classes) -> Iterator[tuple[Any, str | None]]:
    """Images with their class names, without counting the images first unless that is free."""
    if classes is None or isinstance(classes, str):
        name = checked_name(classes)
        return ((picture, name) for picture in pictures)
    items = pictures if isinstance(pictures, Sequence) else list(pictures)
    return zip(items, class_names(classes, len(items)), strict=True)


def checked_name(name: Any) -> str | None:
    """A class name that prompts can hold; None stays None.

    Raises:
        ConfigError: it is not a text or an empty one.
    """
    if name is None:
        return None
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f'a class name must be a text such as "metal nut", got {name!r}')
    return name

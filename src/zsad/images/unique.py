"""Names for the files of a result, so that two images of one process never share a name in a folder."""

from __future__ import annotations

import itertools
import os
import unicodedata
import weakref
from collections.abc import Iterator
from pathlib import Path

_taken: dict[str, str | weakref.ref[object]] = {}
"""Images that this process has saved, by the key of their files' common beginning."""


def unique_stem(
    directory: str | Path,
    owner: object,
    path: Path | None,
    name: str | None = None,
    *,
    overwrite: bool = False,
) -> str:
    """Chooses the beginning of the file names of an image, and remembers it for this process.

    An image that is saved again keeps its name, so that its files are replaced.

    Args:
        directory: folder that the files go to.
        owner: result to save; an image in memory is recognised by it.
        path: file of the image, by which it is recognised; None for an image in memory.
        name: name to begin with; None for the stem of `path`, or "image".
        overwrite: whether the first choice is taken even if another image has it.

    Returns:
        The first of these that no other image of this process has in the folder, whatever the letter case:
        the name; the name with the suffix of the file or with the names of its folders ("good_000",
        "parts_good_000"); the name with a number ("image_2").
    """
    source: str | weakref.ref[object]
    source = weakref.ref(owner) if path is None else os.path.realpath(path)
    first = name or (path.stem if path else "image")
    holder = _taken.get(_key(directory, first))
    is_beside = isinstance(holder, str) and os.path.dirname(holder) == os.path.dirname(str(source))
    if name is not None or path is None:
        longer: Iterator[str] = iter(())
    elif is_beside:
        longer = iter([f"{first}_{path.suffix.removeprefix('.')}"])
    else:
        longer = _with_folders(first, path)
    numbered = (f"{first}_{number}" for number in itertools.count(2))
    for candidate in itertools.chain([first], longer, numbered):
        key = _key(directory, candidate)
        if overwrite:
            _taken[key] = source
            return candidate
        if _is_same(_taken.setdefault(key, source), source, owner):
            return candidate
    raise AssertionError("the numbered names never end")


def _with_folders(name: str, path: Path) -> Iterator[str]:
    """Yields the name behind one, two and more names of the folders that the file lies in."""
    for folder in reversed(Path(os.path.abspath(path)).parent.parts[1:]):
        name = f"{folder}_{name}"
        if len(os.fsencode(name)) > _LONGEST_STEM:
            return
        yield name


def _is_same(holder: str | weakref.ref[object], source: str | weakref.ref[object], owner: object) -> bool:
    return holder() is owner if isinstance(holder, weakref.ref) else holder == source


def _key(directory: str | Path, name: str) -> str:
    # Windows and macOS ignore letter case, macOS also how an accent is composed.
    return unicodedata.normalize("NFC", os.path.realpath(Path(directory) / name)).casefold()


_LONGEST_STEM = 180  # bytes; file systems allow 255 for a name, and a suffix follows

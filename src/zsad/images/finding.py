"""Finds the image files that paths, folders, patterns and URIs stand for; no other module lists folders."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from zsad.errors import ConfigError, DataError, ImageReadError, printable
from zsad.images.medical import slices_of
from zsad.images.names import IMAGE_SUFFIXES, RemoteFile, is_pattern, is_uri, natural_key, suffix_of
from zsad.images.remote import list_remote

_HIDDEN = (".", "__MACOSX")  # names that begin like this do not count; archives from a Mac hold the second


def find_images(inputs: Iterable[str | Path] | str | Path, recursive: bool = True) -> list[Path | RemoteFile]:
    """Finds the image files that files, folders, patterns and URIs stand for.

    * An existing file is taken whatever its suffix is.
    * A folder stands for its files with a suffix of `IMAGE_SUFFIXES`, in natural order ("2.png" before
      "10.png"), and then for those of its sub-folders. Names that begin with a dot are left out. Links to
      folders are followed, each folder once.
    * A pattern ("shots/**/*.png", quoted from the shell) stands for the files that it matches and for the
      images of the folders that it matches. Unless it ends in a literal suffix, only image suffixes count.
    * A NIfTI volume stands for its middle axial slice, "scan.nii.gz#slice=all" for all axial slices.
      `zsad.images.medical` describes the names of other slices and of the frames of DICOM files.
    * A URI ("s3://bucket/shots") stands for a file or a folder, as a path does, without patterns.
    * A path that does not exist, a pattern without a match and a folder that may not be listed are returned
      unchanged, so that reading them reports the reason while the other images are processed.

    Args:
        inputs: paths, patterns and URIs, or a single one.
        recursive: also look into sub-folders of folders.

    Returns:
        Paths and URIs without duplicates, in the order of the inputs; patterns without a match come last.

    Raises:
        DataError: the inputs are empty, or folders and patterns hold no image at all; the message names
            what was looked for and where.
        ConfigError: an input is empty, or the place that a URI names does not exist or cannot be reached.
        MissingExtraError: a URI needs a package that is not installed.
    """
    wanted = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    found: dict[str, Path | RemoteFile] = {}
    unmatched = []
    for given in wanted:
        item = given if isinstance(given, RemoteFile) else os.path.expanduser(os.fsdecode(given))
        if not item:
            raise ConfigError("an empty path was given; name a file, a folder or a pattern")
        paths = list(_expand(item, recursive))
        for path in paths:
            found.setdefault(_identity(path), path)
        if not paths and not os.path.isdir(item) and not is_uri(item):
            unmatched.append(Path(item))
    if not found:
        places = ", ".join(printable(item) for item in wanted) or "nothing (no path was given)"
        depth = "" if recursive else " (sub-folders were not searched)"
        raise DataError(
            f"no images found in {places}{depth}; looked for files ending in "
            f"{' '.join(sorted(IMAGE_SUFFIXES))}; a file with another suffix can be named itself"
        )
    return [*found.values(), *unmatched]


def _identity(path: Path | RemoteFile) -> str:
    """Returns a key that two names of the same file share."""
    return path if isinstance(path, RemoteFile) else os.path.normcase(os.path.abspath(path))


def _expand(item: str, recursive: bool) -> Iterator[Path | RemoteFile]:
    """Yields the files that one input of `find_images` stands for."""
    if isinstance(item, RemoteFile):
        yield item  # it has been listed already
    elif is_uri(item):
        yield from list_remote(item, recursive)
    elif os.path.isdir(item):
        yield from images_below(Path(item), recursive)
    elif is_pattern(item) and not os.path.lexists(item):
        any_suffix = re.search(r"\.\w+$", item) is not None
        for match in sorted(glob.iglob(item, recursive=True), key=natural_key):
            if os.path.isdir(match):
                yield from images_below(Path(match), recursive)
            elif any_suffix or suffix_of(match) in IMAGE_SUFFIXES:
                yield Path(match)
    elif item.endswith("#slice=all") or (item.endswith(",slice=all") and "#axis=" in item):
        yield from _all_slices(item)
    else:
        yield Path(item)


def _all_slices(item: str) -> Iterator[Path]:
    """Yields the slices of a NIfTI file, or an unreadable file itself, so that reading it tells why."""
    volume = re.sub(r"[#,]slice=all$", "", item)
    try:
        yield from map(Path, slices_of(volume))
    except (ImageReadError, OSError):
        yield Path(volume)


def images_below(folder: Path, recursive: bool = True) -> Iterator[Path]:
    """Yields the images of a folder in natural order, then those of its sub-folders.

    A folder that may not be listed is yielded itself, so that reading it reports the reason.

    Args:
        folder: an existing folder.
        recursive: also look into sub-folders; links to folders are followed, each folder once.
    """
    seen: set[str] = set()
    pending = [folder]
    while pending:
        current = pending.pop()
        identity = os.path.realpath(current)  # a link may lead back to a folder above
        if identity in seen:
            continue
        seen.add(identity)
        try:
            images, folders = _contents(current)
        except OSError:
            yield current
            continue
        yield from (current / name for name in sorted(images, key=natural_key))
        if recursive:
            pending.extend(current / name for name in sorted(folders, key=natural_key, reverse=True))


def images_in(folder: Path) -> list[Path]:
    """Lists the image files right in a folder, sorted by name; empty if the folder does not exist.

    Raises:
        OSError: the folder may not be listed.
    """
    return sorted(folder / name for name in _contents(folder)[0]) if folder.is_dir() else []


def folders_in(folder: Path) -> list[str]:
    """Lists the names of the folders right in a folder, sorted; empty if the folder does not exist.

    Raises:
        OSError: the folder may not be listed.
    """
    return sorted(_contents(folder)[1]) if folder.is_dir() else []


def _contents(folder: Path) -> tuple[list[str], list[str]]:
    """Returns the names of the images and of the sub-folders of a folder, unsorted, without hidden ones."""
    with os.scandir(folder) as listing:
        shown = [(entry.name, _is_folder(entry)) for entry in listing if not entry.name.startswith(_HIDDEN)]
    images = [name for name, is_folder in shown if not is_folder and suffix_of(name) in IMAGE_SUFFIXES]
    return images, [name for name, is_folder in shown if is_folder]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False

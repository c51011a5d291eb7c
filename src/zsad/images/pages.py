"""Lists the images of files that hold several: pages, frames and slices."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from PIL import Image

from zsad.images.medical import frames_of, slices_of
from zsad.images.names import ALL_PARTS, NIFTI_SUFFIXES, RemoteFile, file_and_part, suffix_of
from zsad.images.quiet import quiet_decoders
from zsad.images.remote import local_copy
from zsad.images.unreadable import is_dicom, is_tiff

MOST_PARTS = 100_000
"""Largest number of images that are listed for a file; a damaged header can state billions."""

_HEAD = 132  # bytes that tell DICOM and TIFF


@quiet_decoders()
def parts_of(path: str | os.PathLike[str]) -> list[Path | RemoteFile]:
    """Lists the names of the images that a file holds.

    Args:
        path: name of a file, or of all its images ("scan.nii#axis=0,slice=all").

    Returns:
        The name of each image, such as "scan.tif#page=3", in the order of the file; the name of the file
        itself if it holds one image, if it names one of them, or if it cannot be read, which reading tells.
    """
    kind: Callable[[str], Path | RemoteFile] = RemoteFile if isinstance(path, RemoteFile) else Path
    name = ALL_PARTS.sub("", os.fspath(path))
    file, part = file_and_part(name)
    if part and suffix_of(file) not in NIFTI_SUFFIXES:
        return [kind(name)]
    try:
        with local_copy(RemoteFile(file) if kind is RemoteFile else file) as copy:
            parts = list(_first(_parts(f"{copy}#{part}" if part else copy)))
    except Exception:  # decoders and file systems raise nearly every type; reading the file tells why
        parts = []
    if len(parts) > MOST_PARTS:
        return [kind(f"{file}#page=all")]  # reading it says that it holds too many
    return [kind(f"{file}#{each}") for each in parts] or [kind(name)]


def _first(parts: Iterator[str]) -> Iterator[str]:
    """The first parts, up to one more than are listed."""
    yield from (each for each, _ in zip(parts, range(MOST_PARTS + 1), strict=False))


def _parts(copy: str) -> Iterator[str]:
    """Yields what follows the "#" of each image of a local file; nothing if it holds only one."""
    file, part = file_and_part(copy)
    if suffix_of(file) in NIFTI_SUFFIXES:
        if "slice=" not in part:
            yield from slices_of(copy)
        return
    with open(file, "rb") as stream:
        start = stream.read(_HEAD)
    if is_dicom(start):
        frames = frames_of(file)
        yield from (f"frame={number}" for number in range(frames if frames > 1 else 0))
    elif is_tiff(start):
        numbers = list(_tiff_pages(file))
        yield from (f"page={number}" for number in (numbers if len(numbers) > 1 else ()))
    else:
        with Image.open(file, formats=("GIF", "WEBP")) as image:
            frames = getattr(image, "n_frames", 1)
        yield from (f"page={number}" for number in range(frames if frames > 1 else 0))


def _tiff_pages(file: str) -> Iterator[int]:
    """Yields the numbers of the pages that are no smaller copies of others."""
    with importlib.import_module("tifffile").TiffFile(file) as opened:
        for number in range(MOST_PARTS + 1):
            page = None
            with suppress(IndexError):
                page = opened.pages[number]
            if page is None:
                return
            if not page.is_reduced:
                yield number

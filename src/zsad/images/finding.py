"""Finds the image files that paths, folders, patterns and URIs stand for; no other module lists folders."""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zsad.errors import ConfigError, DataError, ImageWarning, printable
from zsad.images.bare_dicom import is_bare_dicom
from zsad.images.mask_folders import is_mask_folder, masks_among
from zsad.images.names import (
    IMAGE_SUFFIXES,
    Pages,
    RemoteFile,
    is_pattern,
    is_uri,
    names_all,
    natural_key,
    suffix_of,
)
from zsad.images.remote import list_remote
from zsad.images.results import is_result, is_run_folder

_HIDDEN = (".", "__MACOSX")  # names that begin like this do not count; archives from a Mac hold the second


@dataclass
class LeftOut:
    """Numbers of the images that a search leaves out, because nobody means them when naming a folder.

    Attributes:
        results: images that zsad wrote itself, such as overlays and maps.
        masks: masks of other images.
    """

    results: int = 0
    masks: int = 0

    def __str__(self) -> str:
        """One line for the summary of a run; empty if nothing is left out."""
        results = "1 image" if self.results == 1 else f"{self.results} images"
        masks = "1 mask" if self.masks == 1 else f"{self.masks} masks"
        counts = (f"{results} that zsad wrote itself", f"{masks} of images")
        named = [text for text, number in zip(counts, (self.results, self.masks), strict=True) if number]
        return f"left out: {' and '.join(named)}" if named else ""


@dataclass(frozen=True)
class ImageSearch:
    """Result of a search for images.

    Attributes:
        images: paths and URIs without duplicates, in the order of the inputs.
        left_out: numbers of images that do not count.
    """

    images: list[Path | RemoteFile]
    left_out: LeftOut = field(default_factory=LeftOut)


def find_images(
    inputs: Iterable[str | Path] | str | Path,
    recursive: bool = True,
    *,
    include_results: bool = False,
    pages: Pages = "first",
) -> list[Path | RemoteFile]:
    """Finds the images that files, folders, patterns and URIs stand for, as `search_images` describes."""
    return search_images(inputs, recursive, include_results=include_results, pages=pages).images


def find_and_tell(
    source: str | os.PathLike[str], *, include_results: bool = False, pages: Pages = "first"
) -> list[Any]:
    """The images that a folder or pattern stands for, with a warning if some are left out.

    Args:
        source: folder, pattern or file.
        include_results: whether to take the images that zsad wrote itself, and masks.
        pages: which images of a file with several count, as `search_images` takes it.

    Raises:
        DataError: there is no image.

    Warns:
        ImageWarning: the folder also holds images that zsad wrote itself, or masks.
    """
    search = search_images(source, include_results=include_results, pages=pages)  # type: ignore[arg-type]
    if left_out := str(search.left_out):
        note = f"{left_out} (include_results=True of `zsad.images.finding.find_images` takes them)"
        warnings.warn(ImageWarning(printable(source), note), stacklevel=3)
    return search.images


def search_images(
    inputs: Iterable[str | Path] | str | Path,
    recursive: bool = True,
    *,
    include_results: bool = False,
    pages: Pages = "first",
) -> ImageSearch:
    """Finds the image files that files, folders, patterns and URIs stand for.

    * An existing file is taken whatever its suffix is.
    * A folder stands for its files with a suffix of `IMAGE_SUFFIXES`, in natural order ("2.png" before
      "10.png"), and then for those of its sub-folders. Names that begin with a dot are left out. Links to
      folders are followed, each folder once. DICOM files without a suffix, as archives export them, are
      recognised by their content. Images that zsad wrote itself, and masks of other images in
      folders of their own or beside their images ("1_mask.png"), are left out and counted.
    * A pattern ("shots/**/*.png", quoted from the shell) stands for the files that it matches and for the
      images of the folders that it matches. Unless it ends in a literal suffix, only image suffixes count.
    * A NIfTI volume stands for its middle axial slice, "scan.nii.gz#slice=all" for all axial slices;
      "scan.tif#page=all" and "cine.dcm#frame=all" stand for all pages and frames.
      `zsad.images.medical` describes the names of other slices and of the frames of DICOM files.
    * A URI ("s3://bucket/shots") stands for a file or a folder, as a path does, without patterns.
    * A path that does not exist, a pattern without a match and a folder that may not be listed are returned
      unchanged, so that reading them reports the reason while the other images are processed.

    Args:
        inputs: paths, patterns and URIs, or a single one.
        recursive: also look into sub-folders of folders.
        include_results: take everything: the images that zsad wrote itself, and masks.
        pages: "first": the first page of a file with several, and the middle slice of a volume; "all": every
            page, frame and slice, under names such as "scan.tif#page=3".

    Returns:
        Paths and URIs without duplicates, in the order of the inputs (patterns without a match come last),
        and how many images are left out.

    Raises:
        DataError: the inputs are empty, or folders and patterns hold no image at all; the message names
            what was looked for and where.
        ConfigError: an input is empty, or the place that a URI names does not exist or cannot be reached.
        MissingExtraError: a URI needs a package that is not installed.
    """
    wanted = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    found: dict[str, Path | RemoteFile] = {}
    unmatched = []
    left_out = None if include_results else LeftOut()
    for given in wanted:
        item = given if isinstance(given, RemoteFile) else os.path.expanduser(os.fsdecode(given))
        if not item:
            raise ConfigError("an empty path was given; name a file, a folder or a pattern")
        paths = list(_with_all_parts(list(_expand(item, recursive, left_out)), pages))
        for path in paths:
            found.setdefault(_identity(path), path)
        if not paths and not os.path.isdir(item) and not is_uri(item):
            unmatched.append(Path(item))
    if not found:
        places = ", ".join(printable(item) for item in wanted) or "nothing (no path was given)"
        depth = "" if recursive else " (sub-folders were not searched)"
        if left_out and str(left_out):
            raise DataError(f"no images found in {places}{depth}; {left_out} (--include-results takes them)")
        raise DataError(
            f"no images found in {places}{depth}; looked for files ending in "
            f"{' '.join(sorted(IMAGE_SUFFIXES))}; a file with another suffix can be named itself"
        )
    return ImageSearch([*found.values(), *unmatched], left_out or LeftOut())


def _identity(path: Path | RemoteFile) -> str:
    """Returns a key that two names of the same file share."""
    return path if isinstance(path, RemoteFile) else os.path.normcase(os.path.abspath(path))


def _expand(item: str, recursive: bool, left_out: LeftOut | None) -> Iterator[Path | RemoteFile]:
    """Yields the files that one input of `search_images` stands for."""
    if isinstance(item, RemoteFile):
        yield item  # it has been listed already
    elif is_uri(item):
        remote, results = list_remote(item, recursive, include_results=left_out is None)
        if left_out is not None:
            left_out.results += results
        yield from remote
    elif os.path.isdir(item):
        yield from _walk(Path(item), recursive, left_out)
    elif is_pattern(item) and not os.path.lexists(item):
        any_suffix = re.search(r"\.\w+$", item) is not None
        for match in sorted(glob.iglob(item, recursive=True), key=natural_key):
            if os.path.isdir(match):
                yield from _walk(Path(match), recursive, left_out)
            elif any_suffix or _is_image(match):
                if left_out is not None and is_result(Path(match)):
                    left_out.results += 1
                else:
                    yield Path(match)
    else:
        yield Path(item)


def _with_all_parts(paths: list[Path | RemoteFile], pages: Pages) -> Iterator[Path | RemoteFile]:
    """Yields the images that files hold, of those whose name asks for all, or of every file."""
    for path in paths:
        if pages == "all" or names_all(str(path)):
            from zsad.images.pages import parts_of  # with the decoders, which listing needs only here

            yield from parts_of(path)
        else:
            yield path


def images_below(folder: Path, recursive: bool = True, *, include_results: bool = False) -> Iterator[Path]:
    """Yields the images of a folder in natural order, then those of its sub-folders.

    A folder that may not be listed is yielded itself, so that reading it reports the reason.

    Args:
        folder: an existing folder.
        recursive: also look into sub-folders; links to folders are followed, each folder once.
        include_results: also yield images that zsad wrote itself, and masks.
    """
    yield from _walk(folder, recursive, None if include_results else LeftOut())


def left_out_below(folder: Path, *, masks: bool) -> LeftOut:
    """Counts the images at and below a folder that zsad wrote itself and, if wanted, masks."""
    left_out = LeftOut()
    if masks:
        for _ in _walk(folder, True, left_out):
            pass
    else:
        left_out.results = sum(map(is_result, _walk(folder, True, None)))
    return left_out


def _walk(folder: Path, recursive: bool, left_out: LeftOut | None) -> Iterator[Path]:
    """Yields the images at and below a folder; `left_out` counts the others, None takes all."""
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
        files = [current / name for name in sorted(images, key=natural_key)]
        inside = [current / name for name in sorted(folders, key=natural_key, reverse=True)]
        yield from files if left_out is None else _without_others(files, left_out)
        if not recursive:
            continue
        for path in inside:
            if left_out is not None and is_mask_folder(path, [*inside, current]):
                left_out.masks += sum(1 for _ in _walk(path, True, None))
            else:
                pending.append(path)


def _without_others(files: list[Path], left_out: LeftOut) -> list[Path]:
    """Returns the images of a folder without those that zsad wrote and without masks, which it counts."""
    images = [path for path in files if not is_result(path)]
    masks = set(masks_among(images))
    left_out.results += len(files) - len(images)
    left_out.masks += len(masks)
    return [path for path in images if path not in masks]


def images_in(folder: Path, *, include_results: bool = False) -> list[Path]:
    """Lists the image files right in a folder, sorted by name; empty if the folder does not exist.

    Images that zsad wrote itself are left out, unless they are asked for.

    Raises:
        OSError: the folder may not be listed.
    """
    return [path for path in masks_in(folder) if include_results or not is_result(path)]


def masks_in(folder: Path) -> list[Path]:
    """Lists all image files right in a folder, sorted by name, also masks that zsad wrote.

    Raises:
        OSError: the folder may not be listed.
    """
    return sorted(folder / name for name in _contents(folder)[0]) if folder.is_dir() else []


def folders_in(folder: Path, *, include_results: bool = False) -> list[str]:
    """Lists the names of the folders right in a folder, sorted; empty if the folder does not exist.

    Folders with nothing but images that zsad wrote itself are left out, unless they are asked for.

    Raises:
        OSError: the folder may not be listed.
    """
    names = sorted(_contents(folder)[1]) if folder.is_dir() else []
    return [name for name in names if include_results or not _holds_only_results(folder / name)]


def _holds_only_results(folder: Path) -> bool:
    """Whether all images at and below a folder are such that zsad wrote; without images, files of it tell."""
    found = False
    for path in _walk(folder, True, None):
        if not is_result(path):
            return False
        found = True
    return found or is_run_folder(folder)


def _contents(folder: Path) -> tuple[list[str], list[str]]:
    """Returns the names of the images and of the sub-folders of a folder, unsorted, without hidden ones."""
    with os.scandir(folder) as listing:
        shown = [(entry.name, _is_folder(entry)) for entry in listing if not entry.name.startswith(_HIDDEN)]
    images = [name for name, is_folder in shown if not is_folder and _is_image(os.path.join(folder, name))]
    return images, [name for name, is_folder in shown if is_folder]


def _is_image(path: str) -> bool:
    """Whether a file in a folder counts: by its suffix, or as DICOM without one by its content."""
    return suffix_of(path) in IMAGE_SUFFIXES or is_bare_dicom(path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False

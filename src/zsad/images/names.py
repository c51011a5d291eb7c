"""Interprets names of image files: suffixes, slices behind a "#", URIs, natural order."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zsad.errors import ConfigError, ImageReadError

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})


NIFTI_SUFFIXES = frozenset({".nii", ".nii.gz"})


PAGED_SUFFIXES = frozenset({".tif", ".tiff", ".gif", ".webp"})


ANNOTATION_SUFFIXES = frozenset({".json"})
"""Suffixes of files with outlines of regions in one or many images."""


IMAGE_SUFFIXES = (
    frozenset(
        {
            *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".dib", ".tif", ".tiff"),
            *(".webp", ".gif", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpx", ".avif"),
            *(".heic", ".heif", ".qoi"),
        }
    )
    | DICOM_SUFFIXES
    | NIFTI_SUFFIXES
)
"""Suffixes of the files that count as images in a folder; a file that is named itself may have any suffix."""


Pages = Literal["first", "all"]
"""Which images of a file with several count: the first (of a volume the middle slice), or all."""

ALL_PARTS = re.compile(r"[#,](page|frame|slice)=all$")
"""End of a name that asks for all images of a file."""

_FRAME = re.compile(r"frame=(\d+|all)")  # DICOM files of an archive have no suffix


def file_and_part(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Splits the name of an image into its file and the slice or frame behind a "#".

    Args:
        path: name of an image.

    Returns:
        "scan.nii.gz" and "slice=40" for "scan.nii.gz#slice=40"; the whole name and "" if it names no slice.
    """
    text = os.fspath(path)
    file, mark, part = text.rpartition("#")
    has_parts = suffix_of(file) in DICOM_SUFFIXES | NIFTI_SUFFIXES | PAGED_SUFFIXES | ANNOTATION_SUFFIXES
    is_part = mark and (has_parts or _FRAME.fullmatch(part)) and not os.path.exists(text)
    return (file, part) if is_part else (text, "")


def names_all(name: str) -> bool:
    """Whether a name asks for all images of a file.

    Example:
        >>> names_all("scan.tif#page=all"), names_all("scan.nii#axis=0,slice=all"), names_all("scan.tif")
        (True, True, False)
    """
    return ALL_PARTS.search(name) is not None


def is_pattern(path: str) -> bool:
    """Whether a path reads as a pattern of `find_images`; one that exists is a path all the same."""
    return glob.has_magic(path)


def suffix_of(name: str) -> str:
    """Returns the suffix of a file name in lower case, with its dot; ".nii.gz" for "scan.nii.gz"."""
    lowered = name.lower()
    return ".nii.gz" if lowered.endswith(".nii.gz") else os.path.splitext(lowered)[1]


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that orders digits by their value and ignores case; suffix and name break ties."""
    # Digits are compared by length, then by character, without conversion, so that any number of them works.
    parts = re.split(r"([0-9]+)", os.path.splitext(name)[0])
    keys = [
        (len(part.lstrip("0")), part.lstrip("0")) if index % 2 else (0, part.casefold())
        for index, part in enumerate(parts)
    ]
    return keys, name


_URI = re.compile(r"([a-z][a-z0-9+.-]+)://([^/]*)/?(.*)", re.IGNORECASE | re.DOTALL)


class RemoteFile(str):
    """URI of one file. `read_image` fetches it, whereas it never fetches the URI in a plain string."""

    __slots__ = ()


def is_uri(text: object) -> bool:
    """Whether a text is a URI, which begins with a scheme such as "s3://".

    Example:
        >>> is_uri("s3://bucket/shots"), is_uri("C:/shots"), is_uri("shots")
        (True, False, False)
    """
    return _URI.match(str(text)) is not None


def as_path(uri: str) -> str:
    """Mirrors a URI as a path, for names of files and folders: s3://bucket/a.png gives /s3/bucket/a.png.

    Raises:
        ConfigError: the text is not a URI.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise ConfigError(f"not a URI such as s3://bucket/folder: {uri!r}")
    scheme, authority, key = match.groups()
    return "/" + "/".join(part for part in (scheme.lower(), authority, key) if part)


def image_file(name: str) -> Path | RemoteFile:
    """Returns the file that a name stands for: a `RemoteFile` if the name is a URI, else a path."""
    return RemoteFile(name) if is_uri(name) else Path(name)


AXIAL = 2


@dataclass(frozen=True)
class MedicalPath:
    """A file of several images, and which image in it.

    Attributes:
        file: path of the file.
        options: numbers behind the "#", under the names page, frame, axis, slice and volume.
    """

    file: str
    options: Mapping[str, int]

    @property
    def is_nifti(self) -> bool:
        """Whether the suffix is that of NIfTI; otherwise the file is DICOM."""
        return suffix_of(self.file) in NIFTI_SUFFIXES


def is_medical(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a DICOM or NIfTI file, or a slice of one, by its suffix."""
    return suffix_of(file_and_part(path)[0]) in DICOM_SUFFIXES | NIFTI_SUFFIXES


def medical_path(path: str | os.PathLike[str]) -> MedicalPath:
    """Splits the name of an image in a DICOM, NIfTI, TIFF, GIF or WebP file into file and options.

    Raises:
        ImageReadError: the part behind the "#" is not understood; the message does not contain the
            file's name.
    """
    file, fragment = file_and_part(path)
    known: tuple[str, ...] = ("axis", "slice", "volume")
    if suffix_of(file) in DICOM_SUFFIXES:
        known = ("frame",)
    elif suffix_of(file) in PAGED_SUFFIXES:
        known = ("page",)
    elif suffix_of(file) not in NIFTI_SUFFIXES:
        known = ("frame",)
    options: dict[str, int] = {}
    for part in filter(None, fragment.split(",")):
        match = re.fullmatch(r"(\w+)=(\d+)", part.strip())
        if part.endswith("=all"):
            raise ImageReadError(
                f"#{fragment}: holds too many images to list all of them; name one by number"
            )
        if match is None or match[1] not in known:
            raise ImageReadError(
                f"#{fragment}: expected {' or '.join(f'{name}=NUMBER' for name in known)} behind the '#'"
            )
        options[match[1]] = int(match[2])
    if options.get("axis", 0) > AXIAL:
        raise ImageReadError(f"#{fragment}: axis must be 0 (sagittal), 1 (coronal) or 2 (axial)")
    return MedicalPath(file, options)

"""Names of image files: suffixes, parts behind a "#", URIs, natural order."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zsad.errors import ConfigError, ImageReadError

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})


NIFTI_SUFFIXES = frozenset({".nii", ".nii.gz"})


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
"""What counts as an image inside a folder; files named one by one may have any suffix."""


def file_and_part(path: str | os.PathLike[str]) -> tuple[str, str]:
    """The file that an image's name stands for, and what stands behind the "#" of a slice or frame in it.

    Args:
        path: "scan.nii.gz#slice=40" gives "scan.nii.gz" and "slice=40"; other names come back whole, with "".
    """
    text = os.fspath(path)
    file, mark, part = text.rpartition("#")
    is_part = mark and suffix_of(file) in DICOM_SUFFIXES | NIFTI_SUFFIXES and not os.path.exists(text)
    return (file, part) if is_part else (text, "")


def is_pattern(path: str) -> bool:
    """Whether a path that does not exist reads as a pattern of `find_images`."""
    return glob.has_magic(path)


def suffix_of(name: str) -> str:
    """The suffix of a file name in lower case, with its dot; that of "scan.nii.gz" is ".nii.gz"."""
    lowered = name.lower()
    return ".nii.gz" if lowered.endswith(".nii.gz") else os.path.splitext(lowered)[1]


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Orders runs of digits by value and letters without regard to case; suffix and name break ties."""
    # Digits compare by length, then by character: no conversion, so no limit on how many there are.
    parts = re.split(r"([0-9]+)", os.path.splitext(name)[0])
    keys = [
        (len(part.lstrip("0")), part.lstrip("0")) if index % 2 else (0, part.casefold())
        for index, part in enumerate(parts)
    ]
    return keys, name


_URI = re.compile(r"([a-z][a-z0-9+.-]+)://([^/]*)/?(.*)", re.IGNORECASE | re.DOTALL)


class RemoteFile(str):
    """The URI of one file, which `zsad.images.reading.read_image` fetches; a plain text is never fetched."""

    __slots__ = ()


def is_uri(text: object) -> bool:
    """Whether a text names a place by its scheme.

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
    """The file that a name stands for: a `RemoteFile` if the name is a URI, else a path."""
    return RemoteFile(name) if is_uri(name) else Path(name)


AXIAL = 2


@dataclass(frozen=True)
class MedicalPath:
    """A file and which image in it.

    Attributes:
        file: DICOM or NIfTI.
        options: what stood behind the "#": frame, axis, slice, volume -> number.
    """

    file: str
    options: Mapping[str, int]

    @property
    def is_nifti(self) -> bool:
        """Whether the suffix is that of NIfTI; else it is DICOM's."""
        return suffix_of(self.file) in NIFTI_SUFFIXES


def is_medical(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a DICOM or NIfTI file, or a slice of one, by its suffix."""
    return suffix_of(file_and_part(path)[0]) in DICOM_SUFFIXES | NIFTI_SUFFIXES


def medical_path(path: str | os.PathLike[str]) -> MedicalPath:
    """Takes a path apart.

    Raises:
        ImageReadError: what stands behind the "#" is not understood; the message lacks the file's name.
    """
    file, fragment = file_and_part(path)
    known = ("frame",) if suffix_of(file) in DICOM_SUFFIXES else ("axis", "slice", "volume")
    options: dict[str, int] = {}
    for part in filter(None, fragment.split(",")):
        match = re.fullmatch(r"(\w+)=(\d+)", part.strip())
        if match is None or match[1] not in known:
            raise ImageReadError(
                f"#{fragment}: expected {' or '.join(f'{name}=NUMBER' for name in known)} behind the '#'"
            )
        options[match[1]] = int(match[2])
    if options.get("axis", 0) > AXIAL:
        raise ImageReadError(f"#{fragment}: axis must be 0 (sagittal), 1 (coronal) or 2 (axial)")
    return MedicalPath(file, options)

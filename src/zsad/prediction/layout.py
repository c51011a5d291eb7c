"""Names the files of a run: one folder per kind of file, each mirroring the folders of the inputs."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

from PIL import Image

from zsad.files.cache import sha256_of
from zsad.images.names import as_path, file_and_part, is_uri
from zsad.images.results import MARKER
from zsad.images.saving import FILE_SUFFIXES, FileKind

_LONGEST_STEM = 180  # bytes; file systems allow 255 for a name, and a suffix follows


@dataclass(frozen=True)
class RunLayout:
    """The files of a run by input path.

    Attributes:
        directory: results' folder.
        root: folder that the mirrored paths are relative to; "" if the inputs have none in common.
        names: relative path without suffix by input path, unique even if letter case is ignored.
    """

    FOLDERS: ClassVar[tuple[str, ...]] = ("overlays", "maps", "masks", "contours", "thumbnails")
    _FOLDER_OF: ClassVar[Mapping[str, str]] = {
        "overlay": "overlays",
        "map": "maps",
        "npy": "maps",
        "mask": "masks",
        "contour": "contours",
    }

    directory: Path
    root: str
    names: Mapping[str, Path]

    @classmethod
    def plan(cls, directory: Path, paths: Sequence[str], root: str | None = None) -> RunLayout:
        """Chooses a name for the files of every input.

        Args:
            directory: results' folder.
            paths: all images, including the earlier ones of a resumed run.
            root: root of the earlier run; kept if all paths lie under it, so that its files keep their names.

        Returns:
            The layout. a/1.png and b/1.png give overlays/a/1_overlay.jpg and overlays/b/1_overlay.jpg;
            a/1.png and a/1.jpg give overlays/1_png_overlay.jpg and overlays/1_jpg_overlay.jpg.
        """
        if root is None or not all(_lies_under(path, root) for path in paths):
            root = common_folder(paths)
        relative = {path: _relative(path, root) for path in dict.fromkeys(paths)}
        stems = Counter(_key(name.with_suffix("")) for name in relative.values())
        names: dict[str, Path] = {}
        taken: set[str] = set()
        for path, name in relative.items():
            stem = name.stem
            if stems[_key(name.with_suffix(""))] > 1:
                stem = f"{stem}_{name.suffix.removeprefix('.')}"
            stem = _shortened(stem)
            unique, number = name.with_name(stem), 2
            while _key(unique) in taken:
                unique, number = name.with_name(f"{stem}_{number}"), number + 1
            taken.add(_key(unique))
            names[path] = unique
        return cls(directory, root, names)

    def file(self, path: str, kind: FileKind) -> Path:
        """The path of the file of a kind for an input image."""
        return self._place(self._FOLDER_OF[kind], path, FILE_SUFFIXES[kind])

    def existing_file(self, path: str, kind: FileKind) -> Path | None:
        """The existing file of a kind for an input image; None if it is missing."""
        expected = self.file(path, kind)
        for candidate in (expected, expected.with_suffix(".png")):  # too large for JPEG
            if candidate.exists():
                return candidate
        return None

    def files(self, path: str) -> list[Path]:
        """The paths of all files, of every kind, that a run may have written for an input image."""
        expected = [self.file(path, cast("FileKind", kind)) for kind in self._FOLDER_OF]
        too_large_for_jpeg = [file.with_suffix(".png") for file in expected if file.suffix == ".jpg"]
        return [*expected, *too_large_for_jpeg, self.thumbnail(path)]

    def thumbnail(self, path: str) -> Path:
        """The path of the thumbnail of an input image."""
        return self._place("thumbnails", path, ".jpg")

    def is_complete(self, path: str, formats: Sequence[FileKind]) -> bool:
        """Whether all files of an input exist and were made from the input's present content.

        The thumbnail, which is written last, says what it was made from. Time stamps do not count: a copy or
        a moved file may be older than the result.
        """
        thumbnail = self.thumbnail(path)
        if not thumbnail.exists() or any(self.existing_file(path, kind) is None for kind in formats):
            return False
        if not os.path.exists(file_and_part(path)[0]):
            return True  # the image has been moved away, or lies in a bucket; its result stays
        try:
            with Image.open(thumbnail) as image:
                written = image.info.get("comment", b"").removeprefix(MARKER.encode())
            size, _, _ = written.partition(b" ")
            if size != str(os.path.getsize(file_and_part(path)[0])).encode():
                return False  # without reading the whole file
            return bool(written == content_stamp(path))
        except OSError:
            return False

    def _place(self, folder: str, path: str, suffix: str) -> Path:
        name = self.names[path]
        return self.directory / folder / name.with_name(name.name + suffix)


class GrowingNames(dict[str, Path]):
    """Names of the files of a run that does not know its images beforehand, by input path.

    The first image of a name keeps it, whatever comes later; `RunLayout.plan` treats all images alike.
    """

    def __init__(self, root: str, paths: Iterable[str] = ()) -> None:
        """Names the images so far, in the order of their arrival; `root` as in `RunLayout`."""
        super().__init__()
        self.root = root
        self._taken: set[str] = set()
        for path in paths:
            self.add(path)

    def add(self, path: str) -> None:
        """Names the files of one more image; one that has a name keeps it.

        Example:
            >>> names = GrowingNames("/in", ["/in/1.png", "/in/1.jpg", "/in/1.bmp"])
            >>> [name.as_posix() for name in names.values()]
            ['1', '1_jpg', '1_bmp']
        """
        if path in self:
            return
        relative = _relative(path, self.root)
        stem, number = _shortened(relative.stem), 2
        name = relative.with_name(stem)
        if _key(name) in self._taken:
            stem = _shortened(f"{relative.stem}_{relative.suffix.removeprefix('.')}")
            name = relative.with_name(stem)
        while _key(name) in self._taken:
            name, number = relative.with_name(f"{stem}_{number}"), number + 1
        self._taken.add(_key(name))
        self[path] = name


def content_stamp(path: str) -> bytes:
    """Size and SHA-256 of the file of an image, which a thumbnail remembers; empty if there is no such file.

    Raises:
        OSError: the file cannot be read.
    """
    file = Path(file_and_part(path)[0])
    return f"{file.stat().st_size} {sha256_of(file)}".encode() if file.is_file() else b""


def common_folder(paths: Sequence[str]) -> str:
    """The absolute path of the deepest folder that holds all paths; "" if there is none (two drives)."""
    try:
        return os.path.commonpath([os.path.dirname(_absolute(path)) for path in paths])
    except ValueError:
        return ""


def _absolute(path: str) -> str:
    """The absolute path of a file, or the path that stands for a URI."""
    return as_path(path) if is_uri(path) else os.path.abspath(path)


def _lies_under(path: str, root: str) -> bool:
    return common_folder([path, os.path.join(root, "any")]) == root


def _relative(path: str, root: str) -> Path:
    absolute = Path(_absolute(path))
    if root:
        return absolute.relative_to(root)
    drive = "".join(character for character in absolute.drive if character.isalnum())
    return Path(drive, *absolute.parts[1:])


def _key(name: Path) -> str:
    return str(name).casefold()


def _shortened(stem: str) -> str:
    encoded = os.fsencode(stem)
    if len(encoded) <= _LONGEST_STEM:
        return stem
    digest = hashlib.sha256(encoded).hexdigest()[:10]
    return f"{encoded[: _LONGEST_STEM - 11].decode(errors='ignore')}-{digest}"

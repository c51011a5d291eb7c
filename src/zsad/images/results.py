"""Recognises images that zsad wrote itself, so that a later run does not take them for input.

A file carries a marker (PNG text chunk, JPEG comment), which stays when it is copied or renamed. Results of
versions that wrote no markers are recognised by what lies beside their folders.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

MARKER = "zsad:result"
"""Key of the text chunk of a PNG, and start of the comment of a JPEG, that zsad writes."""
MARKER_TEXT = "written by zsad"
"""Text of that chunk."""
_NAMED_LIKE = re.compile(
    r"(?:overlays/.*_overlay|maps/.*_map|masks/.*_mask|contours/.*_contour|thumbnails/.*)\.(?:jpg|png)"
)
_RUN_FILES = frozenset({"results.jsonl", "settings.json"})
_FOLDER_FILES = ("results.jsonl", "results.json")
_MARKERS = (MARKER.encode(), b"zsad:map_range")  # maps of earlier versions have the second one only
HEAD = 4096
"""Number of first bytes that hold the marker: both formats keep text before the pixels."""
_SUFFIXES = (".png", ".jpg", ".jpeg")


def png_marker() -> PngInfo:
    """Returns the text chunks of a PNG that zsad writes."""
    information = PngInfo()
    information.add_text(MARKER, MARKER_TEXT)
    return information


def is_result(path: str | os.PathLike[str]) -> bool:
    """Whether zsad wrote an image: a marker in it says so, or it lies in a folder of a run.

    Args:
        path: path of an image; a file that cannot be read is none that zsad wrote.
    """
    return _is_marked(path) or _lies_in_run(Path(path))


def is_run_folder(folder: Path) -> bool:
    """Whether zsad wrote a folder: files of a run, of an evaluation or of a training lie in it."""
    return any((folder / name).is_file() for name in _FOLDER_FILES) or (
        folder.suffix == ".training" and (folder / "log.csv").is_file()
    )


def _is_marked(path: str | os.PathLike[str]) -> bool:
    if not may_be_marked(path):
        return False
    try:
        with open(path, "rb") as file:
            return has_marker(file.read(HEAD))
    except OSError:
        return False


def may_be_marked(path: str | os.PathLike[str]) -> bool:
    """Whether a file has the suffix of an image that zsad writes."""
    return os.fspath(path).lower().endswith(_SUFFIXES)


def has_marker(head: bytes) -> bool:
    """Whether the first `HEAD` bytes of a file say that zsad wrote it."""
    return head.startswith((b"\x89PNG", b"\xff\xd8")) and any(marker in head for marker in _MARKERS)


def _lies_in_run(path: Path) -> bool:
    absolute = Path(os.path.abspath(path))
    return any(
        _NAMED_LIKE.fullmatch(absolute.relative_to(above).as_posix())
        and all((above / name).is_file() for name in _RUN_FILES)
        for above in absolute.parents[1:]
    )

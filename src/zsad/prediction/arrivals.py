"""Finds the images that arrive in folders, and tells which of them are complete.

Folders are listed again and again, which also works for network shares and for files that another machine
writes. A file is taken for complete when its size and time have not changed from one look to the next. That
it really is shows when it is read; a file that cannot be read yet gets another chance as soon as it changes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zsad.images.finding import images_below
from zsad.images.results import is_result


@dataclass
class _File:
    """Size and time of a file, since when it has them, and whether it was handed out with them."""

    stamp: tuple[int, int]
    since: float
    is_handed_out: bool = False


class Arrivals:
    """Looks into folders for images that are new or have changed; each state of a file is handed out once."""

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        recursive: bool = True,
        include_results: bool = False,
        left_out: Iterable[Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Looks nowhere yet.

        Args:
            folders: existing folders. One that cannot be listed for a while is looked into when it is back.
            recursive: whether to look into sub-folders too.
            include_results: whether to take the images that zsad wrote itself.
            left_out: folders whose files do not count.
            clock: seconds that never go back.
        """
        self._folders = folders
        self._recursive = recursive
        self._include_results = include_results
        self._left_out = tuple(os.path.join(os.path.abspath(folder), "") for folder in left_out)
        self._clock = clock
        self._files: dict[Path, _File] = {}

    def mark_seen(self, path: Path) -> None:
        """Takes the present state of a file as handed out already; a missing file is ignored."""
        stamp = _stamp(path)
        if stamp is not None:
            self._files[path] = _File(stamp, self._clock(), is_handed_out=True)

    def look(self) -> list[Path]:
        """The images that have not changed since the last look, each once, in natural order by folder."""
        complete = []
        for path in self._listed():
            stamp = _stamp(path)
            if stamp is None:  # deleted or renamed since it was listed
                continue
            file = self._files.get(path)
            if file is None or file.stamp != stamp:
                self._files[path] = _File(stamp, self._clock())
            elif not file.is_handed_out and stamp[0] > 0:
                file.is_handed_out = True
                if self._include_results or not is_result(path):
                    complete.append(path)
        return complete

    def quiet_seconds(self, path: Path) -> float:
        """Seconds since the first look at the present state of a file that has been handed out."""
        return self._clock() - self._files[path].since

    def _listed(self) -> Iterable[Path]:
        for folder in self._folders:
            for path in images_below(folder, self._recursive, include_results=True):
                is_ours = os.path.abspath(path).startswith(self._left_out) if self._left_out else False
                if not is_ours and not path.is_dir():  # a folder stands for itself if it cannot be listed
                    yield path


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of the last change in nanoseconds; None if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns

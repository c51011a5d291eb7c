"""Writes files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl


def _usual_file_mode() -> int:
    """The permissions that `open` gives new files; the process mask can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return 0o666 & ~mask


_FILE_MODE = _usual_file_mode()  # read once, because setting the mask in threads would race


_PREFIX, _SUFFIX = ".zsad-", ".tmp"


def _prefix(name: str) -> str:
    """Beginning of the hidden files that are to take a name."""
    return f"{_PREFIX}{zlib.crc32(os.fsencode(name)):08x}-"


def remove_unfinished(target: Path, *, deep: bool = True) -> None:
    """Removes the hidden files that a killed process left where it wrote; those in use stay.

    Args:
        target: a file, or a folder with everything in it.
        deep: whether to look into the folders of a folder.
    """
    if target.is_dir():
        found = target.glob(f"{'**/' * deep}{_PREFIX}*{_SUFFIX}")
    else:
        found = target.parent.glob(f"{_prefix(target.name)}*")
    for file in list(found):
        with contextlib.suppress(OSError):
            if not _is_in_use(file):
                file.unlink()


@contextlib.contextmanager
def _in_use(descriptor: int) -> Iterator[None]:
    """Locks a hidden file until it has its name; on Windows, an open file cannot be removed anyway."""
    if sys.platform == "win32":
        yield
        return
    kept = os.dup(descriptor)  # the lock outlives the file object, which is closed before the file is renamed
    try:
        with contextlib.suppress(OSError):  # some network drives have no locks
            fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(kept)


def _is_in_use(file: Path) -> bool:
    """Whether a process is writing a hidden file.

    Raises:
        OSError: the file is gone, or locks are not to be had; then nobody can tell.
    """
    if sys.platform == "win32":
        return False
    with file.open("rb+") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Opens a file that appears under its name only when everything has been written.

    The bytes go to a hidden file in the same folder, which takes the name at the end. After an error, a full
    disk or Ctrl-C, the hidden file is removed and an older file of that name stays unchanged.

    Args:
        path: file to write; missing folders are created.

    Yields:
        Binary file to write to.

    Raises:
        OSError: the folder cannot be written or the disk is full; `filename` of the error is `path`.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "deep" / "note.txt"
        >>> with atomic_file(target) as file:
        ...     _ = file.write(b"whole")
        >>> target.read_bytes()
        b'whole'
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=_prefix(target.name), suffix=_SUFFIX, dir=target.parent)
        hidden = Path(name)
        try:
            with _in_use(descriptor):
                with os.fdopen(descriptor, "wb") as file:
                    yield file
                hidden.chmod(_FILE_MODE)  # mkstemp makes files private; results are for sharing
                hidden.replace(target)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.filename is None or Path(str(error.filename)).name.startswith(_PREFIX):
            error.filename = str(target)
            error.filename2 = None
        raise

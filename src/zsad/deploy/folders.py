"""Folders that appear when they are complete."""

from __future__ import annotations

import contextlib
import glob
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from zsad.errors import ConfigError, printable

_LOCK, _NEW, _OLD = "lock", "new", "old"  # inside of a hidden folder


def check_target(target: Path, marker: str, what: str, *, overwrite: bool) -> None:
    """Refuses a folder that an export must not replace.

    Args:
        target: folder to write.
        marker: file by which a folder of this kind is known.
        what: one word for such a folder, for messages.
        overwrite: whether such a folder may be replaced.

    Raises:
        ConfigError: it exists and is another folder, or is of this kind and `overwrite` is not given.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / marker).is_file():
        raise ConfigError(f"{printable(target)} exists and is no {what}: choose another folder for --out")
    if not overwrite:
        raise ConfigError(
            f"{printable(target)} holds a {what}: --overwrite (overwrite=True) replaces it, or choose "
            "another folder"
        )


@contextlib.contextmanager
def hidden_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target, which is gone at the end unless `take_name` has renamed it.

    Where a process was killed, its hidden folder stays; the next one for the same target is preceded by
    `remove_abandoned`.

    Raises:
        OSError: nothing can be written beside the target.
    """
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target)
    hidden = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
    try:
        with FileLock(hidden / _LOCK):
            (hidden / _NEW).mkdir()
            yield hidden / _NEW
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def remove_abandoned(target: Path) -> None:
    """Removes the hidden folders of a target whose processes were killed; a lock says which are in use.

    A folder that a killed process had set aside to replace it gets its name back.
    """
    from filelock import FileLock, Timeout

    for hidden in list(target.parent.glob(f"{glob.escape(_prefix(target))}*/")):
        try:
            with FileLock(hidden / _LOCK, timeout=0):
                if (hidden / _OLD).exists() and not target.exists():
                    (hidden / _OLD).rename(target)
        except (Timeout, OSError):
            continue
        shutil.rmtree(hidden, ignore_errors=True)


def take_name(folder: Path, target: Path) -> None:
    """Gives a finished folder of `hidden_folder` its name; an earlier one of that name is removed."""
    old = folder.with_name(_OLD)
    if target.exists():
        target.rename(old)
    try:
        folder.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise


def _prefix(target: Path) -> str:
    """Beginning of the names of the hidden folders that are to become a target."""
    return f".zsad-{target.name}-"

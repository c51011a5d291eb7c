"""Folders that appear when they are complete."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from zsad.errors import ConfigError, printable


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
    """A folder beside the target, which is gone at the end unless it has been renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".zsad-{target.name}-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def take_name(folder: Path, target: Path) -> None:
    """Gives a finished folder its name; an earlier bundle of that name is removed."""
    folder.chmod(0o755)  # mkdtemp makes folders private; bundles are for sharing
    if target.exists():
        with hidden_folder(target) as old:
            target.rename(old / target.name)
            folder.rename(target)
    else:
        folder.rename(target)

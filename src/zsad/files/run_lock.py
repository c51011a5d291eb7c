"""One writer at a time: a run locks its folder or file, and a second run learns who is writing there."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from zsad.errors import ConfigError
from zsad.files.atomic import remove_unfinished

LOCK_FILE = ".zsad.lock"


@contextlib.contextmanager
def only_writer(target: str | Path, *more: Path) -> Iterator[None]:
    """Keeps other runs of zsad, of this process and of others, from writing to the same place meanwhile.

    The lock belongs to the process and ends with it, also when it is killed. The next run then removes the
    unfinished files that the killed one left.

    Args:
        target: folder of a run, which is created if it is missing; or a file to write, which has a suffix
            and does not exist as a folder.
        *more: other places that the run writes to, which the lock of `target` protects too.

    Raises:
        ConfigError: another run writes there; the message names its process.
        OSError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    target = Path(os.path.realpath(target))
    is_folder = target.is_dir() or not target.suffix
    lock_file = target / LOCK_FILE if is_folder else target.with_name(f".{target.name}{LOCK_FILE}")
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    note = lock_file.with_suffix(".json")  # not in the lock file itself, which Windows lets nobody read
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"another run is writing to {target}{_holder(note)}: wait until it ends, or choose another --out"
        ) from None
    if note.exists():  # whoever wrote it was killed
        for place in (target, *more):
            remove_unfinished(place)
    try:
        written = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        note.write_text(json.dumps(written), encoding="utf-8")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _holder(note: Path) -> str:
    """Who holds the lock, for the message; empty if nobody has said so yet."""
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        return f" (process {found['process']} on {found['host']}, since {found['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""

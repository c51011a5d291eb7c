"""One writer at a time: a run locks its folder or file, and a second run learns who is writing there."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zsad.errors import ConfigError, DataError, printable
from zsad.files.atomic import remove_unfinished
from zsad.files.json_text import read_json
from zsad.files.plain import from_plain, write_json

LOCK_FILE = ".zsad.lock"


@dataclass(frozen=True)
class _Note:
    """Who holds a lock: process, host, and the time since when."""

    process: int
    host: str
    since: str


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
        if not lock_file.exists():  # filelock also retries where no file can be created, as in /proc
            raise OSError(f"no file can be written in {target.parent}; choose another --out") from None
        raise ConfigError(
            f"another run is writing to {target}{_holder(note)}: wait until it ends, or choose another --out"
        ) from None
    if note.exists():  # whoever wrote it was killed
        for place in (target, *more):
            remove_unfinished(place)
    try:
        write_json(note, _Note(os.getpid(), socket.gethostname(), time.strftime("%F %T")))
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _holder(note: Path) -> str:
    """Who holds the lock, for the message; empty if nobody has said so yet."""
    try:
        found = from_plain(_Note, read_json(note), str(note))
    except DataError:
        return ""
    return f" (process {found.process} on {printable(found.host)}, since {printable(found.since)})"

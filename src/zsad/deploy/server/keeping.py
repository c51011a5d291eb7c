"""Keeps uploaded images and their results in a folder, for `--keep DIR`."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import threading
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.deploy.server.logs import log
from zsad.errors import ConfigError, one_line, printable
from zsad.files.atomic import atomic_file, remove_unfinished

if TYPE_CHECKING:
    from zsad.deploy.server.rows import Row
    from zsad.deploy.server.uploads import Upload

RESULTS_FILE = "results.jsonl"
_SUFFIXES = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II", ".tif"),
    (b"MM", ".tif"),
    (b"RIFF", ".webp"),
)
_LEFT_OUT = ("map", "overlay")
_ONE_WRITER = threading.Lock()


def prepare_folder(folder: Path) -> None:
    """Makes the folder, and writes to it once, so that a server does not start that cannot keep anything.

    Files that a killed server was writing are removed.

    Raises:
        ConfigError: it is no folder, or cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        remove_unfinished(folder, deep=False)
    except OSError as error:
        raise ConfigError(
            f"--keep {printable(folder)} cannot be written to ({error.strerror or error}): give another "
            "folder"
        ) from error


def keep(folder: Path, uploads: Sequence[Upload], rows: Sequence[Row], model: str) -> None:
    """Writes images under names made from their content, and appends their rows to `results.jsonl`.

    A folder that cannot be written is logged; the client gets its answer all the same.

    Args:
        folder: folder to write to.
        uploads: images as they were uploaded.
        rows: their rows.
        model: name of the model that scored.
    """
    moment = datetime.now(timezone.utc).isoformat(timespec="seconds")
    try:
        lines = []
        for upload, row in zip(uploads, rows, strict=True):
            path = folder / f"{hashlib.sha256(upload.content).hexdigest()[:16]}{_suffix(upload.content)}"
            if not path.exists():
                with atomic_file(path) as file:
                    file.write(upload.content)
            kept = {name: value for name, value in row.items() if name not in _LEFT_OUT}
            lines.append(json.dumps({"file": path.name, **kept, "model": model, "time": moment}))
        with _ONE_WRITER, (folder / RESULTS_FILE).open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
    except OSError as error:
        log("not kept", logging.ERROR, error=one_line(error))


def _suffix(content: bytes) -> str:
    """The suffix for a file, from its first bytes; ".bin" for anything that is no usual image."""
    return next((suffix for start, suffix in _SUFFIXES if content.startswith(start)), ".bin")

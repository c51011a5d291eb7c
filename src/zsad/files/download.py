"""Fetches a file over HTTP: continued after breaks, with a progress bar. `zsad.files.cache` verifies it.

It uses `urllib`, which is in the standard library and honours proxy variables and system certificates;
huggingface_hub has moved its own client from requests to httpx and does not promise it to others.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from zsad.errors import WeightsError
from zsad.files.cache import CHUNK, _marker, _stamp, cached_path, find_cached, is_offline, verify_sha256

TIMEOUT_SECONDS = 30.0
FRUITLESS_TRIES = 3  # tries in a row that bring no new byte before a broken download is given up
RETRY_SECONDS = 1.0
FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT)
DISK_ERRORS = (
    *FULL_DISK_ERRORS,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.EFBIG,
    errno.ENOENT,
)


def fetch(url: str, part: Path, target: Path, size: int | None, *, resumable: bool) -> None:
    """Brings all bytes of a URL into a file, over as many connections as it takes.

    Args:
        url: http or https.
        part: the file that grows; what it already holds is continued if `resumable`.
        target: where the file will end up, for messages.
        size: bytes in all, None if unknown.
        resumable: False starts over after each break, for files without checksum.

    Raises:
        WeightsError: no network, an HTTP error, or the connection keeps breaking.
        OSError: the disk is full or cannot be written.
    """
    fruitless = 0
    with _progress(target.name, size) as advance:
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                total = _fetch_once(url, part, before if resumable else 0, advance)
                problem = "the connection was closed"
            except urllib.error.HTTPError as error:
                if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and before:
                    if before == size:
                        return  # it had been fetched whole; the checksum decides
                    part.unlink()
                    continue
                raise WeightsError(
                    f"{url} answers HTTP {error.code} {error.reason}: "
                    f"try again later, or fetch the file elsewhere and put it at {target}"
                ) from error
            except (OSError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in DISK_ERRORS:
                    raise
                total, problem = None, str(getattr(error, "reason", error) or type(error).__name__)
            else:
                if total is None or part.stat().st_size == total:
                    return
            after = part.stat().st_size if part.exists() else 0
            fruitless = 0 if resumable and after > before else fruitless + 1
            if after == 0 or fruitless >= FRUITLESS_TRIES:
                raise WeightsError(_broken(url, target, after, total or size, problem))
            time.sleep(RETRY_SECONDS)


def _fetch_once(url: str, part: Path, start: int, advance: Advance) -> int | None:
    """One connection: appends from byte `start` on if the server can, else starts over; the whole size."""
    request = urllib.request.Request(url, headers={"User-Agent": "zsad"})  # noqa: S310 - download checks it
    if start:
        request.add_header("Range", f"bytes={start}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
        continued = response.status == http.HTTPStatus.PARTIAL_CONTENT
        done = start if continued else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if continued else "wb") as file:
            advance(done, total)
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                advance(done, total)
    return total


def _broken(url: str, target: Path, done: int, size: int | None, problem: str) -> str:
    """The message for a download that could not be finished."""
    if done == 0:
        return (
            f"cannot reach {urlsplit(url).hostname} ({problem}): check the network, "
            f"or fetch {url} elsewhere and put it at {target}"
        )
    whole = f" of {size / 1e6:.1f}" if size else ""
    return (
        f"the download of {target.name} broke off after {done / 1e6:.1f}{whole} MB ({problem}): "
        "run the same command again"
    )


class Advance:
    """Tells a progress bar how far a download is; called with bytes done and bytes in all (None: unknown)."""

    def __call__(self, done: int, total: int | None) -> None:
        """Does nothing: for output that is not a terminal."""


@contextlib.contextmanager
def _progress(name: str, size: int | None) -> Iterator[Advance]:
    """A bar with size, speed and time left on standard error; silent where nobody could watch it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield Advance()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(name, total=size)

        class Bar(Advance):
            def __call__(self, done: int, total: int | None) -> None:
                progress.update(task, completed=done, total=total or size)

        yield Bar()


def download(
    url: str,
    sha256: str | None = None,
    bytes: int | None = None,  # the name that WeightRecord uses
    *,
    offline: bool | None = None,
) -> Path:
    """The file of a URL, from the cache or the network.

    A broken download is continued where it stopped, also by a later call, if there is a checksum to catch a
    file that changed in between. The file appears under its name only when it is whole and verified.

    Args:
        url: http or https.
        sha256: what the file must have; see `verify_sha256`.
        bytes: size of the file, for the free-space check and the progress bar before the server tells it.
        offline: see `is_offline`.

    Returns:
        The file in the cache.

    Raises:
        WeightsError: offline and not cached, no network, HTTP error, disk full, wrong checksum.
    """
    if urlsplit(url).scheme not in {"http", "https"}:
        raise WeightsError(f"cannot download {url!r}: only http and https addresses")
    target = cached_path(url, sha256)
    found = find_cached(url, sha256)
    if found is not None:
        return found
    if is_offline(offline):
        state = "has another checksum" if target.is_file() else "is not in the cache"
        raise WeightsError(
            f"{target.name} {state} and the offline switch is on: fetch {url} elsewhere "
            f"and put it at {target}, or allow the network (unset ZSAD_OFFLINE)"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target):
            if find_cached(url, sha256) is None:  # another process may have fetched it meanwhile
                _fetch_verified(url, target, sha256, bytes)
    except OSError as error:
        raise _disk_error(error, target) from error
    return target


def _fetch_verified(url: str, target: Path, sha256: str | None, size: int | None) -> None:
    """Fetches into NAME.part, checks it, and gives it its name in one step."""
    part = target.with_name(f"{target.name}.part")
    if sha256 is None:
        part.unlink(missing_ok=True)
    kept = part.stat().st_size if part.exists() else 0
    free = shutil.disk_usage(target.parent).free
    if size is not None and free < size - kept:
        raise WeightsError(
            f"{target.name} needs {size / 1e6:.0f} MB and {target.parent} has {free / 1e6:.0f} MB free: "
            "make room, or set ZSAD_CACHE to a folder on another disk"
        )
    fetch(url, part, target, size, resumable=sha256 is not None)
    if sha256 is not None:
        try:
            verify_sha256(part, sha256)
        except WeightsError as error:
            part.unlink(missing_ok=True)
            raise WeightsError(
                f"what came from {url} was removed: {error}; try again, or over another network"
            ) from error
    os.replace(part, target)
    if sha256 is not None:
        _marker(target).write_text(_stamp(target, sha256), encoding="utf-8")


def _disk_error(error: OSError, target: Path) -> WeightsError:
    """The message for a cache that cannot be written."""
    if error.errno in FULL_DISK_ERRORS:
        reason = "the disk is full: make room"
    else:
        reason = f"{error.strerror or error}: check the folder"
    return WeightsError(f"cannot write {target}: {reason}, or set ZSAD_CACHE to another folder")


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Lets one process at a time fetch a file; the system frees the lock of a process that died."""
    from filelock import FileLock

    with FileLock(target.with_name(f"{target.name}.lock")):
        yield

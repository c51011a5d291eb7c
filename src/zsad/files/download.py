"""Downloads files over HTTP into the cache: resumed, verified, one process at a time, with a progress bar.

This uses `urllib` from the standard library, which honours proxy variables and system certificates. The HTTP
client of huggingface_hub has changed from requests to httpx and is not a public interface.
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
from typing import Any
from urllib.parse import urlsplit

from zsad.errors import WeightsError
from zsad.files.cache import (
    CHUNK,
    _marker,
    _stamp,
    cached_path,
    find_cached,
    is_offline,
    problem_of_unverified,
    verify_sha256,
)

TIMEOUT_SECONDS = 30.0
FRUITLESS_TRIES = 3  # connections in a row without a new byte, after which a download is given up
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
    """Downloads all bytes of a URL into a file, over as many connections as necessary.

    Args:
        url: http or https address.
        part: file that grows; bytes that it already holds are kept if `resumable`.
        target: final path of the file, for messages.
        size: size of the file in bytes; None if unknown.
        resumable: whether a broken download continues where it stopped; False for files without checksum.

    Raises:
        WeightsError: there is no network, the server answers with an error, or the connection keeps breaking.
        OSError: the disk is full or cannot be written.
    """
    fruitless = 0
    with _progress(target.name, size) as advance:
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                total = _fetch_once(url, part, before if resumable else 0, size, advance)
                problem = "the connection was closed"
            except urllib.error.HTTPError as error:
                if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and before:
                    if before == size:
                        return  # the file is whole; the checksum decides
                    part.unlink()
                    continue
                raise WeightsError(
                    f"{url} answers HTTP {error.code} {error.reason}: "
                    f"try again later, or fetch the file elsewhere and put it at {target}"
                ) from error
            except _TooLongError as error:
                part.unlink(missing_ok=True)
                raise WeightsError(
                    f"{url} sends {error}: try again later, "
                    f"or fetch the file elsewhere and put it at {target}"
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


def _fetch_once(url: str, part: Path, start: int, size: int | None, advance: Advance) -> int | None:
    """Downloads over one connection, from byte `start` on if the server can; returns the size of the file.

    Raises:
        _TooLongError: the server sends more than the size that is known or that it announced.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "zsad"})  # noqa: S310 - download checks it
    if start:
        request.add_header("Range", f"bytes={start}-")
    opener = urllib.request.build_opener(_WebOnly)
    with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
        continued = response.status == http.HTTPStatus.PARTIAL_CONTENT
        done = start if continued else 0
        length = response.headers.get("Content-Length", "").strip()
        total = done + int(length) if length.isascii() and length.isdigit() else None
        most = size or total
        with part.open("ab" if continued else "wb") as file:
            advance(done, total)
            while chunk := response.read(CHUNK):
                done += len(chunk)
                if most is not None and done > most:
                    raise _TooLongError(f"more than the {most} bytes that the file has")
                file.write(chunk)
                advance(done, total)
    return total


class _TooLongError(Exception):
    """The body of an answer is longer than the file."""


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https; urllib alone also follows them to ftp."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The request to the new address.

        Raises:
            WeightsError: the new address is neither http nor https.
        """
        if not _is_web(newurl):
            raise WeightsError(f"{req.full_url} leads to {newurl!r}: only http and https addresses")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_web(url: str) -> bool:
    """Whether a text is an http or https address that names a host."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # a port that is no number raises an error
    except ValueError:
        return False
    is_plain = url.isascii() and url.isprintable() and " " not in url
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and is_plain


def _broken(url: str, target: Path, done: int, size: int | None, problem: str) -> str:
    """The message for a download that cannot be finished."""
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
    """Updates a progress bar; called with the bytes done and the size of the file (None if unknown)."""

    def __call__(self, done: int, total: int | None) -> None:
        """Does nothing, for output that is not a terminal."""


@contextlib.contextmanager
def _progress(name: str, size: int | None) -> Iterator[Advance]:
    """A progress bar on standard error with size, speed and time left; silent outside a terminal."""
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

    If there is a checksum, which detects a file that changed in between, a broken download continues where
    it stopped, even in a later call. The file appears under its name only when it is whole and verified.

    Args:
        url: http or https address.
        sha256: expected checksum, as `verify_sha256` takes it; None if it is not known.
        bytes: size of the file, for the free-space check and for the progress bar until the server answers.
        offline: whether network access is forbidden; None follows the environment, see `is_offline`.

    Returns:
        Path of the file in the cache.

    Raises:
        WeightsError: the file is not cached and zsad is offline or the network fails, the disk is full, or
            the checksum is wrong.
    """
    if not _is_web(url):
        raise WeightsError(f"cannot download {url!r}: only http and https addresses, without spaces")
    target = cached_path(url, sha256)
    found = find_cached(url, sha256, bytes)
    if found is not None:
        return found
    if is_offline(offline):
        state = "is not in the cache"
        if target.is_file():
            problem = None if sha256 else problem_of_unverified(target, bytes)
            state = f"is damaged ({problem})" if problem else "has another checksum"
        raise WeightsError(
            f"{target.name} {state} and the offline switch is on: fetch {url} elsewhere "
            f"and put it at {target}, or allow the network (unset ZSAD_OFFLINE)"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target):
            if find_cached(url, sha256, bytes) is None:  # another process may have fetched it by now
                _fetch_verified(url, target, sha256, bytes)
    except OSError as error:
        raise _disk_error(error, target) from error
    return target


def _fetch_verified(url: str, target: Path, sha256: str | None, size: int | None) -> None:
    """Downloads into NAME.part, verifies it, and renames it in one step."""
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
                f"the file from {url} was removed: {error}; try again, or over another network"
            ) from error
    else:
        problem = problem_of_unverified(part, size)
        if problem is not None:
            part.unlink(missing_ok=True)
            raise WeightsError(f"the file from {url} was removed: {problem}")
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
    """Lets one process at a time download a file; the system frees the lock of a process that dies."""
    from filelock import FileLock

    with FileLock(target.with_name(f"{target.name}.lock")):
        yield

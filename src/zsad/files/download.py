"""Fetches a file over HTTP: continued after breaks, with a progress bar. `zsad.files.cache` verifies what came.

It uses `urllib`, which is in the standard library and honours proxy variables and system certificates;
huggingface_hub has moved its own client from requests to httpx and does not promise it to others.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from zsad.errors import WeightsError

CHUNK = 1 << 20
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

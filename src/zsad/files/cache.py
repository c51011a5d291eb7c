"""Where weight files come from: the cache, the offline switch, verified downloads, the Hugging Face hub.

Nothing here imports torch, so that listing and downloading stay quick. The files are read by
`zsad.files.tensors`, whose two functions are offered here as well.

Plain URLs are fetched by `zsad.files.download`; repositories of the hub by huggingface_hub, which verifies
and resumes by itself.

Environment:
    ZSAD_CACHE: folder for downloads; default: the platform's user cache + "zsad".
    ZSAD_OFFLINE: 1 forbids every network access; HF_HUB_OFFLINE=1 does the same.
    HF_HOME: huggingface_hub's own folder, which files of the hub are shared in with other programs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from zsad.errors import WeightsError
from zsad.files.download import CHUNK, FULL_DISK_ERRORS, fetch
from zsad.files.tensors import read_checkpoint, read_tensors

__all__ = [
    "cache_dir",
    "cached_path",
    "download",
    "find_cached",
    "hub_file",
    "is_offline",
    "read_checkpoint",
    "read_tensors",
    "sha256_of",
    "verify_sha256",
]

OTHER_CACHES = (Path("~/.cache/clip"),)  # of OpenAI's and open_clip's code


def is_offline(offline: bool | None = None) -> bool:
    """Whether the network must not be touched.

    Args:
        offline: what the caller asks for; None leaves it to ZSAD_OFFLINE and HF_HUB_OFFLINE.
    """
    if offline is not None:
        return offline
    return any(
        os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"}
        for name in ("ZSAD_OFFLINE", "HF_HUB_OFFLINE")
    )


def cache_dir() -> Path:
    """The folder for downloads, not necessarily there yet: ZSAD_CACHE, else in the platform's user cache."""
    chosen = os.environ.get("ZSAD_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "zsad"


def cached_path(url: str, sha256: str | None = None) -> Path:
    """Where `download` keeps the file of a URL; the folder's name keeps files of one name apart."""
    key = sha256 or hashlib.sha256(url.encode()).hexdigest()
    return cache_dir() / key[:8] / (Path(unquote(urlsplit(url).path)).name or "file")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def verify_sha256(path: Path, sha256: str) -> None:
    """Refuses a file whose SHA-256 is not the expected one.

    Args:
        path: the file.
        sha256: hexadecimal digits; some publishers give only the first few, which are then compared.

    Raises:
        WeightsError: naming both sums.
    """
    found = sha256_of(path)
    if not found.startswith(sha256.lower()):
        what = "is a web page, not weights" if _is_page(path) else "does not have the published checksum"
        raise WeightsError(f"{path.name} {what}: SHA-256 {found[: len(sha256)]} instead of {sha256}")


def find_cached(url: str, sha256: str | None = None) -> Path | None:
    """The file of a URL, if it is on this machine already.

    Besides zsad's own cache this looks where OpenAI's and open_clip's code keep their files, if there is a
    checksum to know the file by. The whole file is read the first time it is found.

    Args:
        url: as for `download`.
        sha256: as for `download`.
    """
    target = cached_path(url, sha256)
    if sha256 is None:
        return target if target.is_file() else None
    for path in (target, *(folder.expanduser() / target.name for folder in OTHER_CACHES)):
        if path.is_file() and _is_verified(path, sha256, _marker(target)):
            return path
    return None


def _is_verified(path: Path, sha256: str, marker: Path) -> bool:
    """Whether a file has a checksum; the answer is kept in a marker file.

    Summing up a gigabyte at every start would cost seconds; size and time tell that nothing changed.
    """
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if marker.read_text(encoding="utf-8") == _stamp(path, sha256):
            return True
    if not sha256_of(path).startswith(sha256.lower()):
        return False
    with contextlib.suppress(OSError):  # a read-only cache only costs the sum again
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(_stamp(path, sha256), encoding="utf-8")
    return True


def _marker(target: Path) -> Path:
    return target.with_name(f"{target.name}.verified")


def _stamp(path: Path, sha256: str) -> str:
    """What a marker file says of a verified file."""
    state = path.stat()
    return f"{sha256} {state.st_size} {state.st_mtime_ns} {path}"


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


def _is_page(path: Path) -> bool:
    """Whether a file is HTML or XML, which proxies and sign-in pages send in place of a download."""
    with path.open("rb") as file:
        return file.read(64).lstrip()[:1] == b"<"


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Lets one process at a time fetch a file; the system frees the lock of a process that died."""
    from filelock import FileLock

    with FileLock(target.with_name(f"{target.name}.lock")):
        yield


def hub_file(
    repository: str, filename: str, revision: str | None = None, *, offline: bool | None = None
) -> Path | None:
    """One file of a Hugging Face repository, from huggingface_hub's cache or the network.

    Args:
        repository: "ORG/REPO".
        filename: path inside it.
        revision: branch, tag or commit; None for the default branch.
        offline: see `is_offline`.

    Returns:
        The file; None if the repository does not have it (offline: if it is not cached).

    Raises:
        WeightsError: no such repository or revision, gated, no network, disk full.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"hf-hub:{repository}" + (f"@{revision}" if revision else "")
    quiet = is_offline(offline)
    try:
        return Path(
            hf_hub_download(
                repository, filename, revision=revision, local_files_only=quiet, library_name="zsad"
            )
        )
    except HFValidationError as error:
        raise WeightsError(
            f"{where!r} is not of the form hf-hub:ORG/REPO or hf-hub:ORG/REPO@REVISION"
        ) from error
    except LocalEntryNotFoundError as error:  # a kind of EntryNotFoundError, hence first
        if quiet:
            return None
        raise WeightsError(
            f"cannot reach the Hugging Face hub for {filename} of {where}: check the network, "
            "or download the repository elsewhere and give its folder as a path"
        ) from error
    except EntryNotFoundError:
        return None
    except GatedRepoError as error:
        raise WeightsError(
            f"{where} asks for a consent: give it on its page, then run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"the Hugging Face hub has no repository {repository!r} (or it is private): check the spelling"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(f"{repository} has no revision {revision!r} on the Hugging Face hub") from error
    except Exception as error:  # its client's own exceptions differ between versions
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(f"cannot fetch {filename} of {where}: {reason}") from error

"""The cache of downloaded weight files: its folder, the offline switch, and checksums.

Nothing here imports torch, so that listing and downloading weights stay quick. `zsad.files.download` fetches
plain URLs into the cache. `zsad.files.hub` fetches files of the Hugging Face hub through huggingface_hub,
which has a cache of its own and verifies and resumes downloads.

Environment:
    ZSAD_CACHE: folder for downloads; the default is "zsad" in the user cache of the platform.
    ZSAD_OFFLINE: 1 forbids every network access; HF_HUB_OFFLINE=1 does the same.
    HF_HOME: cache of huggingface_hub, shared with other programs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from zsad.errors import WeightsError, one_line
from zsad.files.tensors import file_kind

OTHER_CACHES = (Path("~/.cache/clip"),)  # where OpenAI's and open_clip's code keep weights


def is_offline(offline: bool | None = None) -> bool:
    """Whether network access is forbidden.

    Args:
        offline: wish of the caller; None follows ZSAD_OFFLINE and HF_HUB_OFFLINE.
    """
    if offline is not None:
        return offline
    return any(
        os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"}
        for name in ("ZSAD_OFFLINE", "HF_HUB_OFFLINE")
    )


def cache_dir() -> Path:
    """The folder for downloads, which may not exist yet: ZSAD_CACHE, or "zsad" in the user cache."""
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
    """Path of the cached file of a URL; the name of its folder distinguishes files of the same name."""
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
        path: file to check.
        sha256: expected hexadecimal digits; if a publisher gives only the first few, these are compared.

    Raises:
        WeightsError: the checksums differ; the message names both.
    """
    found = sha256_of(path)
    if not found.startswith(sha256.lower()):
        what = "is a web page, not weights" if _is_page(path) else "does not have the published checksum"
        raise WeightsError(f"{path.name} {what}: SHA-256 {found[: len(sha256)]} instead of {sha256}")


def find_cached(url: str, sha256: str | None = None, size: int | None = None) -> Path | None:
    """Finds the file of a URL on this machine.

    If there is a checksum to recognise the file by, the folders where OpenAI's and open_clip's code keep
    their files are searched too. The checksum is computed the first time that the file is found.

    Args:
        url: http or https address.
        sha256: expected checksum, as `verify_sha256` takes it; None if it is not known.
        size: size of the file in bytes; None if it is not known. It matters only without a checksum.

    Returns:
        Path of the file; None if it is not on this machine, or cannot be the wanted one.
    """
    target = cached_path(url, sha256)
    if sha256 is None:
        return target if target.is_file() and problem_of_unverified(target, size) is None else None
    for path in (target, *(folder.expanduser() / target.name for folder in OTHER_CACHES)):
        if path.is_file() and _is_verified(path, sha256, _marker(target)):
            return path
    return None


def problem_of_unverified(path: Path, size: int | None) -> str | None:
    """Why a file without a checksum cannot be the wanted one; None if it can.

    Args:
        path: file that exists.
        size: size of the file in bytes; None if it is not known.
    """
    try:
        found = path.stat().st_size
        if size is not None and found != size:
            return f"it has {found} bytes instead of {size}"
        if file_kind(path) == "safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="np"):  # compares the size of the file with its header
                pass
    except Exception as error:  # safetensors has an error of its own
        return one_line(error).replace(str(path), "it")[:300]
    return None


def _is_verified(path: Path, sha256: str, marker: Path) -> bool:
    """Whether a file has the expected checksum; the answer is kept in a marker file.

    Reading a gigabyte at every start takes seconds; size and time of a file show that it is unchanged.
    """
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if marker.read_text(encoding="utf-8") == _stamp(path, sha256):
            return True
    if not sha256_of(path).startswith(sha256.lower()):
        return False
    with contextlib.suppress(OSError):  # in a read-only cache the checksum is computed every time
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(_stamp(path, sha256), encoding="utf-8")
    return True


def _marker(target: Path) -> Path:
    return target.with_name(f"{target.name}.verified")


def _stamp(path: Path, sha256: str) -> str:
    """Content of the marker file of a verified file."""
    state = path.stat()
    return f"{sha256} {state.st_size} {state.st_mtime_ns} {path}"


def _is_page(path: Path) -> bool:
    """Whether a file is HTML or XML, which proxies and sign-in pages send instead of a download."""
    with path.open("rb") as file:
        return file.read(64).lstrip()[:1] == b"<"


CHUNK = 1 << 20

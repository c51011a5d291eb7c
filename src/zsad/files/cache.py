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
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from zsad.errors import WeightsError

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


def _is_page(path: Path) -> bool:
    """Whether a file is HTML or XML, which proxies and sign-in pages send in place of a download."""
    with path.open("rb") as file:
        return file.read(64).lstrip()[:1] == b"<"


CHUNK = 1 << 20

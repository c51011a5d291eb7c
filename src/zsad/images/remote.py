"""Lists and reads images in buckets and other places that a URI names (s3://, gs://, az://, memory://, file://).

fsspec reads them. Some schemes need a package of their own, such as s3fs for s3:// and gcsfs for gs://; the
message about a missing one holds the line that installs it. Credentials come from the environment, as these
packages document. A key is written as it is, without escapes such as %20.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zsad.errors import ConfigError, MissingExtraError
from zsad.images.bare_dicom import may_be_dicom
from zsad.images.names import IMAGE_SUFFIXES, RemoteFile, file_and_part, natural_key, suffix_of
from zsad.images.results import HEAD, has_marker, may_be_marked
from zsad.images.unreadable import is_dicom


def list_remote(
    uri: str, recursive: bool = True, *, include_results: bool = False
) -> tuple[list[RemoteFile], int]:
    """Lists the images that a URI stands for.

    Args:
        uri: URI of a file, which is taken whatever its suffix is, of a page in it ("s3://bucket/a.tif#page=1"),
            or of a folder.
        recursive: also look into sub-folders.
        include_results: also take the images that zsad wrote itself.

    Returns:
        URIs in natural order, those of a folder before those of its sub-folders; empty if the folder holds no
        image; and how many images were left out because zsad wrote them. Names that begin with a dot are left
        out. The first bytes of PNG, JPEG and files without a suffix are fetched to recognise them.

    Raises:
        ConfigError: the place does not exist or cannot be reached.
        MissingExtraError: the scheme needs a package that is not installed.
    """
    files, path = _file_system(file_and_part(uri)[0])
    try:
        if files.info(path)["type"] == "file":
            return [RemoteFile(uri)], 0
        keys = files.find(path, maxdepth=None if recursive else 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{uri}: no such file or folder; check the spelling and the credentials") from error
    except Exception as error:  # each file system raises the errors of its own library
        raise ConfigError(
            f"{uri}: cannot be listed ({error}); check the address and the credentials"
        ) from error
    names = {key[len(path.rstrip("/")) :].lstrip("/"): key for key in keys}
    names = {name: key for name, key in names.items() if _may_be_image(name)}
    heads = _heads(files, {name: key for name, key in names.items() if _is_told_by_content(name)})
    results = {name for name, head in heads.items() if not include_results and has_marker(head)}
    images = [
        name
        for name in names
        if name not in results and (suffix_of(name) in IMAGE_SUFFIXES or is_dicom(heads.get(name, b"")))
    ]
    folder = uri if uri.endswith("/") else f"{uri}/"
    return [RemoteFile(folder + name) for name in sorted(images, key=_walking_order)], len(results)


def _heads(files: Any, keys: dict[str, str]) -> dict[str, bytes]:
    """The first bytes of files, by name, fetched together; a file that cannot be read has none."""
    if not keys:
        return {}
    count = len(keys)
    found = files.cat_ranges(list(keys.values()), [0] * count, [HEAD] * count, on_error="return")
    return {name: head if isinstance(head, bytes) else b"" for name, head in zip(keys, found, strict=True)}


@contextmanager
def local_copy(file: str) -> Iterator[str]:
    """Gives the path of a local copy of a remote file while it is needed; a local file is its own copy.

    Raises:
        OSError: the file does not exist or cannot be read; some file systems raise other errors.
        ConfigError: the scheme is unknown.
        MissingExtraError: the scheme needs a package that is not installed.
    """
    if not isinstance(file, RemoteFile):
        yield os.path.expanduser(file)
        return
    with tempfile.TemporaryDirectory(prefix="zsad-") as folder:
        copy = Path(folder, f"image{suffix_of(file)}")
        copy.write_bytes(read_remote(file))
        yield str(copy)


def read_remote(uri: str) -> bytes:
    """Reads the content of a file.

    Raises:
        OSError: the file does not exist or cannot be read; some file systems raise other errors.
        ConfigError: the scheme is unknown.
        MissingExtraError: the scheme needs a package that is not installed.
    """
    files, path = _file_system(uri)
    content: bytes = files.cat_file(path)
    return content


def _file_system(uri: str) -> tuple[Any, str]:
    """The file system that a URI belongs to, and the path within it."""
    from fsspec.core import url_to_fs

    scheme, mark, place = uri.partition("://")
    try:
        files, path = url_to_fs(f"{scheme.lower()}{mark}{place}")
    except ImportError as error:
        missing = getattr(error.__cause__ or error, "name", None)  # fsspec wraps the import error
        raise MissingExtraError(missing or str(error), None, f"reading {uri}") from error
    except ValueError as error:
        raise ConfigError(f"{uri}: {error}; name a place such as s3://bucket/folder") from error
    return files, str(path)


def _may_be_image(name: str) -> bool:
    is_hidden = any(part.startswith(".") for part in name.split("/"))
    return (suffix_of(name) in IMAGE_SUFFIXES or may_be_dicom(name)) and not is_hidden


def _is_told_by_content(name: str) -> bool:
    return may_be_marked(name) or suffix_of(name) not in IMAGE_SUFFIXES


def _walking_order(name: str) -> list[tuple[bool, Any]]:
    """Orders the names below a folder as a walk through it meets them: files first, then sub-folders."""
    *folders, file = name.split("/")
    return [*((True, natural_key(folder)) for folder in folders), (False, natural_key(file))]

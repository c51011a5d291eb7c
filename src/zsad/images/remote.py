"""Images in buckets and other places that a URI names (s3://, gs://, hdfs://, file://).

pyarrow reads them, or fsspec where pyarrow has no file system for the scheme (az:// with the package adlfs).
Credentials come from the environment, as these libraries document; a key is written as it is, without %20.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from zsad.errors import ConfigError, DataError, MissingExtraError
from zsad.images.names import _URI, PICTURE_SUFFIXES, RemoteFile


def list_remote(uri: str, recursive: bool = True) -> list[RemoteFile]:
    """The images that a URI stands for.

    Args:
        uri: of a file, taken whatever its suffix is, or of a folder.
        recursive: also look into sub-folders.

    Returns:
        URIs in the order of their names; names that begin with a dot are left out.

    Raises:
        ConfigError: there is no such place, or it cannot be reached.
        DataError: the folder holds no image.
        MissingExtraError: pyarrow or the scheme's own package is missing.
    """
    from pyarrow.fs import FileSelector, FileType

    root, key, query = _split(uri)
    files, base = _file_system(root + query)
    path = _joined(base, key)
    try:
        kind = files.get_file_info(path).type
        if kind == FileType.File:
            return [RemoteFile(uri)]
        found = (
            files.get_file_info(FileSelector(path, recursive=recursive))
            if kind != FileType.NotFound
            else None
        )
    except OSError as error:
        raise ConfigError(
            f"{uri}: cannot be listed ({error}); check the address and the credentials"
        ) from error
    if found is None:
        raise ConfigError(f"{uri}: no such file or folder; check the spelling and the credentials")
    keys = sorted(
        info.path[len(base) :].lstrip("/")
        for info in found
        if info.type == FileType.File and PurePosixPath(info.path).suffix.lower() in PICTURE_SUFFIXES
    )
    visible = [name for name in keys if not any(p.startswith(".") for p in name[len(key) :].split("/"))]
    if not visible:
        raise DataError(
            f"no images found in {uri}; looked for files ending in {' '.join(sorted(PICTURE_SUFFIXES))}"
        )
    return [RemoteFile(f"{root}/{name}{query}") for name in visible]


def read_remote(uri: str) -> bytes:
    """The content of a file.

    Raises:
        OSError: it is not there or cannot be read.
    """
    root, key, query = _split(uri)
    files, base = _file_system(root + query)
    with files.open_input_stream(_joined(base, key), compression=None) as stream:
        content: bytes = stream.read()
    return content


def _split(uri: str) -> tuple[str, str, str]:
    """Root ("s3://bucket"), key within it, and query ("?region=eu-west-1" or nothing)."""
    match = _URI.match(uri)
    if match is None:
        raise ConfigError(f"not a URI such as s3://bucket/folder: {uri!r}")
    scheme, authority, key, query = match.groups()
    return f"{scheme}://{authority}", key, query or ""


def _joined(base: str, key: str) -> str:
    return f"{base.rstrip('/')}/{key}".rstrip("/") or "/"


@lru_cache(maxsize=16)  # opening one asks the bucket for its region
def _file_system(root: str) -> tuple[Any, str]:
    """The file system for a root, and the root's path in it."""
    try:
        from pyarrow import ArrowException
        from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem
    except ImportError as error:
        raise MissingExtraError("pyarrow", "ray", "reading from a bucket") from error
    place = "file:///" if root == "file://" else quote(root, safe=":/?&=@+,~.-_")
    try:
        found: tuple[Any, str] = FileSystem.from_uri(place)
    except (ArrowException, NotImplementedError, ValueError):
        import fsspec  # type: ignore[import-untyped]

        try:
            files, base = fsspec.core.url_to_fs(root)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{root}: {error}") from error
        return PyFileSystem(FSSpecHandler(files)), base
    except OSError as error:
        raise ConfigError(f"{root}: cannot be reached ({error})") from error
    return found

"""Short digests of image files, so that weights can say which images they have seen.

Eight bytes an image: two of a million different images share a digest with a chance of 3 in 100 million.
Equal means equal files, byte for byte; an image that was saved anew is not recognised.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from zsad.errors import WeightsError
from zsad.images.names import file_and_part

DIGEST_BYTES = 8
READING_THREADS = 4


def file_digest(path: Path) -> bytes:
    """The digest of a file's content, for a slice that of its whole file; empty if it cannot be read."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    try:
        with open(file_and_part(path)[0], "rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    except OSError:
        return b""
    return digest.digest()


def file_digests(paths: Iterable[Path]) -> list[bytes]:
    """The digests of several files, in their order."""
    with ThreadPoolExecutor(READING_THREADS) as pool:
        return list(pool.map(file_digest, paths))


def pack_digests(digests: Iterable[bytes]) -> str:
    """Digests as a text for a file's header: sorted, each once, 11 characters an image."""
    return base64.b64encode(b"".join(sorted({digest for digest in digests if digest}))).decode()


def unpack_digests(text: str) -> frozenset[bytes]:
    """The digests in a text of `pack_digests`.

    Raises:
        WeightsError: it is damaged.

    Example:
        >>> unpack_digests(pack_digests([b"12345678", b"abcdefgh"])) == {b"12345678", b"abcdefgh"}
        True
    """
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise WeightsError(f"the digests of the training images are damaged ({error})") from error
    if len(content) % DIGEST_BYTES:
        raise WeightsError("the digests of the training images are damaged (cut off)")
    return frozenset(content[at : at + DIGEST_BYTES] for at in range(0, len(content), DIGEST_BYTES))

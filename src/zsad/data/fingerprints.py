"""Short digests of image files, with which weights record the images that they were trained on.

A digest has eight bytes: the probability that any two of a million different images share one is 3 in 100
million. Equal digests mean equal files, byte for byte; an image that was saved again is not recognised.
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
    """Returns the digest of a file; that of the whole file for a slice, b"" if it cannot be read."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    try:
        with open(file_and_part(path)[0], "rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    except OSError:
        return b""
    return digest.digest()


def file_digests(paths: Iterable[Path]) -> list[bytes]:
    """Returns the digests of several files, in their order."""
    with ThreadPoolExecutor(READING_THREADS) as pool:
        return list(pool.map(file_digest, paths))


def pack_digests(digests: Iterable[bytes]) -> str:
    """Packs digests into a text for the header of a file: sorted, without duplicates, 11 characters each."""
    return base64.b64encode(b"".join(sorted({digest for digest in digests if digest}))).decode()


def unpack_digests(text: str) -> frozenset[bytes]:
    """Unpacks the digests in a text of `pack_digests`.

    Raises:
        WeightsError: the text is damaged.

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

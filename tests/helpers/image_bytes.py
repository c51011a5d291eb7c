"""Makes image files as bytes and reads them back; shared by the tests of images."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from zsad.images.preparing import to_array
from zsad.images.reading import read_image


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(source: object) -> np.ndarray:
    image = read_image(source)
    assert image.mode == "RGB"
    assert image.info == {}
    return to_array(image)


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(levels, np.uint8)[..., None], 3, axis=2)


def png(
    width: int, height: int, bits: int, colour_type: int, rows: bytes, *chunks: tuple[bytes, bytes]
) -> bytes:
    """A PNG written by hand, for what Pillow cannot write."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    parts = [header, *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


def grey_tiff(values: np.ndarray, *, order: str, photometric: int = 1) -> bytes:
    """An uncompressed 16-bit greyscale TIFF in a chosen byte order."""
    height, width = values.shape
    body = values.astype(f"{order}u2").tobytes()
    tags = [
        (256, 4, width), (257, 4, height), (258, 3, 16), (259, 3, 1), (262, 3, photometric),
        (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(body)),
    ]  # fmt: skip
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1)
        + (struct.pack(f"{order}I", value) if kind == 4 else struct.pack(f"{order}HH", value, 0))
        for tag, kind, value in tags
    )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)
    return mark + struct.pack(f"{order}I", 8 + len(body)) + body + directory

"""Files that are not readable images, by kind, with a regular expression for the message about each."""

from __future__ import annotations

import random
import struct

import numpy as np
from PIL import Image

from helpers.image_bytes import encode, png

IMAGE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8))
FORMATS = {
    "png": encode(IMAGE, "PNG"),
    "jpg": encode(IMAGE, "JPEG"),
    "bmp": encode(IMAGE, "BMP"),
    "tif": encode(IMAGE, "TIFF"),
    "webp": encode(IMAGE, "WEBP"),
    "gif": encode(IMAGE.convert("P"), "GIF"),
    "jp2": encode(IMAGE, "JPEG2000"),
    "ppm": encode(IMAGE, "PPM"),
}
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
AVIF = b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(64)


def gif_of_size(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + FORMATS["gif"][10:]


def bmp_of_size(width: int, height: int) -> bytes:
    return FORMATS["bmp"][:18] + struct.pack("<ii", width, height) + FORMATS["bmp"][26:]


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "zero bytes": (b"", r"empty \(0 bytes\)"),
    "only zeros": (bytes(5000), "only zero bytes"),
    "one byte": (b"\x89", "not an image"),
    "random bytes": (random.Random(0).randbytes(3000), "not an image"),
    "text": (b"width, height\n3, 4\n", "is a text file"),
    "text in Japanese cut in a character": ("写真".encode() * 2000, "is a text file"),
    "JSON": (b'{"error": "not found"}', "is a text file"),
    "HTML": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "is a web page"),
    "HTML with byte-order mark": (b"\xef\xbb\xbf  <HTML><head>", "is a web page"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG drawing; export it as PNG"),
    "SVG behind an XML line": (b'<?xml version="1.0"?>\n<!-- x -->\n<svg width="9"/>', "SVG drawing"),
    "XML": (b'<?xml version="1.0"?><annotation/>', "is an XML file"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "PDF document"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    "Photoshop": (b"8BPS\0\x01" + bytes(40), "Photoshop"),
    "icon": (encode(IMAGE, "ICO"), "Windows icon"),
    "HEIC": (HEIC, r"HEIC/HEIF.*pip install pillow-heif"),
    "AVIF damaged": (AVIF, "is AVIF that this Pillow cannot decode|cut short or damaged"),
    "JPEG XL": (b"\xff\x0a" + bytes(50), "JPEG XL.*pillow-jxl-plugin"),
    "MP4": (b"\0\0\0\x20ftypisom" + bytes(50), "is a video"),
    "AVI": (b"RIFF\0\0\0\0AVI LIST", "is a video"),
    "Matroska": (b"\x1aE\xdf\xa3" + bytes(50), "is a video"),
    "DICOM": (bytes(128) + b"DICM" + bytes(50), "DICOM"),
    "NumPy file": (b"\x93NUMPY\x01\0" + bytes(100), "numpy.load"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "ZIP": (b"PK\x03\x04" + bytes(50), "ZIP archive; unpack it"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "gzip"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "program": (b"\x7fELF" + bytes(50), "is a program"),
    "PNG signature alone": (FORMATS["png"][:8], "begins like PNG"),
    "PNG header cut": (FORMATS["png"][:20], "begins like PNG|cut short or damaged"),
    "PNG header checksum wrong": (
        FORMATS["png"][:29] + b"\0\0\0\0" + FORMATS["png"][33:],
        "begins like PNG|cut short or damaged",
    ),
    "PNG without pixels": (FORMATS["png"][:33] + FORMATS["png"][-12:], "cut short or damaged"),
    "PNG pixels not zlib": (FORMATS["png"].replace(b"IDATx", b"IDATy"), "cut short or damaged"),
    "PNG 0 x 5": (png(0, 5, 8, 2, b""), "begins like PNG|holds no pixels"),
    "PNG 5 x 0": (png(5, 0, 8, 2, b""), "begins like PNG|holds no pixels"),
    "PNG claims 20000 x 20000": (
        png(20000, 20000, 8, 2, b"\0"),
        r"20000 x 20000 = 400000000 .* limit of 200000000",
    ),
    "PNG claims 2147483647 x 2147483647": (png(2**31 - 1, 2**31 - 1, 8, 2, b"\0"), "limit of 200000000"),
    "PNG claims more than it holds": (png(3000, 3000, 8, 2, b"\0" * 100), "cut short or damaged"),
    "PNG of unknown bit depth": (png(2, 2, 3, 2, b"\0" * 10), "begins like PNG|cut short or damaged"),
    "GIF 65535 x 65535": (gif_of_size(65535, 65535), "limit of 200000000"),
    "GIF 0 x 0": (b"GIF89a" + bytes(7) + b";", "begins like GIF|holds no pixels"),
    "BMP 0 x 0": (bmp_of_size(0, 0), "begins like BMP|holds no pixels"),
    "BMP of huge width": (bmp_of_size(2**31 - 1, 24), "limit of 200000000"),
    "JPEG start alone": (b"\xff\xd8\xff\xe0", "begins like JPEG|cut short or damaged"),
    "JPEG without its image": (FORMATS["jpg"][:400], "begins like JPEG|cut short or damaged"),
    "TIFF pointing beyond its end": (b"II*\0\xff\xff\xff\x7f", "begins like TIFF|cut short or damaged"),
    "TIFF without tags": (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "begins like TIFF|cut short or damaged"),
    "TIFF pointing at itself": (b"II*\0\x04\0\0\0" + bytes(20), "begins like TIFF|cut short or damaged"),
    "WebP cut after its header": (FORMATS["webp"][:16], "begins like WebP|cut short or damaged"),
    "JPEG 2000 signature alone": (FORMATS["jp2"][:12], "begins like JPEG 2000|cut short or damaged"),
    "PGM of letters": (b"P2\n3 3\n255\na b c", "cut short or damaged|is a text file"),
    "PGM of negative size": (
        b"P5\n-3 3\n255\n" + bytes(9),
        "cut short or damaged|is not an image that can be read",
    ),
    **{
        f"{suffix} cut in half": (data[: len(data) // 2], "cut short or damaged")
        for suffix, data in FORMATS.items()
    },
}

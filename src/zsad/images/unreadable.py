"""Tells what a file is that no decoder could read, and what its owner can do about it.

The first bytes decide, never the suffix: a web page that was saved as "part.png" is the common case.
"""

from __future__ import annotations

import re

_WANTED = "PNG, JPEG, BMP, TIFF, WebP or GIF"

# (first bytes, offset, what it is and what to do)
_SIGNATURES: tuple[tuple[bytes, int, str], ...] = (
    (b"%PDF", 0, "is a PDF document; export its pages as images"),
    (b"%!PS", 0, "is a PostScript drawing; export it as PNG"),
    (b"8BPS", 0, "is a Photoshop file; export it as PNG or TIFF"),
    (b"\x00\x00\x01\x00", 0, "is a Windows icon; export it as PNG"),
    (b"\x93NUMPY", 0, "is a NumPy array file; read it with numpy.load and give the array"),
    (b"\x89HDF", 0, "is an HDF5 or MATLAB file; read the array from it and give the array"),
    (b"PK\x03\x04", 0, "is a ZIP archive; unpack it"),
    (
        b"\x1f\x8b",
        0,
        "is gzip-compressed; unpack it, or, if it is NIfTI, give it a name that ends in .nii.gz",
    ),
    (b"n+1\0", 344, "is a NIfTI file; give it a name that ends in .nii"),
    (b"BZh", 0, "is bzip2-compressed; unpack it"),
    (b"\xfd7zXZ", 0, "is xz-compressed; unpack it"),
    (b"7z\xbc\xaf", 0, "is a 7z archive; unpack it"),
    (b"Rar!", 0, "is a RAR archive; unpack it"),
    (b"\x1aE\xdf\xa3", 0, "is a video; take images out of it first, for instance with ffmpeg"),
    (
        b"version https://git-lfs",
        0,
        "is a Git LFS pointer, the image was not downloaded; run 'git lfs pull'",
    ),
    (b"\xff\x0a", 0, "is JPEG XL, which Pillow lacks; pip install pillow-jxl-plugin, or save it as PNG"),
    (
        b"\x00\x00\x00\x0cJXL ",
        0,
        "is JPEG XL, which Pillow lacks; pip install pillow-jxl-plugin, or save it as PNG",
    ),
    (b"\x7fELF", 0, "is a program; name an image file"),
)

_READABLE: tuple[tuple[bytes, int, str], ...] = (
    (b"\x89PNG", 0, "PNG"),
    (b"\xff\xd8", 0, "JPEG"),
    (b"GIF8", 0, "GIF"),
    (b"BM", 0, "BMP"),
    (b"II*\x00", 0, "TIFF"),
    (b"MM\x00*", 0, "TIFF"),
    (b"II+\x00", 0, "BigTIFF"),
    (b"MM\x00+", 0, "BigTIFF"),
    (b"WEBP", 8, "WebP"),
    (b"\x00\x00\x00\x0cjP  ", 0, "JPEG 2000"),
    (b"\xff\x4f\xff\x51", 0, "JPEG 2000"),
    (b"qoif", 0, "QOI"),
)

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def is_heif(start: bytes) -> bool:
    """Whether a file begins like HEIF/HEIC, the format of telephones; takes its first 16 bytes or more."""
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS


def is_dicom(start: bytes) -> bool:
    """Whether a file begins like DICOM; takes its first 132 bytes or more."""
    return start[128:132] == b"DICM"


def is_avif(start: bytes) -> bool:
    """Whether a file begins like AVIF; takes its first 16 bytes or more."""
    return start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis")


def begins_like_image(start: bytes) -> bool:
    """Whether a file begins like one of a format that is read, whatever follows; takes its first bytes."""
    return any(start.startswith(signature, offset) for signature, offset, _ in _READABLE)


def what_it_is(start: bytes) -> str:
    """Names the kind of a file that no decoder could read.

    Args:
        start: first bytes of the file, up to a few thousand; not empty.

    Returns:
        A text such as "is a PDF document; export its pages as images", which follows the file's name.
    """
    for signature, offset, sentence in _SIGNATURES:
        if start.startswith(signature, offset):
            return sentence
    for signature, offset, kind in _READABLE:
        if start.startswith(signature, offset):
            return (
                f"begins like {kind}, but is damaged or a kind that Pillow cannot read; save it as 8-bit PNG"
            )
    if is_heif(start):
        return "is HEIC/HEIF, which Pillow lacks; pip install pillow-heif, or save it as JPEG or PNG"
    if is_avif(start):
        return "is AVIF that this Pillow cannot decode; pip install --upgrade pillow, or save it as PNG"
    if start[4:8] == b"ftyp" or (start[:4] == b"RIFF" and start[8:12] == b"AVI "):
        return "is a video; take images out of it first, for instance with ffmpeg"
    return _text_or_unknown(start)


def _text_or_unknown(start: bytes) -> str:
    head = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if re.match(rb"(<\?xml.*?>\s*)?(<!--.*?-->\s*)?(<!doctype svg.*?>\s*)?<svg\b", head, re.DOTALL):
        return "is an SVG drawing; export it as PNG"
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "is a web page, not an image; the download probably failed, fetch the image itself"
    if head.startswith(b"<?xml"):
        return "is an XML file; name an image file"
    if not start.strip(b"\x00"):
        return "holds only zero bytes, as after a failed copy; copy or download it again"
    if _is_text(start):
        return f"is a text file; expected {_WANTED}"
    return f"is not an image that can be read; expected {_WANTED}"


def _is_text(start: bytes) -> bool:
    """Whether bytes are UTF-8 text; the last character may be cut off."""
    text = start.decode("utf-8", errors="ignore")
    lost = len(start) - len(text.encode("utf-8"))
    return (
        bool(text)
        and lost <= 3
        and all(character.isprintable() or character in "\t\r\n\f" for character in text)
    )


_TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


def is_tiff(start: bytes) -> bool:
    """Whether a file begins like TIFF or BigTIFF; takes its first 4 bytes or more."""
    return start.startswith(_TIFF_SIGNATURES)

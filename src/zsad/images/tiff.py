"""Decodes the kinds of TIFF that Pillow gets wrong or refuses, with tifffile.

Pillow keeps what it reads exactly: samples of at most 8 bits, and one unsigned, signed or 32-bit
floating-point channel. tifffile takes colours of more than 8 bits in any order of planes, palettes of more
than 256 colours, 8-bit signed numbers, other floating-point numbers, packed bits and any number of channels.
It is the library of microscopy, whose instruments write these kinds; compressed ones also need imagecodecs
(the extra `tiff`).
"""

from __future__ import annotations

import importlib
import io
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.errors import ImageReadError, MissingExtraError
from zsad.images.conversion import levels_from_open_range, rgb_from_pillow
from zsad.images.depth import eight_bits, shown_levels
from zsad.images.limits import Reading, check_bytes, check_size, in_turn

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK = (
    0,
    1,
    2,
    3,
    5,
)  # values of the tag PhotometricInterpretation
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3  # values of the tag SampleFormat
_PILLOW_KINDS = {
    (_UNSIGNED, 12),
    (_UNSIGNED, 16),
    (_SIGNED, 16),
    (_SIGNED, 32),
    (_FLOAT, 32),
}  # of one channel
_ALPHA = (1, 2)  # values of the tag ExtraSamples
_ORIENTATION = 274
_BYTE = 8  # bits
_COPIES = 3  # of the values while they become levels


def read_tiff(stream: IO[bytes], reading: Reading, number: int | None) -> tuple[Image.Image, int] | None:
    """Reads a page that Pillow would get wrong or refuse.

    Args:
        stream: seekable stream that holds the whole file.
        reading: limits and depth of the values; a note is added if there are more pages than the one read.
        number: number of the page, from 0; None for the first.

    Returns:
        Image of mode "RGB" and its orientation, 1 to 8 as in EXIF; None if Pillow reads the page well or the
        file is damaged, which Pillow tells.

    Raises:
        ImageReadError: the page does not exist, is too large, cut short, or of a kind that cannot be shown,
            or imagecodecs is missing. The message does not contain the file's name.
    """
    tifffile = importlib.import_module("tifffile")
    try:
        stream.seek(0)  # tifffile takes the place where the stream stands as the start
        file = tifffile.TiffFile(stream)
        page = _page(file, reading, number)
    except ImageReadError:
        raise
    except Exception:  # damaged headers raise nearly every type
        return None
    if _suits_pillow(page):
        return None
    check_size(int(page.imagewidth), int(page.imagelength), reading)
    needed = _COPIES * int(page.nbytes)
    check_bytes(needed, reading)
    _check_complete(page, stream)
    orientation = page.tags.valueof(_ORIENTATION, default=1)
    with in_turn(needed, reading):
        try:
            values = page.asarray(maxworkers=1)
        except ValueError as error:
            if "imagecodecs" in str(error):
                raise ImageReadError(
                    str(MissingExtraError("imagecodecs", "tiff", "reading this kind of TIFF"))
                ) from error
            raise
        return _rgb(values, page, reading), int(orientation)


def tiff_bytes(stream: IO[bytes]) -> int | None:
    """Estimates the memory in bytes that decoding the first page takes; None if Pillow reads it.

    Raises:
        Exception: the header is damaged; tifffile raises nearly every type.
    """
    stream.seek(0)
    page: Any = importlib.import_module("tifffile").TiffFile(stream).pages[0]
    return None if _suits_pillow(page) else _COPIES * int(page.nbytes)


def _page(file: TiffFile, reading: Reading, number: int | None) -> TiffPage:
    try:
        page: Any = file.pages[number or 0]
    except IndexError as error:
        if not number:  # a file without pages is damaged
            raise
        raise ImageReadError(
            f"holds {len(file.pages)} pages, counted from 0; there is no page {number}"
        ) from error
    if number is None and _has_another(file):
        reading.notes.append(
            "holds several pages, of which the first is read; name another, as in FILE#page=1, or take all "
            "with --pages all or FILE#page=all"
        )
    return page  # type: ignore[no-any-return] # the first access gives a whole page


def _has_another(file: TiffFile) -> bool:
    """Whether there is a second page that is not a smaller copy of the first."""
    try:
        second: Any = file.pages[1]
        return not second.is_reduced
    except Exception:  # no second page, or a damaged one
        return False


def _suits_pillow(page: TiffPage) -> bool:
    kind = (int(page.sampleformat or _UNSIGNED), page.bitspersample)
    if page.photometric == _PALETTE:
        return kind[0] == _UNSIGNED and kind[1] <= _BYTE
    if page.samplesperpixel == 1 and kind in _PILLOW_KINDS:
        return True
    is_known = page.photometric not in (
        _BLACK_IS_ZERO,
        _WHITE_IS_ZERO,
        _RGB,
    ) or page.samplesperpixel <= _samples(page)
    return kind[0] == _UNSIGNED and kind[1] in (1, 2, 4, 8) and is_known


def _samples(page: TiffPage) -> int:
    """Number of samples that Pillow knows for this kind: the colours, and one of alpha or padding."""
    colours = 3 if page.photometric == _RGB else 1
    return colours + (1 if page.photometric == _RGB or _has_alpha(page, 1) else 0)


def _has_alpha(page: TiffPage, place: int) -> bool:
    """Whether the sample after `place` colours is alpha."""
    return page.samplesperpixel == place + 1 and bool(page.extrasamples) and page.extrasamples[0] in _ALPHA


def _check_complete(page: TiffPage, stream: IO[bytes]) -> None:
    end = max(
        (start + size for start, size in zip(page.dataoffsets, page.databytecounts, strict=False)), default=0
    )
    if end > stream.seek(0, io.SEEK_END):
        raise ImageReadError("cut short: its pixels end behind the end of the file; copy or save it again")


def _rgb(values: NDArray[Any], page: TiffPage, reading: Reading) -> Image.Image:
    """Converts the values of a page to RGB."""
    if page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise ImageReadError(
            f"its axes are {page.axes}, expected an image of the axes YX or YXS; save its planes"
        )
    if page.photometric == _PALETTE and values.ndim == 2 and page.colormap is not None:
        if values.min() < 0 or values.max() >= page.colormap.shape[1]:
            raise ImageReadError("is damaged: its pixels name colours that its palette lacks; save it again")
        return Image.fromarray(eight_bits(np.moveaxis(page.colormap[:, values], 0, -1), 16))
    if page.photometric == _CMYK and values.shape[-1] >= 4:
        return Image.frombytes(
            "CMYK", values.shape[1::-1], _levels(values[..., :4], page, reading).tobytes()
        ).convert("RGB")
    if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        raise ImageReadError(
            f"TIFF of the kind {page.photometric!s} with {page.bitspersample} bits, expected grey, RGB, "
            "CMYK or a palette; save it as one of these"
        )
    levels = _levels(_shown_channels(values, page, reading), page, reading)
    if page.photometric == _WHITE_IS_ZERO:
        levels = 255 - levels
    return rgb_from_pillow(Image.fromarray(np.ascontiguousarray(levels)))


def _shown_channels(values: NDArray[Any], page: TiffPage, reading: Reading) -> NDArray[Any]:
    """Returns (H, W), or (H, W, C) of grey and alpha, RGB, or RGB and alpha."""
    if values.ndim == 2:
        return values
    colours = 3 if page.photometric == _RGB else 1
    channels = values.shape[2]
    if _has_alpha(page, colours):
        return values
    if colours == 1 and channels > 1:
        shown = "first three are shown as red, green and blue" if channels >= 3 else "first is shown"
        reading.notes.append(f"holds {channels} channels, of which the {shown}")
    return values[..., :3] if channels >= 3 else values[..., 0]


def _levels(values: NDArray[Any], page: TiffPage, reading: Reading) -> NDArray[np.uint8]:
    """Scales values of any type to uint8."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    bits = int(page.bitspersample)
    if kind == "c":
        raise ImageReadError("holds complex numbers, expected real ones; save their magnitude")
    if kind == "f":
        return levels_from_open_range(values.astype(np.float64), "F", reading)
    if kind == "i" and size == 1:  # the whole range of the type, -128 black and 127 white
        return (values.astype(np.int16) + 128).astype(np.uint8)
    if kind in "bu" and bits <= 8:
        return eight_bits(values, bits)
    if kind == "u" and size == 2:
        return shown_levels(values, bits, reading)
    return levels_from_open_range(values, "I", reading)

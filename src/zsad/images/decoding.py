"""Decodes one image with Pillow, within a limit of pixels and without warnings; safe in threads."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from PIL import Image, UnidentifiedImageError

from zsad.errors import ImageReadError, NotAnImageError, printable
from zsad.images.budget import check_decoding, check_header, decoding_bytes, pillow_formats
from zsad.images.conversion import STATED_BITS, rgb_from_array, rgb_from_pillow
from zsad.images.deep_colours import colour_bits, jpeg2000_bits, note_depth, read_deep
from zsad.images.limits import Reading, check_size, in_turn
from zsad.images.medical import medical_bytes, read_dicom, read_medical
from zsad.images.names import NIFTI_SUFFIXES, file_and_part, suffix_of
from zsad.images.netpbm import read_netpbm
from zsad.images.quiet import quiet_decoders, silence_libtiff
from zsad.images.unreadable import begins_like_image, is_dicom, is_heif, is_tiff, what_it_is

_TRANSPOSE_OF_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ANIMATED = ("GIF", "WEBP")
_EXIF_ORIENTATION = 0x0112
_LONGEST_REASON = 200
_HEAD = 4096  # bytes that tell the format


def decode_stream(stream: IO[bytes], reading: Reading, page: int | None = None) -> Image.Image:
    """Decodes one frame or page of an image file.

    Args:
        stream: seekable stream at its start that holds the whole file.
        reading: limits, checked before the pixels are decoded, and depth of the values.
        page: number of the page or frame, from 0; None for the first, with a note if there are more. A
            DICOM file of several frames needs it.

    Returns:
        Upright image of mode "RGB".

    Raises:
        ImageReadError: the file is empty, not an image, damaged or too large. The message does not contain
            the file's name; the caller puts it in front.
    """
    start = stream.read(_HEAD)
    if not start:
        raise ImageReadError("the file is empty (0 bytes); copy or download it again")
    if is_dicom(start):
        return _guarded(lambda: read_dicom(start + stream.read(), reading, page))
    return _guarded(lambda: _page(stream, start, reading, page))


def decode_image(image: Image.Image, reading: Reading) -> Image.Image:
    """Decodes the current frame of a Pillow image, which may not have been loaded yet.

    Args:
        image: image of any mode.
        reading: limits and depth of the values.

    Returns:
        Upright image of mode "RGB".

    Raises:
        ImageReadError: the image is damaged or too large; the message does not contain its name.
    """
    return _guarded(lambda: _rgb(image, reading))


def decode_medical(path: str, reading: Reading) -> Image.Image:
    """Decodes a DICOM or NIfTI file, or one slice of it.

    Args:
        path: name of the image, as `zsad.images.medical` describes; the file exists.
        reading: limits and depth of the values.

    Returns:
        Image of mode "RGB".

    Raises:
        ImageReadError: the file is damaged or too large, or the slice does not exist; the message does not
            contain the file's name.
    """
    return _guarded(lambda: read_medical(path, reading))


def file_bytes(path: str | os.PathLike[str]) -> int:
    """Estimates the memory in bytes that decoding a file takes, from its header.

    Args:
        path: name of any image, with or without the number of a page, frame or slice; it need not exist.

    Returns:
        The estimate, of which size, depth, samples and format are part; 0 if the header cannot be read, so
        that decoding will tell why.
    """
    file, _ = file_and_part(path)
    if not os.path.isfile(file):  # opening a pipe would wait for its writer
        return 0
    try:
        with quiet_decoders():
            try:
                return _file_bytes(file)
            except Image.DecompressionBombError:
                with _pillow_limit_lifted():
                    return _file_bytes(file)
    except Exception:  # decoders raise nearly every type on damaged data
        return 0


def _file_bytes(file: str) -> int:
    with open(file, "rb") as stream:
        start = stream.read(_HEAD)
        if is_dicom(start) or suffix_of(file) in NIFTI_SUFFIXES:
            return medical_bytes(file)
        needed = None
        if is_tiff(start):
            from zsad.images.tiff import tiff_bytes  # only TIFF needs it

            needed = tiff_bytes(stream)
        stream.seek(0)
        return decoding_bytes(_open(stream, start)) if needed is None else needed


def _page(stream: IO[bytes], start: bytes, reading: Reading, page: int | None) -> Image.Image:
    """Decodes one page of a file that is no medical one."""
    if is_tiff(start):
        silence_libtiff()
        from zsad.images.tiff import read_tiff  # only TIFF needs it

        decoded = read_tiff(stream, reading, page)
        if decoded is not None:
            return _upright(*decoded)
        stream.seek(0)
    image = _open(stream, start)
    if page:
        try:
            image.seek(page)
        except EOFError as error:
            frames = getattr(image, "n_frames", 1)
            raise ImageReadError(f"holds {frames} pages, counted from 0; there is no page {page}") from error
    elif page is None and image.format in _ANIMATED and getattr(image, "is_animated", False):
        reading.notes.append(
            "holds several frames, of which the first is read; name another, as in FILE#page=1, or take all "
            "with --pages all or FILE#page=all"
        )
    check_header(image, stream, reading)
    if image.format == "JPEG2000":
        image.info[STATED_BITS] = jpeg2000_bits(start)
    stated = colour_bits(image, start)
    if stated > 8 and (reading.bits is not None or image.format == "JPEG2000"):
        levels = read_deep(stream, image, stated, reading)
        return _upright(rgb_from_array(levels), _orientation(image))
    shown = _rgb(image, reading)
    if stated > 8:
        note_depth(shown, stated, reading)
    return shown


def _open(stream: IO[bytes], start: bytes) -> Image.Image:
    """Recognises the format and reads the header."""
    _register_plugin(start)
    try:
        return Image.open(stream, formats=pillow_formats())
    except UnidentifiedImageError as error:
        kind = ImageReadError if begins_like_image(start) else NotAnImageError
        raise kind(what_it_is(start)) from error


def _register_plugin(start: bytes) -> None:
    """Registers the HEIF decoder, which is a package of its own, if the file needs it and it is installed."""
    if is_heif(start) and "HEIF" not in Image.OPEN:
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError:
            return  # the message about the unknown format will name the package


def _rgb(image: Image.Image, reading: Reading) -> Image.Image:
    """Converts a Pillow image, loaded or not, to upright RGB."""
    check_size(*image.size, reading)
    with in_turn(check_decoding(image, reading), reading):
        converted = read_netpbm(image, reading)
        if converted is None:
            image.load()
            converted = rgb_from_pillow(image, reading)
        if converted.mode != "RGB":
            converted = converted.convert("RGB")
    return _upright(converted, _orientation(image))


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TRANSPOSE_OF_ORIENTATION.get(orientation)
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 if the image has none or the EXIF block is damaged."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # the block is optional; the image itself is intact
        return 1


def _guarded(read: Callable[[], Image.Image]) -> Image.Image:
    """Runs a decoding step without warnings; every error becomes an `ImageReadError`."""
    try:
        with quiet_decoders():
            try:
                return read()
            except Image.DecompressionBombError:
                with _pillow_limit_lifted():  # zsad checks its own limit
                    return read()
    except ImageReadError:
        raise
    except MemoryError as error:
        raise ImageReadError("not enough memory to decode it; make it smaller") from error
    except Exception as error:  # decoders raise nearly every type on damaged data
        reason = printable(error)[:_LONGEST_REASON].strip(" .") or type(error).__name__
        raise ImageReadError(f"cut short or damaged ({reason}); copy or save it again") from error


_PILLOW_LIMIT_LOCK = threading.Lock()


@contextmanager
def _pillow_limit_lifted() -> Iterator[None]:
    """Switches off Pillow's own limit, one number for the whole process, for one thread at a time.

    This is needed only for images above that limit (179 megapixels unless the program changed it) and below
    zsad's.
    """
    with _PILLOW_LIMIT_LOCK:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before

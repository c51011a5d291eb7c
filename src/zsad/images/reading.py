"""Reads image files and arrays as 8-bit RGB; needs no torch.

An image may have at most `DEFAULT_MAX_PIXELS` pixels, unless the argument `max_pixels` or the environment
variable ZSAD_MAX_PIXELS says otherwise; the header is checked before anything is decoded. Of a file with
several frames or pages, the first one is read, with a warning; "scan.tif#page=3" names another, counted from
0. `zsad.images.medical` describes how DICOM and NIfTI are read.
The EXIF orientation is applied; colour profiles are not.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.errors import ConfigError, ImageReadError, ImageWarning, one_line, printable
from zsad.images.conversion import rgb_from_array
from zsad.images.decoding import decode_image, decode_medical, decode_stream
from zsad.images.limits import (
    AUTO,
    Bits,
    Reading,
    check_size,
    checked_bits,
    chosen_reading,
    common_depth,
)
from zsad.images.names import (
    MedicalPath,
    RemoteFile,
    file_and_part,
    is_medical,
    is_pattern,
    medical_path,
    suffix_of,
)
from zsad.images.remote import read_remote


def read_image(
    source: Any,
    *,
    max_pixels: int | None = None,
    max_bytes: int | None = None,
    bits: Bits = None,
    for_tiles: bool = False,
) -> Image.Image:
    """Reads one image as 8-bit RGB, upright.

    An image gives the same pixels whether it comes as a lossless file, Pillow image, uint8 array or float
    tensor.

    Args:
        source: a path; a `RemoteFile`, as `find_images` lists it; the bytes of a file; an open binary file
            (read from its start, left open); a Pillow image; a uint8 (or uint16, bool) array of shape (H, W)
            or (H, W, C); a float array or tensor of shape (C, H, W) with values in [0, 1]. Colours are RGB;
            reverse OpenCV's BGR first (`array[..., ::-1]`). `zsad.images.conversion` describes how each mode
            and type becomes RGB.
        max_pixels: largest number of pixels to accept; None takes ZSAD_MAX_PIXELS or `DEFAULT_MAX_PIXELS`.
        max_bytes: memory in bytes that decoding may take, as estimated from the header; None takes
            ZSAD_MAX_BYTES or `DEFAULT_MAX_BYTES`.
        bits: depth of the values in 16-bit files and arrays, 1 to 16, such as 12 for a 12-bit camera; "auto"
            takes the smallest usual depth that this image fits in, which differs between images
            (`common_bits` finds one for all); None takes ZSAD_BITS or what the file states.
        for_tiles: whether the image will be cut into tiles, for which both default limits are
            `TIMES_FOR_TILES` times as large.

    Returns:
        A new Pillow image of mode "RGB"; the source does not change.

    Raises:
        ImageReadError: the source is not an image, damaged, too large or of an unknown kind. The message
            reads "NAME: reason; what to do".
        ConfigError: a limit is not a whole number above 0, or the depth is not 1 to 16.

    Warns:
        ImageWarning: the image can be read in another way, which the text names.

    Example:
        >>> read_image(np.zeros((4, 6), dtype=np.uint8)).size
        (6, 4)
    """
    reading = chosen_reading(max_pixels, max_bytes, bits, for_tiles=for_tiles)
    image = _read(source, reading)
    for note in reading.notes:
        warnings.warn(ImageWarning(_name(source), note), stacklevel=2)
    return image


def common_bits(sources: Iterable[Any]) -> int | None:
    """Finds the smallest usual depth that the values of all 16-bit images fit in.

    Args:
        sources: what `read_image` takes; images that cannot be read do not count.

    Returns:
        8, 10, 12, 14 or 16 bits; None if no image has more than 8 bits.
    """
    depths: list[int] = []
    for source in sources:
        reading = chosen_reading(bits=AUTO)
        with suppress(Exception):  # reading the image itself will tell why it fails
            _read(source, reading).close()
            depths += reading.depths
    return max(depths, default=None)


def depth_of(bits: Bits, sources: Any) -> int | None:
    """Finds the depth at which several images are read together, so that they share one scale.

    Args:
        bits: depth of the values in 16-bit files, 1 to 16; "auto" for the one that `common_bits` finds.
        sources: a list of what `read_image` takes; read for "auto" only.

    Returns:
        1 to 16; None if "auto" finds no image of more than 8 bits.

    Raises:
        ConfigError: the depth is impossible, or "auto" is to look at a stream, which can be read only once.
    """
    if checked_bits(bits) != AUTO:
        return common_depth(bits)
    if not hasattr(sources, "__len__"):
        raise ConfigError(
            "bits='auto' has to look at all images first, and a stream can be read only once; give a list or "
            "a folder, or the depth of the camera, as in bits=12"
        )
    return common_bits(sources)


def _name(source: Any) -> str:
    """Returns the name of an image in messages."""
    if isinstance(source, (str, os.PathLike)):
        return printable(os.fsdecode(source)) or "''"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "bytes"
    if isinstance(source, Image.Image):
        return printable(getattr(source, "filename", "") or "Pillow image")
    if hasattr(source, "read"):
        return printable(getattr(source, "name", None) or "file object")
    return type(source).__name__


def _read(source: Any, reading: Reading) -> Image.Image:
    """Reads one image; `reading` collects the notes about it."""
    if isinstance(source, (str, os.PathLike)) and not isinstance(source, RemoteFile):
        return _read_path(os.path.expanduser(os.fsdecode(source)), reading)
    with _named(_name(source)):
        if isinstance(source, RemoteFile):
            return _read_remote(source, reading)
        if isinstance(source, (bytes, bytearray, memoryview)):
            return decode_stream(io.BytesIO(source), reading)
        if isinstance(source, Image.Image):
            return decode_image(source, reading)
        if hasattr(source, "read"):
            return decode_stream(io.BytesIO(_content(source)), reading)
        array = _array(source)
        height, width = array.shape[:2] if array.ndim == 2 or array.dtype.kind != "f" else array.shape[-2:]
        check_size(width, height, reading)
        return rgb_from_array(array, reading)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Puts the name of the image in front of the reason why it cannot be read, whatever was raised."""
    try:
        yield
    except ImageReadError as error:
        raise type(error)(f"{name}: {error}") from error
    except MemoryError as error:
        raise ImageReadError(f"{name}: not enough memory to read it; make it smaller") from error
    except Exception as error:  # one image never stops the others
        raise ImageReadError(
            f"{name}: cannot be read ({type(error).__name__}: {one_line(error):.200}); save it again as PNG"
        ) from error


def _read_path(path: str, reading: Reading) -> Image.Image:
    """Opens a file and reads it; every error of the system becomes an `ImageReadError`."""
    with _named(printable(path) or "''"):
        try:
            place = medical_path(path) if is_medical(path) or file_and_part(path)[1] else None
            kind = os.stat(place.file if place else path).st_mode
            if stat.S_ISDIR(kind):
                os.scandir(path).close()  # raises PermissionError for a folder that may not be listed
                raise ImageReadError("is a folder, expected an image file; name a file in it")
            if not stat.S_ISREG(kind):
                raise ImageReadError("is a device or a pipe, expected an image file; save it as a file first")
            if place and place.is_nifti:
                return decode_medical(path, reading)
            with open(place.file if place else path, "rb") as stream:
                return decode_stream(stream, reading, _number(place))
        except ImageReadError:
            raise
        except FileNotFoundError as error:
            raise ImageReadError(_why_missing(path)) from error
        except PermissionError as error:
            raise ImageReadError(
                "permission denied; allow reading it (chmod u+r) or run as its owner"
            ) from error
        except (
            OSError,
            ValueError,
        ) as error:  # name too long, loop of links, null character, failing disk
            reason = printable(getattr(error, "strerror", None) or error)
            raise ImageReadError(f"cannot be opened ({reason}); check the path") from error


def _read_remote(file: RemoteFile, reading: Reading) -> Image.Image:
    """Fetches a file and reads it; every error of its file system becomes an `ImageReadError`."""
    place = medical_path(file)
    try:
        content = read_remote(place.file)
    except Exception as error:  # each file system raises the errors of its own library
        raise ImageReadError(
            f"cannot be fetched ({printable(error)}); check the address and the credentials"
        ) from error
    if not place.is_nifti:
        return decode_stream(io.BytesIO(content), reading, _number(place))
    with tempfile.TemporaryDirectory(prefix="zsad-") as folder:  # nibabel reads from a file only
        copy = Path(folder, f"volume{suffix_of(place.file)}")
        copy.write_bytes(content)
        part = file.removeprefix(place.file)
        return decode_medical(f"{copy}{part}", reading)


def _number(place: MedicalPath | None) -> int | None:
    """The number of the page or frame that a name asks for."""
    return place.options.get("page", place.options.get("frame")) if place else None


def _why_missing(path: str) -> str:
    if not path:
        return "the path is empty; name an image file"
    if re.match(r"[a-z][a-z0-9+.-]+:/", path, re.IGNORECASE):
        return "is a web address, expected a local file; download it first"
    if os.path.islink(path):
        return "is a link to a file that does not exist; mend or remove the link"
    if is_pattern(path):
        return "no file matches this pattern; check the spelling and the folder you are in"
    return "no such file; check the spelling and the folder you are in"


def _content(source: Any) -> bytes | bytearray | memoryview:
    """Reads an open file from its start; the file stays open."""
    try:
        if not hasattr(source, "seekable") or source.seekable():
            source.seek(0)
        content = source.read()
    except Exception as error:  # any object with a `read` is accepted and may raise any error
        raise ImageReadError(f"cannot be read ({printable(error)}); open it with mode 'rb'") from error
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise ImageReadError(
            f"reading gives {type(content).__name__}, expected bytes; open it with mode 'rb'"
        )
    return content


def _array(source: Any) -> NDArray[Any]:
    """Converts an array or tensor of any library, none of which is imported here, to NumPy."""
    if not (hasattr(source, "shape") and hasattr(source, "dtype")):
        raise ImageReadError(
            "is not an image; expected a path, bytes, an open file, a Pillow image, a uint8 (H, W, C) "
            "array, or a float (C, H, W) array or tensor with values in [0, 1]"
        )
    is_tensor = hasattr(source, "detach")
    try:
        if is_tensor:
            source = source.detach().cpu()
            source = source.float() if source.is_floating_point() else source  # NumPy has no bfloat16
        array: NDArray[Any] = np.asarray(source)
    except Exception as error:  # foreign types raise any error; meta and sparse tensors do
        raise ImageReadError(
            f"cannot become a NumPy array ({printable(error)}); make it dense first"
        ) from error
    if is_tensor and array.ndim == 3 and array.dtype.kind in "bu" and array.shape[0] in (1, 2, 3, 4):
        array = np.transpose(
            array, (1, 2, 0)
        )  # a tensor is (C, H, W) whatever its type, like those of torchvision
    if array.ndim < 2:
        raise ImageReadError(f"{array.ndim} dimensions, expected 2 or 3: (H, W), (H, W, C) or (C, H, W)")
    return array

"""Any picture file or array in, 8-bit RGB out; no torch.

Limits: a picture may have at most `DEFAULT_MAX_PIXELS` pixels (argument `max_pixels`, or the environment
variable ZSAD_MAX_PIXELS), checked from the header before anything is decoded. Files with several frames
or pages give the first one. The EXIF orientation is applied.
"""

from __future__ import annotations

import glob
import importlib
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from zsad.errors import ConfigError, DataError, ImageReadError
from zsad.foreign_files import is_heif, what_it_is
from zsad.pixels import rgb_from_array, rgb_from_pillow

DEFAULT_MAX_PIXELS = 200_000_000
"""Largest picture that is read without asking: 600 MB as RGB, a phone's 200-megapixel mode just fits."""

MAX_PIXELS_VARIABLE = "ZSAD_MAX_PIXELS"

PICTURE_SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .mpo .bmp .dib .tif .tiff .webp .gif .pbm .pgm .ppm .pnm .pfm "
    ".jp2 .j2k .jpx .avif .heic .heif .qoi".split()
)
"""What counts as a picture inside a folder; files named one by one may have any suffix."""

# Only formats that are decoded inside the process: EPS, for one, would start Ghostscript on the file.
_FORMATS = (
    "PNG",
    "JPEG",
    "MPO",
    "BMP",
    "DIB",
    "TIFF",
    "WEBP",
    "GIF",
    "PPM",
    "JPEG2000",
    "AVIF",
    "HEIF",
    "QOI",
)

_TRANSPOSE_OF_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112


def read_image(source: Any, *, max_pixels: int | None = None) -> Image.Image:
    """Reads one picture as 8-bit RGB, upright.

    The same picture gives the same bytes as a lossless file, a Pillow picture, a uint8 array and a float tensor.

    Args:
        source: a path; the bytes of a file; an open binary file (read from its start, left open); a Pillow picture;
            a uint8 (or uint16, bool) array of shape (H, W) or (H, W, C); a float array or tensor of shape (C, H, W)
            with values in [0, 1]. `zsad.pixels` tells how each mode and type becomes RGB.
        max_pixels: refuse pictures with more pixels; None takes ZSAD_MAX_PIXELS or `DEFAULT_MAX_PIXELS`.

    Returns:
        A new Pillow picture of mode "RGB"; the source stays unchanged.

    Raises:
        ImageReadError: not a picture, damaged, too large or of an unknown kind; "NAME: reason; what to do".
        ConfigError: the limit itself is not a whole number above 0.
    """
    limit = _pixel_limit(max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _read_path(source, limit)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read_stream(io.BytesIO(source), "bytes", limit)
    if isinstance(source, Image.Image):
        return _named("Pillow picture", lambda: _rgb(source, limit))
    if hasattr(source, "read"):
        return _read_file_object(source, limit)
    return _named("array", lambda: _read_array(source, limit))


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of a picture as an array of its own: (H, W, 3) uint8 RGB."""
    return np.array(image if image.mode == "RGB" else rgb_from_pillow(image), dtype=np.uint8)


def prepare(
    image: Image.Image, size: int, mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Resizes and normalises a picture for the network, as the published systems do.

    Pillow's bicubic filter (antialiased, a = -0.5) squashes the picture to a square, the aspect ratio is not
    kept; then x / 255, minus mean, over std.

    Args:
        image: mode "RGB", as `read_image` gives it.
        size: pixels of one side of the result, at least 1.
        mean: of R, G and B in [0, 1] units.
        std: of R, G and B in [0, 1] units, not 0.

    Returns:
        (3, size, size) float32, contiguous.

    Raises:
        ConfigError: an impossible size, mean or std.
    """
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise ConfigError(f"image size must be a whole number of pixels above 0, got {size!r}")
    means, deviations = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    if means.shape != (3,) or deviations.shape != (3,) or not (deviations != 0).all():
        raise ConfigError(f"mean and std must be three numbers each, std not 0; got {mean!r} and {std!r}")
    squashed = image.convert("RGB").resize((int(size), int(size)), Image.Resampling.BICUBIC)
    levels = np.asarray(squashed, dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(((levels - means) / deviations).transpose(2, 0, 1))


def find_images(inputs: Iterable[str | Path] | str | Path, recursive: bool = True) -> list[Path]:
    """The picture files that files, folders and patterns stand for.

    * An existing file is taken whatever its suffix is.
    * A folder gives its files with a suffix of `PICTURE_SUFFIXES`, in natural order ("2.png" before "10.png");
      names that begin with a dot are left out; links to folders are followed, each folder once.
    * A pattern ("shots/**/*.png", quoted from the shell) gives the files it matches; folders that it matches
      count as folders; without a literal suffix at its end, only picture suffixes are taken.
    * A path that does not exist, or a folder that may not be listed, is returned as it is, so that reading it
      reports the reason while the other pictures are processed.

    Args:
        inputs: paths and patterns; one alone may come without a list.
        recursive: also look into sub-folders of folders.

    Returns:
        Paths without duplicates, in the order of the inputs.

    Raises:
        DataError: there is no picture at all; the message names what was looked for and where.
    """
    wanted = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    found: dict[str, Path] = {}
    for item in wanted:
        for path in _expand(os.fspath(item), recursive):
            found.setdefault(os.path.normcase(os.path.abspath(path)), path)
    if not found:
        places = ", ".join(printable(item) for item in wanted) or "nothing (no path was given)"
        depth = "" if recursive else " (sub-folders were not searched)"
        raise DataError(
            f"no pictures found in {places}{depth}; looked for files ending in "
            f"{' '.join(sorted(PICTURE_SUFFIXES))}; a file with another suffix can be named itself"
        )
    return list(found.values())


def printable(path: object) -> str:
    """A path or name on one line that any terminal can print: control characters and lone bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(path))


def _expand(item: str, recursive: bool) -> Iterator[Path]:
    """The files that one input of `find_images` stands for."""
    if item and os.path.isdir(item):
        yield from _walk(Path(item), recursive)
    elif item and not os.path.lexists(item) and glob.has_magic(item):
        any_suffix = bool(re.search(r"\.\w+$", item))
        for match in sorted(glob.iglob(item, recursive=True), key=_natural_key):
            if os.path.isdir(match):
                if "**" not in item:  # "**" lists what is inside by itself
                    yield from _walk(Path(match), recursive)
            elif any_suffix or _is_picture_name(match):
                yield Path(match)
    else:
        yield Path(item)


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    """The pictures of a folder in natural order, sub-folders after the files; folders that fail to list as such."""
    seen: set[tuple[int, int]] = set()
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            status = os.stat(current)
            entries = sorted(os.scandir(current), key=lambda entry: _natural_key(entry.name))
        except OSError:
            yield current
            continue
        # A link may lead back up; inode numbers are 0 on some file systems, the resolved path then decides.
        identity = (status.st_dev, status.st_ino or hash(os.path.realpath(current)))
        if identity in seen:
            continue
        seen.add(identity)
        visible = [entry for entry in entries if not entry.name.startswith(".")]
        folders = [entry for entry in visible if entry.is_dir()]
        yield from (
            Path(entry.path) for entry in visible if entry not in folders and _is_picture_name(entry.name)
        )
        if recursive:
            pending.extend(Path(entry.path) for entry in reversed(folders))


def _is_picture_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def _natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts digits by value and letters without regard to case; the name itself breaks ties."""
    # Only ASCII digits: int() refuses some characters that \d accepts, and no file name has 4300 of them.
    parts = re.split(r"([0-9]+)", name)
    return [
        (0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part.casefold()) for part in parts
    ], name


def _pixel_limit(max_pixels: int | None) -> int:
    """The limit in force, from the argument, the environment or the default."""
    given: object = os.environ.get(MAX_PIXELS_VARIABLE) if max_pixels is None else max_pixels
    if given is None or given == "":
        return DEFAULT_MAX_PIXELS
    try:
        limit = int(str(given))
    except ValueError:
        limit = 0
    if limit < 1:
        name = MAX_PIXELS_VARIABLE if max_pixels is None else "max_pixels"
        raise ConfigError(
            f"{name} must be a whole number of pixels above 0, such as 400000000; got {given!r}"
        )
    return limit


def _read_path(source: str | os.PathLike[str], limit: int) -> Image.Image:
    """Opens a file and reads it; every reason that the system gives becomes an `ImageReadError`."""
    path = os.fspath(source)
    name = printable(path) or "''"
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            os.scandir(path).close()  # a folder that may not be listed says so instead
            raise ImageReadError(f"{name}: is a folder, expected a picture file; name a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ImageReadError(
                f"{name}: is a device or a pipe, expected a picture file; save it as a file first"
            )
        with open(path, "rb") as stream:
            return _read_stream(stream, name, limit)
    except FileNotFoundError as error:
        raise ImageReadError(f"{name}: {_why_missing(path)}") from error
    except PermissionError as error:
        raise ImageReadError(
            f"{name}: permission denied; allow reading it (chmod u+r) or run as its owner"
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error, ImageReadError):
            raise
        reason = printable(getattr(error, "strerror", None) or error)
        raise ImageReadError(f"{name}: cannot be opened ({reason}); check the path") from error


def _why_missing(path: str) -> str:
    if re.match(r"[a-z][a-z0-9+.-]+:/", path, re.IGNORECASE):
        return "is a web address, expected a local file; download it first"
    if os.path.islink(path):
        return "is a link to a file that does not exist; mend or remove the link"
    return "no such file; check the spelling and the folder you are in"


def _read_file_object(source: Any, limit: int) -> Image.Image:
    """Reads an open file from its start and leaves it open."""
    name = printable(getattr(source, "name", None) or "file object")
    try:
        if not hasattr(source, "seekable") or source.seekable():
            source.seek(0)
        content = source.read()
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ImageReadError(
            f"{name}: cannot be read ({printable(error)}); open it with mode 'rb'"
        ) from error
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise ImageReadError(
            f"{name}: reading gives {type(content).__name__}, expected bytes; open it with mode 'rb'"
        )
    return _read_stream(io.BytesIO(content), name, limit)


def _read_array(source: Any, limit: int) -> Image.Image:
    """RGB from a NumPy array, or from a tensor of any library, which it recognises without importing it."""
    if not (hasattr(source, "shape") and hasattr(source, "dtype")):
        raise ImageReadError(
            f"a {type(source).__name__} is not a picture; expected a path, bytes, an open file, a Pillow picture, "
            "a uint8 (H, W, C) array, or a float (C, H, W) array or tensor with values in [0, 1]"
        )
    is_tensor = hasattr(source, "detach")
    try:
        if is_tensor:
            source = source.detach().cpu()
            source = source.float() if source.is_floating_point() else source  # NumPy has no bfloat16
        array = np.asarray(source)
    except Exception as error:  # whatever a foreign array type raises: meta and sparse tensors, for two
        raise ImageReadError(
            f"a {type(source).__name__} that cannot become an array ({printable(error)})"
        ) from error
    if is_tensor and array.ndim == 3 and array.dtype.kind in "bu" and array.shape[0] in (1, 2, 3, 4):
        array = array.transpose(
            1, 2, 0
        )  # a tensor is (C, H, W) whatever its type, as torchvision reads files
    if array.ndim >= 2:
        height, width = array.shape[-2:] if array.dtype.kind == "f" or array.ndim == 2 else array.shape[:2]
        _check_size(width, height, limit)
    return rgb_from_array(array)


def _read_stream(stream: IO[bytes], name: str, limit: int) -> Image.Image:
    """Decodes a picture file that is open for reading."""
    start = stream.read(4096)
    if not start:
        raise ImageReadError(f"{name}: the file is empty (0 bytes); copy or download it again")
    with _QUIET_PILLOW:
        try:
            return _named(name, lambda: _decode(stream, start, limit))
        except Image.DecompressionBombError:
            # Pillow's own limit lies below ours. It is one number for the whole process, so it is lifted
            # for the reading of this picture only, and by one thread at a time.
            with _PILLOW_LIMIT_LOCK:
                before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
                try:
                    return _named(name, lambda: _decode(stream, start, limit))
                finally:
                    Image.MAX_IMAGE_PIXELS = before


def _decode(stream: IO[bytes], start: bytes, limit: int) -> Image.Image:
    """Identifies, checks and decodes; reasons come without the name."""
    _register_plugin(start)
    Image.init()
    try:
        picture = Image.open(stream, formats=[name for name in _FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as error:
        raise ImageReadError(what_it_is(start)) from error
    return _rgb(picture, limit)


def _rgb(picture: Image.Image, limit: int) -> Image.Image:
    """Upright RGB from a Pillow picture, loaded or not."""
    _check_size(*picture.size, limit)
    picture.load()
    converted = rgb_from_pillow(picture)
    turn = _TRANSPOSE_OF_ORIENTATION.get(_orientation(picture))
    return converted if turn is None else converted.transpose(turn)


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none or the EXIF block is damaged."""
    try:
        return int(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # the block is optional: the picture is still good
        return 1


def _check_size(width: int, height: int, limit: int) -> None:
    if width < 1 or height < 1:
        raise ImageReadError(f"{width} x {height} pixels: it holds no pixels")
    if width * height > limit:
        raise ImageReadError(
            f"{width} x {height} = {width * height} pixels are more than the limit of {limit}; make it smaller or "
            f"cut it into tiles, or, if you trust it, raise the limit: {MAX_PIXELS_VARIABLE}={width * height} "
            "or max_pixels="
        )


def _named(name: str, read: Callable[[], Image.Image]) -> Image.Image:
    """Runs a reading step; whatever goes wrong becomes an `ImageReadError` that begins with the name."""
    try:
        return read()
    except Image.DecompressionBombError:
        raise
    except ImageReadError as error:
        raise ImageReadError(f"{name}: {error}") from error
    except MemoryError as error:
        raise ImageReadError(f"{name}: not enough memory to decode it; make it smaller") from error
    except Exception as error:  # decoders raise nearly every type on damaged data
        reason = printable(error).strip().rstrip(".") or type(error).__name__
        raise ImageReadError(f"{name}: cut short or damaged ({reason}); copy or save it again") from error


def _register_plugin(start: bytes) -> None:
    """Adds the decoder of a format that Pillow leaves to another package, if that package is there."""
    try:
        if is_heif(start):
            importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        pass  # the message about the unknown format names the package


_PILLOW_LIMIT_LOCK = threading.Lock()


class _QuietPillow:
    """Silences the warnings of Pillow's own modules while at least one thread is reading.

    `warnings.catch_warnings` saves and restores a list of the whole process, so threads that overlap would
    restore it in the wrong order; the first one in saves, the last one out restores.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._saved: warnings.catch_warnings[None] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0 and self._saved is not None:
                self._saved.__exit__(None, None, None)
                self._saved = None


_QUIET_PILLOW = _QuietPillow()

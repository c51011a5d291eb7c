"""Writes the files of one result, each whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.errors import ConfigError, ImageReadError, unknown_name
from zsad.files.atomic import atomic_file
from zsad.images.colours import map_from_uint16, map_to_uint16
from zsad.images.drawing import Scale, draw_contour, mask_image, overlay
from zsad.images.grey_png import write_grey_png
from zsad.images.results import MARKER, MARKER_TEXT, png_marker

FileKind = Literal["overlay", "map", "npy", "mask", "contour"]


FILE_SUFFIXES: dict[str, str] = {
    "overlay": "_overlay.jpg",
    "map": "_map.png",
    "npy": "_map.npy",
    "mask": "_mask.png",
    "contour": "_contour.jpg",
}


_JPEG_LARGEST_SIDE = 65_500  # pixels; a limit of the format
_RANGE_KEY = "zsad:map_range"


def read_map(path: str | Path | IO[bytes]) -> NDArray[np.float32]:
    """Reads a map file of zsad, 16-bit PNG or .npy, back into the values of the method.

    Args:
        path: path of a file of the kind "map" or "npy", or an open file of the kind "map".

    Returns:
        (H, W) float32 map.

    Raises:
        ImageReadError: the file is not a map of zsad.
    """
    try:
        if isinstance(path, str | Path) and Path(path).suffix == ".npy":
            loaded: NDArray[np.float32] = np.load(path, allow_pickle=False)
            return loaded
        with Image.open(path) as image:
            low, high = (float(part) for part in str(image.info[_RANGE_KEY]).split())
            return map_from_uint16(np.asarray(image, dtype=np.uint16), (low, high))
    except KeyError as error:
        raise ImageReadError(f"{path}: no map of zsad, it does not tell its value range") from error
    except (OSError, ValueError) as error:
        raise ImageReadError(f"{path}: cannot be read as a map: {error}") from error


def write_file(
    kind: FileKind,
    path: str | Path,
    image: NDArray[np.uint8],
    anomaly_map: NDArray[np.float32],
    map_range: tuple[float, float],
    *,
    mask: NDArray[np.bool_] | None = None,
    scale: Scale = "fixed",
    roi: NDArray[np.bool_] | None = None,
) -> Path:
    """Writes one file of a result.

    Args:
        kind: "overlay" (JPEG), "map" (16-bit PNG that stores its value range), "npy" (float32), "mask" (PNG,
            0 or 255) or "contour" (JPEG).
        path: path of the file; missing folders are created.
        image: (H, W, 3) uint8 RGB.
        anomaly_map: (H, W) float32 map.
        map_range: smallest and largest value that the map can take.
        mask: (H, W) bool, needed for "mask" and "contour".
        scale: colour scale of the overlay, "fixed" or "image", as `overlay` takes it.
        roi: (H, W) bool, region of interest, outside of which an overlay is dark; None for all.

    Returns:
        The path of the file; its suffix is .png if an image is too large for JPEG.

    Raises:
        ConfigError: the kind is unknown, or a mask or contour is asked for without a mask.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if kind == "npy":
        with atomic_file(path) as file:
            np.save(file, anomaly_map.astype(np.float32, copy=False), allow_pickle=False)
    elif kind == "map":
        with atomic_file(path) as file:
            save_map(anomaly_map, map_range, file)
    elif kind == "mask":
        with atomic_file(path) as file:
            mask_image(_needed(mask, kind)).save(file, format="PNG", pnginfo=png_marker())
    elif kind == "contour":
        return save_photo(draw_contour(image, _needed(mask, kind)), path)
    elif kind == "overlay":
        return save_photo(overlay(image, anomaly_map, map_range, scale=scale, roi=roi), path)
    else:
        raise unknown_name("file kind", str(kind), FILE_SUFFIXES)
    return path


def save_map(anomaly_map: NDArray[np.float32], map_range: tuple[float, float], file: IO[bytes]) -> None:
    """Writes a map as 16-bit PNG that stores its value range; `read_map` reads it back.

    Args:
        anomaly_map: (H, W) float32 map.
        map_range: map values that become 0 and 65535.
        file: open binary file.
    """
    low, high = map_range
    texts = {MARKER: MARKER_TEXT, _RANGE_KEY: f"{low!r} {high!r}"}
    write_grey_png(file, map_to_uint16(anomaly_map, map_range), texts)


def save_png(image: Image.Image, file: IO[bytes]) -> None:
    """Writes an image as PNG that says that zsad wrote it."""
    image.save(file, format="PNG", pnginfo=png_marker(), compress_level=3)


def save_jpeg(image: Image.Image, file: IO[bytes], quality: int, note: bytes = b"") -> None:
    """Writes an RGB image as JPEG with full colour resolution, which keeps thin coloured structures.

    A comment marks the file as one that zsad wrote; `note` follows in the same comment.
    """
    # Without a profile or EXIF of the input, which would come first, the marker stays near the file's start.
    image.save(
        file,
        format="JPEG",
        quality=quality,
        subsampling=0,
        comment=MARKER.encode() + note,
        exif=b"",
        icc_profile=None,
    )


def save_photo(image: Image.Image, path: Path) -> Path:
    """Writes an overlay or a contour: JPEG, or PNG if the image is too large for that.

    Returns:
        The path of the file; its suffix is .png if the image is too large for JPEG.

    Raises:
        OSError: the file cannot be written.
    """
    if max(image.size) > _JPEG_LARGEST_SIDE:
        path = path.with_suffix(".png")
        with atomic_file(path) as file:
            save_png(image, file)
        return path
    with atomic_file(path) as file:
        save_jpeg(image, file, quality=92)
    return path


def _needed(mask: NDArray[np.bool_] | None, kind: str) -> NDArray[np.bool_]:
    if mask is None:
        raise ConfigError(
            f"a {kind} needs a threshold for map values and this prediction has none: "
            "give one (--map-threshold VALUE, or Prediction.mask(VALUE)) or calibrate"
        )
    return mask

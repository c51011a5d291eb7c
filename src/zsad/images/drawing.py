"""Anomaly maps made visible: heat map, overlay, mask and contour, each its own function, and their files.

The colour scale is fixed by default: one map value has one colour in every picture, so that two pictures can
be compared and a clean picture looks clean. A scale of its own for one picture exists on request and is
printed into that picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from zsad.errors import ConfigError, ImageReadError, unknown_name
from zsad.files.atomic import atomic_file
from zsad.images.colours import colour_levels, colour_table, map_from_uint16, map_to_uint16

if TYPE_CHECKING:
    from zsad.types import Prediction

Scale = Literal["fixed", "picture"]
FileKind = Literal["overlay", "map", "npy", "mask", "contour"]

SCALES: tuple[Scale, ...] = ("fixed", "picture")
FILE_SUFFIXES: dict[str, str] = {
    "overlay": "_overlay.jpg",
    "map": "_map.png",
    "npy": "_map.npy",
    "mask": "_mask.png",
    "contour": "_contour.jpg",
}
STRONGEST_ALPHA = 0.78  # some of the picture stays visible even under the highest value
CONTOUR_COLOUR = (255, 64, 64)

_JPEG_LARGEST_SIDE = 65_500  # of the format
_ROWS_AT_A_TIME = 256  # bounds the memory of blending very large pictures
_RANGE_KEY = "zsad:map_range"


def heat_map(
    anomaly_map: NDArray[np.floating], map_range: tuple[float, float] = (0.0, 1.0)
) -> NDArray[np.uint8]:
    """Colours for every map value.

    Args:
        anomaly_map: (H, W) map.
        map_range: values that get the first and the last colour; values outside are clipped.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ConfigError: the map is not (H, W), or the range is empty.
    """
    colours: NDArray[np.uint8] = colour_table()[colour_levels(anomaly_map, map_range)]
    return colours


def overlay(
    image: NDArray[np.uint8],
    anomaly_map: NDArray[np.floating],
    map_range: tuple[float, float] = (0.0, 1.0),
    *,
    scale: Scale = "fixed",
    strength: float = STRONGEST_ALPHA,
) -> Image.Image:
    """The picture with the heat map over it; the higher the value, the more opaque its colour.

    Args:
        image: (H, W, 3) uint8 RGB.
        anomaly_map: (H, W), aligned with `image`.
        map_range: the fixed colour scale, smallest and largest value.
        scale: "fixed" uses `map_range`, so that pictures can be compared; "picture" stretches this map's own
            values over all colours and prints their range into the lower left corner.
        strength: opacity of the highest value, in [0, 1].

    Returns:
        An RGB picture of the same size.

    Raises:
        ConfigError: shapes that do not fit together, an empty range or an unknown scale.
    """
    _check_aligned(image, anomaly_map)
    if not 0 <= strength <= 1:
        raise ConfigError(f"strength is an opacity between 0 and 1, got {strength!r}")
    if scale not in SCALES:
        raise unknown_name("scale", str(scale), SCALES)
    chosen_range = map_range if scale == "fixed" else _range_of(anomaly_map)
    # A smooth step keeps low values nearly clear, since normal surface must look like the picture itself.
    values = np.linspace(0, 1, 256)
    alphas = np.round(256 * strength * values**2 * (3 - 2 * values)).astype(np.uint16)
    blended = np.empty_like(image)
    for top in range(0, image.shape[0], _ROWS_AT_A_TIME):
        rows = slice(top, top + _ROWS_AT_A_TIME)
        levels = colour_levels(anomaly_map[rows], chosen_range)
        alpha = alphas[levels][..., None]
        blended[rows] = (image[rows] * (256 - alpha) + colour_table()[levels] * alpha) >> 8
    picture = Image.fromarray(blended)
    if scale == "picture":
        low, high = chosen_range
        _print_label(picture, f"scale of this picture only: {low:.3g} to {high:.3g}")
    return picture


def draw_mask(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    *,
    colour: tuple[int, int, int] = CONTOUR_COLOUR,
    alpha: float = 0.5,
) -> Image.Image:
    """The picture with the anomalous pixels tinted.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, True where anomalous.
        colour: RGB, 0 to 255.
        alpha: opacity of the tint in [0, 1].

    Returns:
        An RGB picture of the same size.

    Raises:
        ConfigError: image and mask differ in size.
    """
    _check_aligned(image, mask)
    tinted = image.copy()
    tint = np.array(colour, dtype=np.float32) * alpha
    tinted[mask] = np.round(image[mask] * (1 - alpha) + tint).astype(np.uint8)
    return Image.fromarray(tinted)


def draw_contour(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    *,
    colour: tuple[int, int, int] = CONTOUR_COLOUR,
    width: int | None = None,
) -> Image.Image:
    """The picture with a line around the anomalous regions; every pixel inside them stays as it was.

    The line lies just outside the mask, between two thin dark lines, so that it shows on any background.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, True where anomalous.
        colour: RGB, 0 to 255.
        width: pixels of the line; None chooses it by the picture's size.

    Returns:
        An RGB picture of the same size.

    Raises:
        ConfigError: image and mask differ in size, or the width is below 1.
    """
    _check_aligned(image, mask)
    width = max(2, round(max(mask.shape) / 300)) if width is None else width
    if width < 1:
        raise ConfigError(f"the contour's width must be at least 1 pixel, got {width}")
    edge = max(1, width // 3)
    near = _grown(mask, edge)
    line = _grown(near, width)
    outside = _grown(line, edge)
    drawn = image.copy()
    drawn[outside & ~mask] = (24, 24, 24)
    drawn[line & ~near] = colour
    return Image.fromarray(drawn)


def mask_picture(mask: NDArray[np.bool_]) -> Image.Image:
    """A black and white picture of a mask: 255 where anomalous, 0 elsewhere, mode L."""
    return Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))


def thumbnail(picture: Image.Image, side: int = 320) -> Image.Image:
    """A copy of a picture whose longer side has at most `side` pixels."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return small


def read_map(path: str | Path) -> NDArray[np.float32]:
    """Reads a map file that zsad wrote, 16-bit PNG or .npy, back into the method's own values.

    Args:
        path: a file of the kind "map" or "npy".

    Returns:
        (H, W) float32.

    Raises:
        ImageReadError: the file is not one of zsad's maps.
    """
    try:
        if Path(path).suffix == ".npy":
            loaded: NDArray[np.float32] = np.load(path, allow_pickle=False)
            return loaded
        with Image.open(path) as picture:
            low, high = (float(part) for part in str(picture.info[_RANGE_KEY]).split())
            return map_from_uint16(np.asarray(picture, dtype=np.uint16), (low, high))
    except KeyError as error:
        raise ImageReadError(f"{path}: no map of zsad, it does not tell its value range") from error
    except (OSError, ValueError) as error:
        raise ImageReadError(f"{path}: cannot be read as a map: {error}") from error


def write_file(prediction: Prediction, kind: FileKind, path: str | Path, *, scale: Scale = "fixed") -> Path:
    """Writes one picture or array of a prediction, whole or not at all.

    Args:
        prediction: of one picture.
        kind: "overlay" (JPEG), "map" (16-bit PNG that knows its value range), "npy" (float32), "mask" (PNG, 0
            or 255) or "contour" (JPEG).
        path: the file; missing folders are made.
        scale: the overlay's colour scale, as for `overlay`.

    Returns:
        The path; its suffix becomes .png when a picture is too large for JPEG.

    Raises:
        ConfigError: an unknown kind, or a mask or contour without a map threshold.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if kind == "npy":
        with atomic_file(path) as file:
            np.save(file, prediction.anomaly_map.astype(np.float32, copy=False), allow_pickle=False)
    elif kind == "map":
        low, high = prediction.map_range
        information = PngInfo()
        information.add_text(_RANGE_KEY, f"{low!r} {high!r}")
        packed = Image.fromarray(map_to_uint16(prediction.anomaly_map, prediction.map_range))
        with atomic_file(path) as file:
            packed.save(file, format="PNG", pnginfo=information, compress_level=3)
    elif kind == "mask":
        with atomic_file(path) as file:
            mask_picture(_mask_of(prediction, kind)).save(file, format="PNG")
    elif kind == "contour":
        return _save_photo(draw_contour(prediction.image, _mask_of(prediction, kind)), path)
    elif kind == "overlay":
        return _save_photo(
            overlay(prediction.image, prediction.anomaly_map, prediction.map_range, scale=scale), path
        )
    else:
        raise unknown_name("file kind", str(kind), FILE_SUFFIXES)
    return path


def save_prediction(
    prediction: Prediction,
    directory: str | Path,
    *,
    name: str | None = None,
    kinds: Sequence[FileKind] | None = None,
    scale: Scale = "fixed",
) -> list[Path]:
    """Writes the files of one prediction into a folder.

    Args:
        prediction: of one picture.
        directory: made if it is not there.
        name: how the file names begin; None takes the stem of `prediction.path`, or "picture".
        kinds: which files, as for `write_file`; None means overlay and map, and the mask when there is a map
            threshold.
        scale: the overlay's colour scale, as for `overlay`.

    Returns:
        The files written: NAME_overlay.jpg, NAME_map.png, NAME_mask.png and so on. Files of the same name are
        replaced.

    Raises:
        ConfigError: an unknown kind, or a mask or contour without a map threshold.
        OSError: the folder cannot be written.
    """
    if name is None:
        name = prediction.path.stem if prediction.path else "picture"
    chosen: Sequence[FileKind] = kinds if kinds is not None else ("overlay", "map")
    if kinds is None and prediction.map_threshold is not None:
        chosen = (*chosen, "mask")
    for kind in chosen:
        if kind not in FILE_SUFFIXES:
            raise unknown_name("file kind", str(kind), FILE_SUFFIXES)
    return [
        write_file(prediction, kind, Path(directory) / f"{name}{FILE_SUFFIXES[kind]}", scale=scale)
        for kind in chosen
    ]


def save_jpeg(picture: Image.Image, file: IO[bytes], quality: int) -> None:
    """Writes an RGB picture as JPEG with full colour resolution, for the sake of thin coloured structures."""
    picture.save(file, format="JPEG", quality=quality, subsampling=0)


def _save_photo(picture: Image.Image, path: Path) -> Path:
    if max(picture.size) > _JPEG_LARGEST_SIDE:
        path = path.with_suffix(".png")
        with atomic_file(path) as file:
            picture.save(file, format="PNG", compress_level=3)
        return path
    with atomic_file(path) as file:
        save_jpeg(picture, file, quality=92)
    return path


def _mask_of(prediction: Prediction, kind: str) -> NDArray[np.bool_]:
    mask = prediction.mask()
    if mask is None:
        raise ConfigError(
            f"a {kind} needs a threshold for map values and this prediction has none: "
            "give one (--map-threshold VALUE, or Prediction.mask(VALUE)) or calibrate"
        )
    return mask


def _range_of(anomaly_map: NDArray[np.floating]) -> tuple[float, float]:
    finite = anomaly_map[np.isfinite(anomaly_map)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low, low + 1.0)


def _check_aligned(image: NDArray[np.uint8], values: NDArray[np.floating] | NDArray[np.bool_]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ConfigError(f"the picture must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    if image.shape[:2] != values.shape:
        raise ConfigError(f"the picture is {image.shape[:2]} and the map or mask {values.shape}: not aligned")


def _grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """A mask widened by some pixels; alternating crosses and squares gives nearly round corners."""
    grown = mask
    for step in range(pixels):
        widened = grown.copy()
        widened[1:] |= grown[:-1]
        widened[:-1] |= grown[1:]
        base = widened.copy() if step % 2 else grown
        widened[:, 1:] |= base[:, :-1]
        widened[:, :-1] |= base[:, 1:]
        grown = widened
    return grown


def _print_label(picture: Image.Image, text: str) -> None:
    """Prints a line into the lower left corner, on a dark plate, sized to the picture."""
    size = max(9, round(min(picture.width / 24, picture.height / 16)))
    font = ImageFont.load_default(size)
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    padding = max(2, size // 4)
    plate_top = picture.height - (bottom - top) - 2 * padding
    draw.rectangle((0, plate_top, right - left + 2 * padding, picture.height), fill=(20, 20, 20))
    draw.text((padding - left, plate_top + padding - top), text, fill=(255, 255, 255), font=font)

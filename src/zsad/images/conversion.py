"""Converts arrays of any type and Pillow images of any mode to 8-bit RGB; no files, no torch.

Every rule is fixed: the brightness of a value does not depend on the other values of the image. Modes "I" and
"F" are the exception, because their container does not state the unit; it is then one of the three that
`rgb_from_pillow` names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.errors import ImageReadError
from zsad.images.depth import CONTAINER, shown_levels
from zsad.images.limits import Reading

BACKGROUND = (255, 255, 255)
"""Colour behind transparent pixels: white, as in a browser or on paper."""

STATED_BITS = "stated_bits"
"""Entry of a Pillow image's `info`: the depth that a JPEG 2000 file states."""

_MODE_OF_CHANNELS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_KEYED_MODES = ("1", "L", "P", "RGB")  # a colour or some palette entries may count as transparent
_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_HALF_LEVEL = 0.5 / 255
_EXPECTED = (
    "expected a uint8 array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or a float array or tensor "
    "of shape (C, H, W) with values in [0, 1]"
)


def rgb_from_array(array: NDArray[Any], reading: Reading | None = None) -> Image.Image:
    """Converts an array to RGB.

    Args:
        array: uint8, uint16 or bool of shape (H, W) or (H, W, C), or floating point in [0, 1] of shape (H, W)
            or (C, H, W); C is 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGB and alpha). uint16 is divided
            by 257, unless `reading` gives another depth. Floats are rounded to 8 bits, so that `array / 255`
            gives the same image as `array`; values outside [0, 1] by less than half a grey level are clipped.
        reading: depth of the values of uint16; None: all 16 bits.

    Returns:
        Image of mode "RGB"; alpha is composited over white.

    Raises:
        ImageReadError: the type, shape or range of the array is none of these.
    """
    kind = f"{array.dtype} array of shape {tuple(array.shape)}"
    is_float = np.issubdtype(array.dtype, np.floating)
    if not is_float and array.dtype.name not in ("uint8", "uint16", "bool"):
        hint = "; convert it with .astype('uint8')" if np.issubdtype(array.dtype, np.integer) else ""
        raise ImageReadError(f"{kind}: this type of number is not an image; {_EXPECTED}{hint}")
    if array.size == 0:
        raise ImageReadError(f"{kind}: it holds no pixels; {_EXPECTED}")
    if array.ndim == 4:
        raise ImageReadError(f"{kind}: this is a batch; give its images one by one, as list(batch)")
    if array.ndim not in (2, 3):
        raise ImageReadError(f"{kind}: {_EXPECTED}")
    if array.ndim == 3:
        array = _channels_last(array, kind, is_float)
    if is_float:
        array = _levels_from_unit_range(array, kind)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype != np.uint8:
        array = shown_levels(array, CONTAINER, reading or Reading())
    channels = 1 if array.ndim == 2 else array.shape[2]
    pixels = array[..., 0] if array.ndim == 3 and channels == 1 else array
    # Image.fromarray finds the mode by itself: L, LA, RGB or RGBA for these four shapes.
    return rgb_from_pillow(Image.fromarray(np.ascontiguousarray(pixels)))


def _channels_last(array: NDArray[Any], kind: str, is_float: bool) -> NDArray[Any]:
    """Brings a 3-D array to (H, W, C); refuses an array whose axes are in the order of the other type."""
    here, there = (0, 2) if is_float else (2, 0)
    if array.shape[here] in _MODE_OF_CHANNELS:
        return array.transpose(1, 2, 0) if is_float else array
    if array.shape[there] in _MODE_OF_CHANNELS:
        order, wanted, call = (
            ("(H, W, C)", "(C, H, W)", "2, 0, 1") if is_float else ("(C, H, W)", "(H, W, C)", "1, 2, 0")
        )
        raise ImageReadError(
            f"{kind}: the order looks like {order}, expected {wanted} for this type of number; "
            f"use .transpose({call}) (torch: .permute({call}))"
        )
    raise ImageReadError(f"{kind}: {array.shape[here]} channels; {_EXPECTED}")


def _levels_from_unit_range(array: NDArray[Any], kind: str) -> NDArray[np.uint8]:
    """Converts floats in [0, 1] to uint8 levels."""
    lowest, highest = float(array.min()), float(array.max())  # NaN if any value is
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise ImageReadError(f"{kind}: it holds values that are not finite; expected values in [0, 1]")
    if lowest < -_HALF_LEVEL or highest > 1 + _HALF_LEVEL:
        hint = "divide by 255" if lowest >= 0 and highest <= 255 else "undo the normalisation first"
        raise ImageReadError(
            f"{kind}: its values go from {lowest:.4g} to {highest:.4g}, expected values in [0, 1]; {hint}"
        )
    precise = array.astype(np.float32) if array.dtype.itemsize < 4 else array
    levels: NDArray[np.uint8] = np.clip(np.rint(precise * 255), 0, 255).astype(np.uint8)
    return levels


def rgb_from_pillow(image: Image.Image, reading: Reading | None = None) -> Image.Image:
    """Converts a loaded Pillow image of any mode to RGB.

    * "1", "L", "RGB", "YCbCr", "HSV", "LAB", "CMYK": Pillow's own conversion. Colour profiles are not
      applied; the code of the published systems does not apply them either.
    * Alpha in any form ("LA", "PA", "RGBA", "RGBa", a transparent palette entry or colour): composited over
      white.
    * "I;16" in either byte order: v / 257, rounded. The depth that a TIFF states (such as 12 bits) and
      white-is-zero are respected.
    * "I": 16-bit where the file format cannot hold more (PNG, PGM). In other formats 8-bit if no value
      exceeds 255, 16-bit if none exceeds 65535; larger values are refused.
    * "F": multiplied by 255 if all values lie in [0, 1]; other values are treated like those of mode "I".

    Args:
        image: image of any size and mode.
        reading: depth of the values in 16-bit PNG and TIFF files; None: what the file states.

    Returns:
        A new image of mode "RGB" with empty `info`.

    Raises:
        ImageReadError: the values have no known unit, or Pillow cannot convert the mode.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        converted = _rgb_from_numbers(image, reading or Reading())
    elif image.mode in _ALPHA_MODES or (image.mode in _KEYED_MODES and "transparency" in image.info):
        converted = _over_background(image)
    else:
        try:
            converted = image.convert("RGB")
        except (ValueError, OSError, ImportError) as error:
            raise ImageReadError(
                f"Pillow cannot convert mode {image.mode!r} to RGB; convert it yourself"
            ) from error
    converted.info = {}
    return converted


def _over_background(image: Image.Image) -> Image.Image:
    """Composites an image with alpha over `BACKGROUND`; a colour under alpha 0 does not show."""
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # A 16-bit PNG: Pillow keeps the upper byte of the pixels but the whole transparent colour.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    coloured = image.convert("RGBA")
    background = Image.new("RGB", image.size, BACKGROUND)
    background.paste(coloured.convert("RGB"), mask=coloured.getchannel("A"))
    return background


def _rgb_from_numbers(image: Image.Image, reading: Reading) -> Image.Image:
    """Converts the greyscale modes that hold more than 8 bits to RGB."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        depth = tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0]
        stated = min(max(int(depth), 1), CONTAINER)
        if image.format == "JPEG2000":  # Pillow shifts what the file states to the upper end of 16 bits
            stated = min(image.info.get(STATED_BITS, CONTAINER), CONTAINER)
            values = values >> (CONTAINER - stated)
        levels = shown_levels(np.clip(values, 0, 65535), stated, reading)
        if tags.get(_TIFF_PHOTOMETRIC) == 0:  # white is zero; Pillow inverts this only for 8 bits
            levels = 255 - levels
    else:
        levels = levels_from_open_range(values, image.mode, reading)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        levels = np.where(values == transparent, np.uint8(BACKGROUND[0]), levels)
    return Image.fromarray(np.ascontiguousarray(levels)).convert("RGB")


def levels_from_open_range(values: NDArray[Any], mode: str, reading: Reading) -> NDArray[np.uint8]:
    """Converts numbers whose unit the container does not state to uint8 levels.

    Args:
        values: whole or floating-point numbers of any shape.
        mode: "I" for whole numbers, "F" for floating-point ones, as Pillow names them.
        reading: depth of values above 255.

    Raises:
        ImageReadError: values are not finite, negative or above 65535.
    """
    lowest, highest = float(values.min()), float(values.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise ImageReadError(f"mode {mode!r} with values that are not finite; replace them first")
    if mode == "F" and lowest >= -_HALF_LEVEL and highest <= 1 + _HALF_LEVEL:
        return _levels_from_unit_range(values, "image of mode 'F'")
    if lowest < 0 or highest > 65535:
        units = "0..1, 0..255 or 0..65535" if mode == "F" else "0..255 or 0..65535"
        raise ImageReadError(
            f"mode {mode!r} with values from {lowest:.6g} to {highest:.6g}, expected {units}; "
            "choose the range to show and save it as 8-bit or 16-bit"
        )
    rounded = np.rint(values)
    if highest <= 255:
        levels: NDArray[np.uint8] = rounded.astype(np.uint8)
        return levels
    return shown_levels(rounded.astype(np.uint16), CONTAINER, reading)

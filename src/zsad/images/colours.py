"""Converts map values to colours and to 16-bit numbers, on a fixed scale."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from zsad.errors import ConfigError

_ROWS_AT_A_TIME = 256  # bounds the memory of converting very large maps

# Lightness, green-red and blue-yellow axis in OKLab: indigo, violet, red, orange, pale yellow.
# Lightness rises evenly, so the order of values survives in greyscale print and for colour-blind readers.
_ANCHORS = (
    (0.26, 0.03, -0.13),
    (0.44, 0.15, -0.11),
    (0.60, 0.20, 0.06),
    (0.77, 0.09, 0.15),
    (0.95, -0.04, 0.14),
)


@functools.cache
def colour_table() -> NDArray[np.uint8]:
    """Returns the colours of the heat map, from the lowest to the highest value.

    Returns:
        (256, 3) uint8 RGB, read-only. Perceived lightness rises evenly, from indigo through red to pale
        yellow.

    Source:
        OKLab and its conversion to linear sRGB: B. Ottosson, "A perceptual color space for image
        processing", 2020.
    """
    places = np.linspace(0, 1, len(_ANCHORS))
    values = np.linspace(0, 1, 256)
    lab = np.stack([np.interp(values, places, axis) for axis in np.array(_ANCHORS).T], axis=1)
    to_cone_response = np.array(
        [
            [1, 0.3963377774, 0.2158037573],
            [1, -0.1055613458, -0.0638541728],
            [1, -0.0894841775, -1.2914855480],
        ]
    )
    to_linear_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip((lab @ to_cone_response.T) ** 3 @ to_linear_rgb.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    table: NDArray[np.uint8] = np.round(255 * encoded).astype(np.uint8)
    table.flags.writeable = False
    return table


def colour_levels(anomaly_map: NDArray[np.floating], map_range: tuple[float, float]) -> NDArray[np.uint8]:
    """Converts map values to indices of the colour table.

    Args:
        anomaly_map: (H, W) map; not-a-number counts as the lowest value.
        map_range: values of the first and the last index; values outside are clipped.

    Returns:
        (H, W) uint8.

    Raises:
        ConfigError: the map is not (H, W), or the range is empty.
    """
    return _steps(anomaly_map, map_range, 255).astype(np.uint8)


def map_to_uint16(
    anomaly_map: NDArray[np.floating], map_range: tuple[float, float] = (0.0, 1.0)
) -> NDArray[np.uint16]:
    """Converts map values to whole numbers: the ends of the range become 0 and 65535.

    Args:
        anomaly_map: (H, W) map; not-a-number counts as the lowest value.
        map_range: smallest and largest value; values outside are clipped.

    Returns:
        (H, W) uint16.

    Raises:
        ConfigError: the map is not (H, W), or the range is empty.
    """
    _check_map(anomaly_map)
    values = np.empty(anomaly_map.shape, np.uint16)
    for top in range(0, len(values), _ROWS_AT_A_TIME):
        rows = slice(top, top + _ROWS_AT_A_TIME)
        values[rows] = _steps(anomaly_map[rows], map_range, 65535)
    return values


def _steps(
    anomaly_map: NDArray[np.floating], map_range: tuple[float, float], last: int
) -> NDArray[np.floating]:
    """Rounds map values to steps of the range, 0 to `last`; not-a-number counts as the lowest value."""
    low, high = _checked_range(map_range)
    _check_map(anomaly_map)
    scaled = (np.nan_to_num(anomaly_map, nan=low) - low) * (last / (high - low))
    steps: NDArray[np.floating] = np.clip(np.round(scaled), 0, last)
    return steps


def map_from_uint16(
    values: NDArray[np.uint16], map_range: tuple[float, float] = (0.0, 1.0)
) -> NDArray[np.float32]:
    """Unpacks a map of `map_to_uint16`.

    Args:
        values: (H, W) uint16.
        map_range: the range that the map was packed with.

    Returns:
        (H, W) float32, exact to half a step of 1 / 65535 of the range.

    Raises:
        ConfigError: the range is empty.
    """
    low, high = _checked_range(map_range)
    return (low + values.astype(np.float64) * ((high - low) / 65535)).astype(np.float32)


def _checked_range(map_range: tuple[float, float]) -> tuple[float, float]:
    low, high = map_range
    if not (np.isfinite(low) and np.isfinite(high) and high > low):
        raise ConfigError(f"map_range must be two finite numbers, the second larger; got {map_range!r}")
    return float(low), float(high)


def _check_map(anomaly_map: NDArray[np.floating]) -> None:
    if anomaly_map.ndim != 2:
        raise ConfigError(f"an anomaly map has the shape (H, W), got {anomaly_map.shape}")

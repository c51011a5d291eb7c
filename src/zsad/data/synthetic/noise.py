"""Random fields, and the few filters that the generator needs; NumPy and Pillow only.

Fields are float32 of shape (H, W). Images are float32 of shape (H, W, 3) in [0, 255] until they are finished.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Field = NDArray[Any]
FloatImage = NDArray[Any]
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Rng = np.random.Generator


def resize_field(field: Field, height: int, width: int, *, smooth: bool = True) -> Field:
    """Resizes a field.

    Args:
        field: (h, w) float32.
        height: rows of the result.
        width: columns of the result.
        smooth: whether to interpolate bicubically, with antialiasing, instead of by nearest neighbour.

    Returns:
        (height, width) float32.
    """
    mode = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    resized = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32)).resize((width, height), mode)
    return np.array(resized, dtype=np.float32)


def resize_image(image: Bytes, height: int, width: int) -> Bytes:
    """Resizes a uint8 image (h, w, C) bilinearly, with antialiasing."""
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def smooth_noise(rng: Rng, height: int, width: int, cell: float, *, stretch: float = 1.0) -> Field:
    """Band-limited Gaussian noise: random values on a grid, interpolated bicubically.

    Args:
        rng: source of randomness.
        height: rows.
        width: columns.
        cell: distance between grid points (size of the features), in pixels, at least 1.
        stretch: factor by which features are longer along x.

    Returns:
        (height, width) float32, mean about 0, standard deviation about 0.8.
    """
    cell_y, cell_x = max(cell, 1.0), max(cell * stretch, 1.0)
    rows, columns = int(np.ceil(height / cell_y)) + 3, int(np.ceil(width / cell_x)) + 3
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    left, top = 1 + float(rng.random()), 1 + float(rng.random())
    box = (
        left,
        top,
        min(left + width / cell_x, columns),
        min(top + height / cell_y, rows),
    )
    field = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.array(field, dtype=np.float32)


def fractal_noise(
    rng: Rng,
    height: int,
    width: int,
    cell: float,
    *,
    octaves: int = 4,
    persistence: float = 0.55,
    stretch: float = 1.0,
) -> Field:
    """Sums octaves of `smooth_noise`, each with half the cell of the one before.

    Args:
        rng: source of randomness.
        height: rows.
        width: columns.
        cell: size of the features of the coarsest octave, in pixels.
        octaves: number of octaves; those finer than a pixel are left out.
        persistence: ratio of the amplitude of an octave to that of the one before.
        stretch: factor by which features are longer along x.

    Returns:
        (height, width) float32, mean about 0, standard deviation about 1.
    """
    total = np.zeros((height, width), dtype=np.float32)
    power, amplitude = 0.0, 1.0
    for octave in range(octaves):
        size = cell / 2**octave
        if octave and size < 1.2:
            break
        total += amplitude * smooth_noise(rng, height, width, size, stretch=stretch)
        power += amplitude**2
        amplitude *= persistence
    return np.asarray(total / np.float32(0.8 * np.sqrt(power)))


def unit(field: Field) -> Field:
    """Scales a field linearly to [0, 1]."""
    low, high = float(field.min()), float(field.max())
    return (field - low) / max(high - low, 1e-6)


def worley_noise(rng: Rng, height: int, width: int, cell: float) -> tuple[Field, Field]:
    """Distances to the nearest and second nearest point of a jittered grid (Worley's cellular noise).

    Args:
        rng: source of randomness.
        height: rows.
        width: columns.
        cell: mean distance between points, in pixels.

    Returns:
        Distances to the nearest and the second nearest point, each (height, width) float32, in units of
        `cell`.
    """
    # Half resolution is enough: cells are several pixels wide, and the nine distances dominate the cost.
    step = 2 if cell >= 10 else 1
    rows, columns = -(-height // step), -(-width // step)
    y = (np.arange(rows, dtype=np.float32) * step / cell)[:, None]
    x = (np.arange(columns, dtype=np.float32) * step / cell)[None, :]
    base_y, base_x = y.astype(np.int32), x.astype(np.int32)
    grid_rows, grid_columns = int(base_y.max()) + 3, int(base_x.max()) + 3
    jitter = rng.random((2, grid_rows, grid_columns), dtype=np.float32)
    nearest = np.full((rows, columns), 9.0, dtype=np.float32)
    second = nearest.copy()
    for shift_y in range(3):
        for shift_x in range(3):
            index = (base_y + shift_y, base_x + shift_x)
            point_y = jitter[0][index] + (base_y + shift_y - 1)
            point_x = jitter[1][index] + (base_x + shift_x - 1)
            distance = (point_y - y) ** 2 + (point_x - x) ** 2
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    fields = (np.sqrt(nearest), np.sqrt(second))
    if step == 1:
        return fields
    return resize_field(fields[0], height, width), resize_field(fields[1], height, width)


def blur_field(field: Field, sigma: float) -> Field:
    """Blurs a field approximately like a Gaussian filter.

    Narrow filters are computed directly. From `sigma` 1.6 on, the field is reduced and enlarged again; the
    result is about as smooth as that of a Gaussian filter, but its kernel has negative lobes.

    Args:
        field: (H, W) float32.
        sigma: standard deviation of the filter, in pixels.

    Returns:
        (H, W) float32.
    """
    height, width = field.shape
    if sigma < 0.3 or min(height, width) < 2:
        return field
    if sigma >= 1.6 and min(height, width) > 2 * sigma:
        factor = sigma / 0.5
        small = (max(round(height / factor), 2), max(round(width / factor), 2))
        reduced = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32)).resize(
            (small[1], small[0]), Image.Resampling.BILINEAR
        )
        return np.array(reduced.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    reach = min(max(round(2.5 * sigma), 1), height - 1, width - 1)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    padded = np.pad(field, reach, mode="edge")
    rows = sum(tap * padded[shift : shift + height] for shift, tap in enumerate(taps))
    blurred: Field = sum(tap * rows[:, shift : shift + width] for shift, tap in enumerate(taps))
    return blurred


def blur_image(image: FloatImage, sigma: float) -> FloatImage:
    """Blurs a float image (H, W, 3) in [0, 255] with Pillow's Gaussian filter for bytes."""
    if sigma < 0.2:
        return image
    blurred = Image.fromarray(to_bytes(image)).filter(ImageFilter.GaussianBlur(sigma))
    return np.asarray(blurred, dtype=np.float32)


def to_bytes(image: FloatImage) -> Bytes:
    """Rounds and clips a float image in [0, 255] to uint8."""
    return (np.clip(image, 0, 255) + 0.5).astype(np.uint8)


def sample_bilinear(image: FloatImage, y: Field, x: Field) -> FloatImage:
    """Samples an image at fractional positions; positions outside are reflected.

    Args:
        image: (H, W, C) float32.
        y: (h, w) float32 row positions.
        x: (h, w) float32 column positions.

    Returns:
        (h, w, C) float32.
    """
    height, width = image.shape[:2]
    y, x = reflect(y, height), reflect(x, width)
    top = np.minimum(y.astype(np.int32), max(height - 2, 0))
    left = np.minimum(x.astype(np.int32), max(width - 2, 0))
    down, along = (y - top)[..., None], (x - left)[..., None]
    # One flat index serves all four neighbours; indexing by two arrays is several times slower.
    flat = np.ascontiguousarray(image, dtype=np.float32).reshape(height * width, -1)
    first = top * width + left
    step, right = (width if height > 1 else 0), (1 if width > 1 else 0)
    upper, lower = flat.take(first, axis=0), flat.take(first + step, axis=0)
    upper += along * (flat.take(first + right, axis=0) - upper)
    lower += along * (flat.take(first + step + right, axis=0) - lower)
    upper += down * (lower - upper)
    return np.asarray(upper)


def reflect(position: Field, length: int) -> Field:
    """Reflects positions into [0, length - 1]."""
    if length < 2:
        return np.zeros_like(position)
    period = 2.0 * (length - 1)
    folded = np.abs(np.mod(position, period))
    return np.minimum(folded, period - folded).astype(np.float32)


def relief(height_field: Field, angle: float, strength: float) -> Field:
    """Shades a height field by a distant light.

    Args:
        height_field: (H, W) float32 heights, in pixels.
        angle: direction that the light comes from, in radians.
        strength: change of brightness per unit slope.

    Returns:
        (H, W) float32 change of brightness, to be added.
    """
    if min(height_field.shape) < 2:
        return np.zeros_like(height_field)
    slope_y, slope_x = np.gradient(height_field)
    slope: Field = slope_x * np.float32(np.cos(angle)) + slope_y * np.float32(np.sin(angle))
    return np.asarray(slope * np.float32(-strength))


def grow(mask: Mask, pixels: int) -> Mask:
    """Dilates a mask by a square of side `2 * pixels + 1`; negative values erode (outside counts as set)."""
    if pixels < 0:
        return ~grow(~mask, -pixels)
    grown = mask.copy()
    for axis in (0, 1):
        reached = 0
        while reached < pixels:
            # Each round can double the reach, as the mask has grown by `reached` on both sides already.
            step = min(reached + 1 if reached == 0 else 2 * reached + 1, pixels - reached)
            moved = np.swapaxes(grown, 0, axis)
            wider = moved.copy()
            wider[step:] |= moved[:-step]
            wider[:-step] |= moved[step:]
            grown = np.swapaxes(wider, 0, axis)
            reached += step
    return np.ascontiguousarray(grown)


def largest_change(after: FloatImage, before: FloatImage) -> Field:
    """Returns the largest absolute difference of two images over the colour channels, (H, W) float32."""
    # NumPy reduces a last axis of three slowly; channel by channel is five times faster.
    change = np.zeros(after.shape[:2], dtype=np.float32)
    for channel in range(after.shape[2]):
        difference = after[..., channel].astype(np.float32) - before[..., channel].astype(np.float32)
        np.maximum(change, np.abs(difference), out=change)
    return change


def luminance(image: FloatImage) -> Field:
    """Returns the brightness (H, W) of an RGB image, in the range of the image."""
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.asarray(image @ weights, dtype=np.float32)

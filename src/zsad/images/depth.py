"""Finds how many bits of a 16-bit container are used, and scales its values to 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.images.limits import AUTO, Reading

CONTAINER = 16
_USUAL_DEPTHS = (8, 10, 12, 14, CONTAINER)  # bits of the sensors that write 16-bit files


def eight_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Scales unsigned whole numbers of a known depth to 8 bits, rounding to the nearest level.

    16-bit values are divided by 257, so that 0 stays 0 and 65535 becomes 255.

    Args:
        values: whole numbers of any shape, 0 to 2**bits - 1; larger values count as the largest.
        bits: depth of the data in bits, 1 to 16.

    Returns:
        uint8 levels of the same shape.
    """
    return scaled(values, 2**bits - 1)


def scaled(values: NDArray[Any], largest: int) -> NDArray[np.uint8]:
    """Scales unsigned whole numbers to 8 bits: the largest becomes 255; rounds to the nearest level.

    Args:
        values: whole numbers of any shape, 0 to 65535.
        largest: value that becomes 255, 1 to 65535; larger values count as it.

    Returns:
        uint8 levels of the same shape.
    """
    table = np.minimum(np.arange(65536, dtype=np.int64), largest)
    table = (table * 510 + largest) // (2 * largest)
    levels: NDArray[np.uint8] = table.astype(np.uint8)[values.astype(np.uint16, copy=False)]
    return levels


def used_bits(largest: int) -> int:
    """Returns the smallest usual depth of a sensor, in bits, that reaches a value of 0 to 65535.

    Example:
        >>> used_bits(900), used_bits(4095), used_bits(4096)
        (10, 12, 14)
    """
    return next(bits for bits in _USUAL_DEPTHS if largest < 2**bits)


def shown_bits(largest: int, stated: int, reading: Reading) -> int:
    """Chooses the depth at which values are shown, and notes what the reader of the image should know.

    Args:
        largest: largest value of the image, or largest magnitude of signed values plus half their range.
        stated: depth that the file or the type of the array states, in bits.
        reading: how the image is read; its `depths` and `notes` are extended.

    Returns:
        The wished depth; with "auto" the one that the image uses; without a wish the stated one.
    """
    if largest >= 2**CONTAINER:
        return stated  # 32-bit numbers, whose depth has no name
    used = used_bits(max(largest, 0))
    reading.depths.append(used)
    if reading.bits == AUTO:
        return min(used, stated)
    if reading.bits is not None:
        bits = int(reading.bits)
        if largest >= 2**bits:
            reading.notes.append(f"values above {2**bits - 1} are shown white, as {bits} bits were asked for")
        return bits
    if stated > used and largest > 0:
        reading.notes.append(
            f"uses {used} bits of {stated}, but the whole range 0 to {2**stated - 1} is shown, so that the "
            f"image is dark; give the depth of the camera, such as --bits {used} or bits={used}"
        )
    return stated


def shown_levels(values: NDArray[Any], stated: int, reading: Reading) -> NDArray[np.uint8]:
    """Scales whole numbers of at most 16 bits to uint8 at the depth that `shown_bits` chooses.

    Args:
        values: (H, W), or (H, W, C) with C = 2 or 4 for a last channel of alpha; 0 to 65535.
        stated: depth that the file or the type of the array states, in bits.
        reading: how the image is read.

    Returns:
        uint8 levels of the same shape.
    """
    has_alpha = values.ndim == 3 and values.shape[2] in (2, 4)
    colours = values[..., :-1] if has_alpha else values
    return eight_bits(values, shown_bits(int(colours.max()), stated, reading))

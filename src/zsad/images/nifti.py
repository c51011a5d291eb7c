"""Reads slices of NIfTI volumes in canonical order; nothing is allocated before the header is checked."""

from __future__ import annotations

import importlib
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.errors import ImageReadError, MissingExtraError, printable
from zsad.images.limits import Reading, check_bytes, check_size, in_turn
from zsad.images.names import AXIAL, MedicalPath

_LOW, _HIGH = 0.5, 99.5  # percentiles
_SCALED = 8  # bytes of a value to which nibabel has applied the header's slope
_MOST_DEFLATED = 1032  # bytes that a byte of a deflated file can stand for


@dataclass(frozen=True)
class _Volume:
    """A NIfTI file of which the header has been read.

    Attributes:
        image: image of nibabel, in the order of the scanner.
        orientation: (3, 2) canonical axis and direction of each axis of the file.
        shape: lengths of the canonical axes, and the number of volumes if the file has a fourth axis.
    """

    image: Any
    orientation: NDArray[np.float64]
    shape: tuple[int, ...]


def nifti_plane(
    place: MedicalPath, reading: Reading, with_range: bool = False
) -> tuple[NDArray[Any], float, float]:
    """Reads one slice of a volume.

    Args:
        place: file, and which slice of it.
        reading: limits.
        with_range: whether the grey range is computed if the header has none, which looks at all voxels.

    Returns:
        The values (H, W), upright, and the values of the volume that are black and white.

    Raises:
        ImageReadError: the file is damaged or too large, or the slice does not exist. The message does not
            contain the file's name.
    """
    volume = _opened(place.file)
    check_size(volume.shape[0], volume.shape[1] * volume.shape[2], reading)
    _check_complete(volume, place.file)
    needed = _needed(volume, place.file)
    check_bytes(needed, reading)
    axis = place.options.get("axis", AXIAL)
    number = place.options.get("slice", volume.shape[axis] // 2)
    if number >= volume.shape[axis]:
        raise ImageReadError(
            f"holds {volume.shape[axis]} slices across axis {axis}, counted from 0; "
            f"there is no slice {number}"
        )
    index = _volume_index(volume.shape, place.options.get("volume"))
    with in_turn(needed, reading):
        voxels = _voxels(volume, index)
        lowest, highest = (float(volume.image.header[name]) for name in ("cal_min", "cal_max"))
        if with_range and not highest > lowest:
            lowest, highest = _range_of(voxels)
        plane = np.rot90(np.take(voxels, number, axis=axis))
    return plane, lowest, highest


def nifti_shape(file: str) -> tuple[int, ...]:
    """Returns the lengths of the canonical axes, and the number of volumes if the file has a fourth axis.

    Raises:
        ImageReadError: the file is not NIfTI or is damaged; the message does not contain its name.
    """
    return _opened(file).shape


def nifti_bytes(file: str) -> int:
    """Estimates the memory in bytes that reading a slice takes, from the header.

    Raises:
        ImageReadError: the file is not NIfTI or is damaged; the message does not contain its name.
    """
    return _needed(_opened(file), file)


def _opened(file: str) -> _Volume:
    """Reads the header."""
    try:
        nibabel = importlib.import_module("nibabel")
    except ImportError as error:  # of this image only, so that others are still read
        raise ImageReadError(str(MissingExtraError("nibabel", "medical", "reading NIfTI files"))) from error
    try:
        image = nibabel.load(file)
        lengths = [int(length) for length in image.shape]
        dtype = image.get_data_dtype()
    except OSError:
        raise
    except Exception as error:  # nibabel raises nearly every type on damaged data
        raise ImageReadError(f"is not a NIfTI file or is damaged ({printable(error):.200})") from error
    if len(lengths) not in (3, 4):
        raise ImageReadError(
            f"has {len(lengths)} dimensions, expected a volume of three, or four with #volume="
        )
    if min(lengths) < 1:
        raise ImageReadError(f"is damaged: its axes have the lengths {lengths}; copy it again")
    if dtype.fields is not None or dtype.kind == "c":
        raise ImageReadError(f"holds values of type {dtype}, expected plain numbers")
    try:
        orientation = nibabel.io_orientation(image.affine)
        axes = [int(axis) for axis in orientation[:, 0]]  # not a number if the affine has no direction
    except Exception as error:  # singular and infinite affines raise several types
        raise ImageReadError(f"cut short or damaged ({printable(error):.200}); copy it again") from error
    shape = [lengths[axes.index(axis)] for axis in range(3)]
    return _Volume(image, orientation, (*shape, *lengths[3:]))


def _check_complete(volume: _Volume, file: str) -> None:
    """Refuses a file that is too short for the voxels that its header states."""
    stored = volume.image.dataobj.offset + _stored(volume)
    size = os.path.getsize(file)
    if stored > size * (_MOST_DEFLATED if _is_deflated(file) else 1):
        raise ImageReadError(
            f"cut short or damaged: {size} bytes cannot hold its {' x '.join(map(str, volume.shape))} "
            "voxels; copy it again"
        )


def _needed(volume: _Volume, file: str) -> int:
    """Estimates the memory in bytes that reading one volume takes, or inflating all of them."""
    dtype, data = volume.image.get_data_dtype(), volume.image.dataobj
    is_scaled = (data.slope, data.inter) != (1, 0)
    held = _SCALED if is_scaled else int(dtype.itemsize)
    voxel = 2 * held + 1 + (int(dtype.itemsize) if is_scaled else 0)  # finite ones are copied and sorted
    inflated = _stored(volume) if _is_deflated(file) else 0
    return max(voxel * math.prod(volume.shape[:3]), inflated)


def _stored(volume: _Volume) -> int:
    return math.prod(volume.shape) * int(volume.image.get_data_dtype().itemsize)


def _is_deflated(file: str) -> bool:
    return file.lower().endswith(".gz")


def _voxels(volume: _Volume, index: tuple[int, ...]) -> NDArray[Any]:
    """Reads one volume in canonical order."""
    try:
        voxels = np.asarray(volume.image.dataobj[(slice(None),) * 3 + index])
    except Exception as error:  # nibabel raises nearly every type on damaged data
        raise ImageReadError(f"cut short or damaged ({printable(error):.200}); copy it again") from error
    for axis, direction in enumerate(volume.orientation[:, 1]):
        voxels = np.flip(voxels, axis) if direction < 0 else voxels
    return np.asarray(voxels.transpose(np.argsort(volume.orientation[:, 0])))


def _range_of(voxels: NDArray[Any]) -> tuple[float, float]:
    """Returns the percentiles of the finite values that are black and white."""
    finite = voxels[np.isfinite(voxels)] if voxels.dtype.kind == "f" else voxels.ravel(order="K").copy()
    if not finite.size:
        return 0.0, 0.0
    lowest, highest = np.percentile(finite, (_LOW, _HIGH), overwrite_input=True)
    return float(lowest), float(highest)


def _volume_index(shape: tuple[int, ...], volume: int | None) -> tuple[int, ...]:
    """Returns the index into the fourth dimension, if the volume has one."""
    if len(shape) == 3:
        return ()
    if volume is None and shape[3] > 1:
        raise ImageReadError(f"holds {shape[3]} volumes; name one, as in FILE#volume=0")
    if (volume or 0) >= shape[3]:
        raise ImageReadError(f"holds {shape[3]} volumes, counted from 0; there is no volume {volume}")
    return (volume or 0,)

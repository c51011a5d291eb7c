"""Mask files of any kind as arrays of yes and no."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.errors import ImageReadError
from zsad.images.finding import images_in
from zsad.images.medical import read_mask_slice
from zsad.images.names import is_medical

# Their values are levels, which "L" would clip or scale; all other modes are images of a mask.
_LEVEL_MODES = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_LOSSY_FORMATS = ("JPEG", "MPO")


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """Reads a mask at its own size.

    Every grey level above 0 is anomalous, as in the published systems' code; a mask of values 0 and 1, of 0
    and 255, of 16 bits or of numbered regions reads the same. Deviation for JPEG, whose noise lies around 0:
    there only levels above half of the image's largest count.

    Args:
        path: an image file of any mode; a DICOM or NIfTI file as `zsad.images.medical` names it; or a folder
            of such files, one for each region, which are united.

    Returns:
        (H, W) bool.

    Raises:
        ImageReadError: not an image, damaged, or a folder whose masks differ in size or that holds none.
    """
    path = Path(path)
    if is_medical(path):
        return read_mask_slice(path)
    return _united(path) if path.is_dir() else _mask_of_file(path)


def _mask_of_file(path: Path) -> NDArray[np.bool_]:
    try:
        with Image.open(path) as image:
            grey = image if image.mode in _LEVEL_MODES else image.convert("L")
            levels = np.asarray(grey)
            lowest = levels.max(initial=0) / 2 if image.format in _LOSSY_FORMATS else 0
            mask: NDArray[np.bool_] = levels > lowest
            return mask
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageReadError(f"{path}: cannot be read as a mask ({error}); expected an image file") from error


def _united(folder: Path) -> NDArray[np.bool_]:
    files = images_in(folder)
    if not files:
        raise ImageReadError(f"{folder}: holds no masks; expected one or more image files")
    masks = [_mask_of_file(path) for path in files]
    for path, mask in zip(files, masks, strict=True):
        if mask.shape != masks[0].shape:
            raise ImageReadError(
                f"{path}: {mask.shape[1]} x {mask.shape[0]} pixels, {files[0].name} beside it "
                f"{masks[0].shape[1]} x {masks[0].shape[0]}; masks of one image must be of one size"
            )
    return np.asarray(np.logical_or.reduce(masks), dtype=np.bool_)

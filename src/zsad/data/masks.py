"""Reads mask files of any kind as boolean arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.errors import ImageReadError
from zsad.images.finding import masks_in
from zsad.images.medical import read_mask_slice
from zsad.images.names import is_medical

# Modes whose values are levels, which a conversion to "L" would clip or scale.
_LEVEL_MODES = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_LOSSY_FORMATS = ("JPEG", "MPO")


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """Reads a mask at its own size.

    Every grey level above 0 is anomalous, as in the code of the published systems. A mask therefore reads the
    same whether its values are 0 and 1, 0 and 255, 16-bit, or numbers of regions. JPEG deviates, because its
    noise lies around 0: only levels above half of the largest level of the image count.

    Args:
        path: path of an image file of any mode; of a DICOM or NIfTI file, as `zsad.images.medical` describes;
            or of a folder with one mask for each region, which are united.

    Returns:
        (H, W) bool, True where anomalous.

    Raises:
        ImageReadError: the file is not an image or is damaged, or the folder holds no masks or masks of
            different sizes.
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
    files = masks_in(folder)
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

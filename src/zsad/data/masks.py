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
    noise lies around 0: only levels above half of the largest level of the image count. Transparent pixels
    are normal; where all pixels have one colour, the opaque ones are anomalous. In a palette without black,
    the colour of number 0 is the background.

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
            levels = np.asarray(image) if image.mode in _LEVEL_MODES else _levels(image)
            lowest = levels.max(initial=0) / 2 if image.format in _LOSSY_FORMATS else 0
            mask: NDArray[np.bool_] = levels > lowest
            return mask
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageReadError(f"{path}: cannot be read as a mask ({error}); expected an image file") from error


def _levels(image: Image.Image) -> NDArray[np.uint8]:
    """Returns (H, W) grey levels of a coloured mask, 0 where it is transparent or background."""
    if "A" in image.getbands():
        grey, alpha = np.asarray(image.convert("RGBA").convert("L")), np.asarray(image.getchannel("A"))
        # One colour everywhere says nothing, so what is marked is what is opaque.
        if grey.min() == grey.max() and alpha.min() < alpha.max():
            return alpha
        return np.where(alpha > 0, grey, 0).astype(np.uint8)
    grey, numbers = np.asarray(image.convert("L")), np.asarray(image)
    # A palette without black, or one that turns every number into black, leaves the numbers to tell.
    if image.mode == "P" and (grey.min() > 0 or (grey.max() == 0 and numbers.max() > 0)):
        return numbers
    return grey


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

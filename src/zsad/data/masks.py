"""Reads masks of any kind as boolean arrays: image files, folders of them, medical files, annotations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from zsad.data.annotations import is_annotation, read_annotation
from zsad.errors import ImageReadError
from zsad.images.budget import check_header, pillow_formats
from zsad.images.finding import masks_in
from zsad.images.limits import chosen_reading
from zsad.images.medical import read_mask_slice
from zsad.images.names import is_medical

# Modes whose values are levels, which a conversion to "L" would clip or scale.
_LEVEL_MODES = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_LOSSY_FORMATS = ("JPEG", "MPO")
_JPEG_NOISE = 40  # levels that JPEG adds around black
_MOST_COLOURS = 16
MOST_MARKED = 0.5
"""Share of an image, in [0, 1], that the masks of a category mark at most unless they seem to be inverted."""


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """Reads a mask at its own size.

    Everything that is not black is anomalous, as in the code of the published systems. A mask therefore reads
    the same whether its values are 0 and 1, 0 and 255, 16-bit, colours, or numbers of regions. Deviations:

    * JPEG adds noise and soft edges, so only levels above half of the darkest plain area that is not black
      count.
    * Transparent pixels are normal. Where nothing opaque differs from black, the opaque pixels are anomalous.
    * In a palette without black, the colour of number 0 is the background. In another mask of few colours
      without black, the commonest colour is.

    Args:
        path: path of an image file of any mode; of a DICOM or NIfTI file, as `zsad.images.medical` describes;
            of a JSON file with polygons, as `zsad.data.annotations` describes; or of a folder with one mask
            for each region, which are united.

    Returns:
        (H, W) bool, True where anomalous.

    Raises:
        ImageReadError: the file is not an image or is damaged, or the folder holds no masks or masks of
            different sizes.
    """
    path = Path(path)
    if is_medical(path):
        return read_mask_slice(path)
    if is_annotation(path):
        return read_annotation(path)
    return _united(path) if path.is_dir() else _mask_of_file(path)


def ask_if_inverted(masks_of: str, share: float) -> str:
    """Returns the question that masks which mark most of the image raise.

    Args:
        masks_of: category or kind of defect that the masks belong to.
        share: median share of the image that they mark, in [0, 1].
    """
    return (
        f"{masks_of}: the masks mark {share:.0%} of the image (median); are they inverted? What is "
        "not black counts as the defect, so normal pixels must be black"
    )


def _mask_of_file(path: Path) -> NDArray[np.bool_]:
    try:
        with open(path, "rb") as stream, Image.open(stream, formats=pillow_formats()) as image:
            check_header(image, stream, chosen_reading(for_tiles=True))
            if image.format in _LOSSY_FORMATS:
                return _mask_of_jpeg(image)
            levels = np.asarray(image) if image.mode in _LEVEL_MODES else _levels(image)
            return _background_removed(image, levels > 0)
    except ImageReadError as error:
        raise ImageReadError(f"{path}: {error}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageReadError(f"{path}: cannot be read as a mask ({error}); expected an image file") from error


def _levels(image: Image.Image) -> NDArray[np.uint8]:
    """Returns (H, W) levels of a coloured mask, 0 where it is transparent or background."""
    brightest = _brightest(image)
    if "A" in image.getbands() or "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if alpha.min() < alpha.max():
            coloured = np.where(alpha > 0, brightest, 0)
            return coloured.astype(np.uint8) if coloured.any() else alpha
        if brightest.min() == brightest.max() and not alpha.any():
            return alpha
    numbers = np.asarray(image)
    # A palette without black, or one that turns every number into black, leaves the numbers to tell.
    if image.mode == "P" and (brightest.min() > 0 or (brightest.max() == 0 and numbers.max() > 0)):
        return numbers
    return brightest


def _brightest(image: Image.Image) -> NDArray[np.uint8]:
    """Returns the largest of the three colours of each pixel; grey levels would round dark blue to black."""
    mode = "RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB"
    return np.asarray(np.asarray(image.convert(mode))[..., :3].max(axis=-1), dtype=np.uint8)


def _mask_of_jpeg(image: Image.Image) -> NDArray[np.bool_]:
    levels = Image.fromarray(_brightest(image))
    values, smallest, largest = (
        np.asarray(each, dtype=np.int16)
        for each in (levels, levels.filter(ImageFilter.MinFilter(3)), levels.filter(ImageFilter.MaxFilter(3)))
    )
    plain = values[(values > _JPEG_NOISE) & (largest - smallest < _JPEG_NOISE)]
    darkest = np.percentile(plain, 1) if plain.size else values.max(initial=0)
    return np.asarray(values > darkest / 2)


def _background_removed(image: Image.Image, marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the mask without the commonest colour if it would mark every pixel of several colours."""
    if not marked.size or not marked.all():
        return marked
    colours = image.getcolors(_MOST_COLOURS) if image.mode not in ("I", "F") else None
    if colours is None or len(colours) < 2:
        return marked
    _, background = max(colours, key=lambda each: each[0])
    values = np.asarray(image)
    different = values != np.asarray(background)
    return np.asarray(different if different.ndim == 2 else different.any(axis=-1))


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

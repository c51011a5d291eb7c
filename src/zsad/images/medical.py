"""Reads DICOM and NIfTI files, or slices of them, as images; needs the extra `medical`, but no torch.

Names of the images in a file, in Python, in lists and on the command line:

    scan.dcm                           a DICOM image
    cine.dcm#frame=3                   a frame, counted from 0; needed if there are several
    scan.nii.gz                        the middle axial slice of a NIfTI volume
    scan.nii.gz#slice=40               another axial slice, counted from 0
    scan.nii.gz#axis=0,slice=12        a slice across another axis: 0 sagittal, 1 coronal, 2 axial
    scan.nii.gz#volume=2,slice=40      a volume of four dimensions; needed if there are several

DICOM: the modality transformation (rescale slope and intercept) is applied, then the first window or look-up
table of the file or, if it has none, the whole range of its stored bits. MONOCHROME1 is inverted; palettes
and colour spaces become RGB. Source: DICOM PS3.3, C.7.6.3, C.11.1 and C.11.2, implemented by pydicom.

NIfTI: the volume is turned to the nearest canonical axes (nibabel: right, anterior, superior), so that axis 2
is axial whatever the order of the scanner, and shown with anterior or superior up. Grey levels run from
cal_min to cal_max of the header or, if it has none, from the 0.5th to the 99.5th percentile of the whole
volume, so that its slices share one scale. Voxels are treated as squares.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from zsad.errors import ImageReadError, MissingExtraError, printable
from zsad.images.budget import check_decoding, check_jpeg, inflated_size
from zsad.images.depth import CONTAINER, eight_bits, shown_bits, shown_levels
from zsad.images.limits import Reading, check_bytes, check_size, chosen_reading, in_turn
from zsad.images.names import AXIAL, NIFTI_SUFFIXES, medical_path, suffix_of
from zsad.images.nifti import nifti_bytes, nifti_plane, nifti_shape
from zsad.images.quiet import quiet_decoders

_BYTE = 8  # bits
_DICOM_SAMPLE = 24  # bytes: stored value, transformed value and its level, as 64-bit numbers
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # transfer syntax
_PREAMBLE = 132  # bytes before the group of elements that names the transfer syntax
_HEAD = 4096  # bytes that hold this group
_COPIES = 2  # of the file: as read, and in the data set


def read_medical(path: str | os.PathLike[str], reading: Reading) -> Image.Image:
    """Reads an image from a DICOM or NIfTI file.

    Args:
        path: name of the image, as the docstring of this module describes.
        reading: limits, and depth of DICOM values without a window.

    Returns:
        Image of mode "RGB".

    Raises:
        ImageReadError: the file is damaged or too large, holds several images of which the path names none,
            or lacks the one that it names, or the package is not installed. The message does not contain the
            file's name.
    """
    place = medical_path(path)
    if place.is_nifti:
        plane, lowest, highest = nifti_plane(place, reading, with_range=True)
        if "slice" not in place.options:
            reading.notes.append(
                "holds several slices, of which the middle one is read; name another, as in FILE#slice=3, or "
                "take all with --pages all or FILE#slice=all"
            )
        return Image.fromarray(_levels(plane, lowest, highest)).convert("RGB")
    with open(place.file, "rb") as stream:
        return read_dicom(stream.read(), reading, place.options.get("frame"))


def read_dicom(content: bytes, reading: Reading, frame: int | None = None) -> Image.Image:
    """Reads an image from the bytes of a DICOM file.

    Args:
        content: the whole file.
        reading: limits, and depth of DICOM values without a window.
        frame: number of the frame, from 0; None for a file of one image.

    Returns:
        Image of mode "RGB".

    Raises:
        ImageReadError: for the reasons that `read_medical` lists.
    """
    dataset = _dataset(content, reading)
    with in_turn(_needed(dataset, content), reading):
        return _shown(_dicom_values(content, dataset, reading, frame), dataset, reading)


@quiet_decoders()
def read_mask_slice(path: str | os.PathLike[str]) -> NDArray[np.bool_]:
    """Reads a mask from a DICOM or NIfTI file, in the orientation of `read_medical`.

    Args:
        path: name of the image, as the docstring of this module describes.

    Returns:
        (H, W) bool, True where the stored value is above 0.

    Raises:
        ImageReadError: the mask cannot be read; the message begins with the file's name.
    """
    reading = chosen_reading(for_tiles=True)  # a mask is as large as its image may be
    try:
        place = medical_path(path)
        if place.is_nifti:
            return np.asarray(nifti_plane(place, reading)[0] > 0)
        content = Path(place.file).read_bytes()
        dataset = _dataset(content, reading)
        values = _dicom_values(content, dataset, reading, place.options.get("frame"))
        return np.asarray((values if values.ndim == 2 else values.max(axis=2)) > 0)
    except ImageReadError as error:
        raise ImageReadError(f"{printable(path)}: {error}") from error
    except OSError as error:
        raise ImageReadError(f"{printable(path)}: cannot be read as a mask ({error})") from error


def slices_of(path: str | os.PathLike[str]) -> Iterator[str]:
    """Names all slices of a NIfTI file across one axis, those of every volume if the path names none.

    Args:
        path: path of a NIfTI file, optionally with "#axis=NUMBER", "#volume=NUMBER" or both; the default is
            axial slices.

    Yields:
        What follows the "#" of each slice, such as "axis=2,slice=0".

    Raises:
        ImageReadError: the file is not NIfTI or is damaged; the message does not contain its name.
    """
    place = medical_path(path)
    shape = nifti_shape(place.file)
    axis = place.options.get("axis", AXIAL)
    several = len(shape) > 3 and shape[3] > 1
    volumes = [place.options["volume"]] if "volume" in place.options else range(shape[3] if several else 1)
    for volume in volumes:
        ending = f",volume={volume}" if several else ""
        yield from (f"axis={axis},slice={number}{ending}" for number in range(shape[axis]))


def frames_of(path: str) -> int:
    """Returns the number of images in a DICOM file.

    Raises:
        ImageReadError: the file is damaged; the message does not contain its name.
    """
    content = Path(path).read_bytes()
    return _frames(_dataset(content, chosen_reading()))


def medical_bytes(path: str) -> int:
    """Estimates the memory in bytes that reading an image of a DICOM or NIfTI file takes, from its header.

    Raises:
        Exception: the file is damaged; the decoders raise nearly every type.
    """
    if suffix_of(path) in NIFTI_SUFFIXES:
        return nifti_bytes(path)
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        if _DEFLATED in stream.read(_HEAD):
            stream.seek(0)
            size = _data_set_size(stream.read(), chosen_reading().max_bytes)
            if _COPIES * size > chosen_reading().max_bytes:
                return _COPIES * size
        stream.seek(0)
        names = ["Rows", "Columns", "SamplesPerPixel"]
        dataset = _module("pydicom").dcmread(stream, stop_before_pixels=True, specific_tags=names)
    return _COPIES * size + _samples_bytes(dataset)


def _module(name: str) -> Any:
    """Imports a module of pydicom; a missing one is an error of the image, so that others are still read."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImageReadError(str(MissingExtraError("pydicom", "medical", "reading DICOM files"))) from error


def _dicom_values(content: bytes, dataset: Any, reading: Reading, frame: int | None) -> NDArray[Any]:
    """Returns the stored values (H, W) or (H, W, 3) of one image."""
    pixels = _module("pydicom.pixels")
    frames = _frames(dataset)
    if frames > 1 and frame is None:
        raise ImageReadError(f"holds {frames} frames; name one, as in FILE#frame=0")
    if frame is not None and frame >= frames:
        raise ImageReadError(f"holds {frames} frames, counted from 0; there is no frame {frame}")
    try:
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            _check_compressed(dataset, frame or 0, frames, reading)
        return np.asarray(pixels.pixel_array(io.BytesIO(content), index=frame or 0))
    except ImageReadError:
        raise
    except Exception as error:  # pydicom raises nearly every type; compressed kinds need another package
        raise ImageReadError(f"its pixels cannot be decoded ({printable(error):.200})") from error


def _check_compressed(dataset: Any, frame: int, frames: int, reading: Reading) -> None:
    """Refuses a frame in JPEG or JPEG 2000 of another size than the header states, or of too much work."""
    encoded = _module("pydicom.encaps").get_frame(dataset.PixelData, frame, number_of_frames=frames)
    stream = io.BytesIO(encoded)
    try:
        image = Image.open(stream, formats=("JPEG", "JPEG2000"))
    except UnidentifiedImageError:  # run lengths and JPEG-LS, which are decoded at the size that is stated
        return
    stated = (int(dataset.Columns), int(dataset.Rows))
    if image.size != stated:
        raise ImageReadError(
            f"is damaged: its frame has {image.width} x {image.height} pixels, its header states "
            f"{stated[0]} x {stated[1]}; copy it again"
        )
    check_decoding(image, reading)
    if image.format == "JPEG":
        check_jpeg(image, stream)


def _dataset(content: bytes, reading: Reading) -> Any:
    """Reads a DICOM file within the limits, without decoding its pixels."""
    pydicom = _module("pydicom")
    try:
        check_bytes(_COPIES * _data_set_size(content, reading.max_bytes // _COPIES), reading)
        dataset = pydicom.dcmread(io.BytesIO(content))
        check_size(int(dataset.Columns), int(dataset.Rows), reading)
        check_bytes(_needed(dataset, content), reading)
    except ImageReadError:
        raise
    except Exception as error:  # pydicom raises nearly every type on damaged data
        raise ImageReadError(f"is not a DICOM image or is damaged ({printable(error):.200})") from error
    return dataset


def _data_set_size(content: bytes, most: int) -> int:
    """Measures the size of a data set in bytes, inflated if it is deflated; above `most` if it is larger."""
    if _DEFLATED not in content[:_HEAD]:
        return len(content)
    stream = io.BytesIO(content)
    stream.seek(_PREAMBLE)  # the length that the first group states could be wrong
    read = _module("pydicom.filereader").read_dataset
    read(stream, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group != 2)
    return inflated_size(content[stream.tell() :], most)


def _needed(dataset: Any, content: bytes) -> int:
    """Estimates the memory in bytes that reading an image of a DICOM file takes."""
    return _COPIES * len(content) + _samples_bytes(dataset)


def _samples_bytes(dataset: Any) -> int:
    samples = int(dataset.get("SamplesPerPixel", 1) or 1)
    return _DICOM_SAMPLE * samples * int(dataset.Columns) * int(dataset.Rows)


def _frames(dataset: Any) -> int:
    try:
        return int(dataset.get("NumberOfFrames", 1) or 1)
    except (TypeError, ValueError) as error:
        raise ImageReadError(f"is damaged ({printable(error):.200}); copy it again") from error


def _shown(values: NDArray[Any], dataset: Any, reading: Reading) -> Image.Image:
    """Converts stored values to RGB."""
    pixels = _module("pydicom.pixels")
    kind = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if kind == "PALETTE COLOR":
        coloured = pixels.apply_color_lut(values, dataset)
        return Image.fromarray(eight_bits(coloured, 8 * coloured.dtype.itemsize)[..., :3])
    if values.ndim == 3:  # pydicom has converted the YBR kinds to RGB
        return Image.fromarray(_colour_levels(values, int(dataset.BitsStored), reading))
    shown = pixels.apply_voi_lut(pixels.apply_modality_lut(values, dataset), dataset)
    levels = _levels(shown, *_range_shown(dataset, values, reading))
    return Image.fromarray(255 - levels if kind == "MONOCHROME1" else levels).convert("RGB")


def _range_shown(dataset: Any, values: NDArray[Any], reading: Reading) -> tuple[float, float]:
    """Returns black and white of a grey image after all transformations; a window covers the same range."""
    for name in ("VOILUTSequence", "ModalityLUTSequence"):
        if name in dataset:
            return 0.0, float(2 ** int(dataset[name][0].LUTDescriptor[2]) - 1)
    bits = int(dataset.BitsStored)
    is_signed = bool(dataset.get("PixelRepresentation", 0))
    if bits > _BYTE and "WindowWidth" not in dataset:
        largest = int(values.max())
        if is_signed:  # the depth that reaches both ends
            largest = 2 * max(largest, -int(values.min()) - 1) + 1
        bits = shown_bits(largest, bits, reading)
    first = -(2 ** (bits - 1)) if is_signed else 0
    slope = float(dataset.get("RescaleSlope") or 1)
    intercept = float(dataset.get("RescaleIntercept") or 0)
    lowest, highest = sorted(end * slope + intercept for end in (first, first + 2**bits - 1))
    return lowest, highest


def _colour_levels(values: NDArray[Any], bits: int, reading: Reading) -> NDArray[np.uint8]:
    """Scales RGB values, of which the file states the depth."""
    if bits > CONTAINER:
        return _levels(values, 0.0, float(2**bits - 1))
    return eight_bits(values, bits) if bits <= _BYTE else shown_levels(values, bits, reading)


def _levels(values: NDArray[Any], lowest: float, highest: float) -> NDArray[np.uint8]:
    """Scales values to uint8 levels, from 0 at `lowest` to 255 at `highest`; others are clipped."""
    span = highest - lowest
    scaled = (values.astype(np.float64) - lowest) / (span if span > 0 else np.inf) * 255.0
    if not np.isfinite(scaled).all():
        scaled = np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0)
    return np.ascontiguousarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))

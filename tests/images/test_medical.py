"""DICOM and NIfTI images, slices and masks, from files that pydicom and nibabel write."""

from __future__ import annotations

import gzip
import sys

import numpy as np
import pytest

from zsad.data.masks import read_mask
from zsad.errors import ConfigError, ImageReadError
from zsad.images.finding import find_images
from zsad.images.medical import slices_of
from zsad.images.names import is_medical, medical_path
from zsad.images.reading import read_image
from zsad.prediction.layout import RunLayout
from zsad.prediction.run import images_to_score

pydicom = pytest.importorskip("pydicom", reason="the extra `medical` is not installed")
nibabel = pytest.importorskip("nibabel", reason="the extra `medical` is not installed")


def write_dicom(path, values, *, photometric="MONOCHROME2", bits=12, signed=False, frames=None, **extra):
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.SamplesPerPixel = 3 if photometric in ("RGB", "YBR_FULL") else 1
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    size = values.shape[1:3] if frames else values.shape[:2]
    dataset.Rows, dataset.Columns = size
    dataset.BitsAllocated = 8 * values.dtype.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    if frames:
        dataset.NumberOfFrames = frames
    for name, value in extra.items():
        setattr(dataset, name, value)
    dataset.PixelData = values.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def grey(path):
    array = np.asarray(read_image(path))
    assert (array[..., 0] == array[..., 1]).all()
    return array[..., 0].astype(int)


RAMP = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)


def test_stored_bits_are_the_scale_without_a_window(tmp_path):
    found = grey(write_dicom(tmp_path / "a.dcm", RAMP))
    np.testing.assert_array_equal(found, np.rint(RAMP / 4095 * 255).astype(int))


def test_monochrome1_is_inverted(tmp_path):
    normal = grey(write_dicom(tmp_path / "a.dcm", RAMP))
    inverted = grey(write_dicom(tmp_path / "b.dcm", RAMP, photometric="MONOCHROME1"))
    np.testing.assert_array_equal(inverted, 255 - normal)


@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (2, 0), (0.5, 10)])
def test_rescale_and_window_are_those_of_the_standard(tmp_path, slope, intercept):
    """Compares with DICOM PS3.3 C.11.2.1.2.1, implemented independently."""
    centre, width = 40.0, 400.0
    path = write_dicom(
        tmp_path / "a.dcm", RAMP, RescaleSlope=slope, RescaleIntercept=intercept, WindowCenter=[centre, 9],
        WindowWidth=[width, 9],
    )  # fmt: skip
    units = RAMP.astype(float) * slope + intercept
    share = np.clip((units - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    assert np.abs(grey(path) - share * 255).max() <= 0.51


def test_signed_values(tmp_path):
    values = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    found = grey(write_dicom(tmp_path / "a.dcm", values, signed=True))
    np.testing.assert_array_equal(found, np.rint(RAMP / 4095 * 255).astype(int))


def test_colour(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    path = write_dicom(tmp_path / "a.dcm", values, photometric="RGB", bits=8)
    np.testing.assert_array_equal(np.asarray(read_image(path)), values)


def test_frames(tmp_path):
    values = np.stack([RAMP, RAMP[::-1]])
    path = write_dicom(tmp_path / "cine.dcm", values, frames=2)
    with pytest.raises(ImageReadError, match=r"cine\.dcm: holds 2 frames; name one, as in FILE#frame=0"):
        read_image(path)
    np.testing.assert_array_equal(grey(f"{path}#frame=1"), grey(f"{path}#frame=0")[::-1])
    with pytest.raises(ImageReadError, match="there is no frame 2"):
        read_image(f"{path}#frame=2")


def test_known_by_content_not_by_name(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    bare = tmp_path / "IM0001"
    bare.write_bytes(path.read_bytes())
    np.testing.assert_array_equal(grey(bare), grey(path))
    np.testing.assert_array_equal(np.asarray(read_image(path.read_bytes())), np.asarray(read_image(path)))
    png = tmp_path / "really.dcm"
    read_image(path).save(png, "PNG")
    np.testing.assert_array_equal(grey(png), grey(path))


def test_too_large_or_damaged(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    with pytest.raises(ImageReadError, match=r"a\.dcm: 16 x 16 = 256 pixels are more than the limit of 255"):
        read_image(path, max_pixels=255)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ImageReadError, match=r"a\.dcm: its pixels cannot be decoded"):
        read_image(path)


# NIfTI


@pytest.fixture
def volume():
    return np.random.default_rng(0).integers(0, 1000, (7, 6, 5)).astype(np.int16)


def write_nifti(path, values, orientation="RAS", **header):
    affine = np.eye(4)
    image = nibabel.Nifti1Image(values, affine)
    for name, value in header.items():
        image.header[name] = value
    target = nibabel.orientations.axcodes2ornt(orientation)
    change = nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), target)
    nibabel.save(image.as_reoriented(change), path)
    return path


def shown(plane, lowest, highest):
    scaled = (plane.astype(float) - lowest) / (highest - lowest) * 255
    return np.clip(np.rint(scaled), 0, 255).astype(int)[:, ::-1].T  # first axis to the right, second upwards


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slices_do_not_depend_on_the_scanners_order(tmp_path, volume, orientation, suffix):
    path = write_nifti(tmp_path / f"scan{suffix}", volume, orientation)
    lowest, highest = np.percentile(volume, (0.5, 99.5))
    np.testing.assert_array_equal(grey(path), shown(volume[:, :, 2], lowest, highest))
    np.testing.assert_array_equal(grey(f"{path}#slice=4"), shown(volume[:, :, 4], lowest, highest))
    np.testing.assert_array_equal(grey(f"{path}#axis=0,slice=3"), shown(volume[3], lowest, highest))
    np.testing.assert_array_equal(grey(f"{path}#axis=1,slice=0"), shown(volume[:, 0], lowest, highest))


def test_the_headers_range_counts(tmp_path, volume):
    path = write_nifti(tmp_path / "scan.nii.gz", volume, cal_min=100, cal_max=500)
    np.testing.assert_array_equal(grey(path), shown(volume[:, :, 2], 100, 500))


def test_four_dimensions(tmp_path, volume):
    image = nibabel.Nifti1Image(np.stack([volume, volume[::-1]], axis=-1), np.eye(4))
    nibabel.save(image, tmp_path / "t.nii.gz")
    with pytest.raises(ImageReadError, match=r"holds 2 volumes; name one, as in FILE#volume=0"):
        read_image(tmp_path / "t.nii.gz")
    first = grey(f"{tmp_path}/t.nii.gz#volume=0,slice=1")
    np.testing.assert_array_equal(grey(f"{tmp_path}/t.nii.gz#volume=1,slice=1"), first[:, ::-1])
    with pytest.raises(ImageReadError, match="there is no volume 2"):
        read_image(f"{tmp_path}/t.nii.gz#volume=2")


@pytest.mark.parametrize(
    ("fragment", "message"),
    [
        ("slice=5", "holds 5 slices across axis 2, counted from 0; there is no slice 5"),
        ("slice=-1", r"expected axis=NUMBER or slice=NUMBER or volume=NUMBER"),
        ("axis=3", "axis must be 0"),
        ("frame=0", "expected axis=NUMBER"),
        ("top", "expected axis=NUMBER"),
    ],
)
def test_names_of_slices_that_are_none(tmp_path, volume, fragment, message):
    path = write_nifti(tmp_path / "scan.nii.gz", volume)
    with pytest.raises(ImageReadError, match=rf"scan\.nii\.gz#.*{message}"):
        read_image(f"{path}#{fragment}")


def test_files_that_are_no_nifti(tmp_path, volume):
    (tmp_path / "a.nii").write_bytes(b"hello" * 100)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(b"hello" * 100))
    path = write_nifti(tmp_path / "c.nii.gz", volume)
    (tmp_path / "c.nii").write_bytes(gzip.decompress(path.read_bytes())[:-60])
    path.write_bytes(path.read_bytes()[:-60])
    for name, reason in (
        ("a.nii", "is not a NIfTI file or is damaged"),
        ("b.nii.gz", "is not a NIfTI file or is damaged"),
        ("c.nii.gz", "is not a NIfTI file or is damaged"),
        ("c.nii", "cut short or damaged"),
        ("d.nii.gz", "no such file"),
    ):
        with pytest.raises(ImageReadError, match=f"{name}: {reason}"):
            read_image(tmp_path / name)
    flat = nibabel.Nifti1Image(volume[:, :, 0], np.eye(4))
    nibabel.save(flat, tmp_path / "e.nii")
    with pytest.raises(ImageReadError, match="has 2 dimensions"):
        read_image(tmp_path / "e.nii")
    huge = nibabel.Nifti1Image(np.zeros((50, 50, 50), np.uint8), np.eye(4))
    nibabel.save(huge, tmp_path / "f.nii")
    with pytest.raises(ImageReadError, match="more than the limit of 1000"):
        read_image(tmp_path / "f.nii", max_pixels=1000)


def test_not_finite_values(tmp_path):
    values = np.zeros((4, 4, 3), np.float32)
    values[0, 0, 1], values[1, 1, 1], values[2, 2, 1] = np.nan, np.inf, 5.0
    found = grey(write_nifti(tmp_path / "a.nii", values))
    expected = np.zeros((4, 4), int)  # the range is that of the finite values; not-a-number is black
    expected[1, 1] = expected[2, 2] = 255
    np.testing.assert_array_equal(found, expected[:, ::-1].T)


# Masks, folders, names


def test_masks_lie_as_their_images_do(tmp_path, volume):
    marked = (volume > 700).astype(np.uint8)
    path = write_nifti(tmp_path / "seg.nii.gz", marked, "LPS")
    np.testing.assert_array_equal(read_mask(f"{path}#axis=2,slice=3"), marked[:, ::-1, 3].T > 0)
    dicom = write_dicom(tmp_path / "seg.dcm", (RAMP > 2000).astype(np.uint16))
    np.testing.assert_array_equal(read_mask(dicom), RAMP > 2000)
    with pytest.raises(ImageReadError, match=r"gone\.nii"):
        read_mask(tmp_path / "gone.nii")


def test_folders_and_slices_on_the_command_line(tmp_path, volume):
    write_nifti(tmp_path / "scan.nii.gz", volume)
    write_dicom(tmp_path / "a.dcm", RAMP)
    assert [path.name for path in find_images(tmp_path)] == ["a.dcm", "scan.nii.gz"]
    one = f"{tmp_path}/scan.nii.gz#slice=2"
    assert [str(path) for path in find_images([one])] == [one]
    every = find_images([f"{tmp_path}/scan.nii.gz#slice=all"])
    assert [path.name for path in every] == [f"scan.nii.gz#axis=2,slice={number}" for number in range(5)]
    assert len(find_images([f"{tmp_path}/scan.nii.gz#axis=0,slice=all"])) == 7
    assert list(slices_of(f"{tmp_path}/scan.nii.gz#axis=1"))[-1] == "axis=1,slice=5"
    (broken,) = find_images([f"{tmp_path}/gone.nii.gz#slice=all"])
    with pytest.raises(ImageReadError, match=r"gone\.nii\.gz: no such file"):
        read_image(broken)


def test_slices_are_images_of_a_run(tmp_path, volume):
    path = write_nifti(tmp_path / "scan.nii.gz", volume)
    names = [f"{path}#slice=1", f"{path}#slice=2"]
    assert [str(found) for found in images_to_score(names, tmp_path / "out").images] == names
    layout = RunLayout.plan(tmp_path / "out", names)
    assert len({layout.file(name, "overlay") for name in names}) == 2
    with pytest.raises(ConfigError, match="no such file or folder"):
        images_to_score([f"{tmp_path}/gone.nii.gz#slice=1"], tmp_path / "out")


def test_a_number_sign_in_a_files_name(tmp_path):
    path = write_dicom(tmp_path / "case#frame=0.dcm", RAMP)
    assert is_medical(path)
    assert medical_path(path).file == str(path)
    assert read_image(path).size == (16, 16)
    assert not is_medical("a.png#frame=0")


def test_missing_packages_are_named(tmp_path, volume, monkeypatch):
    dicom = write_dicom(tmp_path / "a.dcm", RAMP)
    nifti = write_nifti(tmp_path / "a.nii", volume)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    for path, package in ((dicom, "pydicom"), (nifti, "nibabel")):
        with pytest.raises(
            ImageReadError, match=rf"needs the package '{package}': pip install 'zsad\[medical\]'"
        ):
            read_image(path)

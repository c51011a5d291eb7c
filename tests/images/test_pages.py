"""All pages, frames and slices of a file as images of their own."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from helpers.image_bytes import encode
from zsad.cli import app
from zsad.errors import ConfigError, ImageReadError, ImageWarning
from zsad.files.json_text import read_json
from zsad.images.finding import find_images
from zsad.images.names import RemoteFile
from zsad.images.pages import MOST_PARTS, parts_of
from zsad.images.reading import read_image

LEVELS = (10, 120, 240)
PAGES = [Image.new("L", (40, 30), level) for level in LEVELS]


def _write(folder: Path) -> None:
    for suffix in ("tif", "gif", "webp", "TIFF"):
        kind = {"tif": "TIFF", "TIFF": "TIFF"}.get(suffix, suffix.upper())
        options = {"lossless": True} if kind == "WEBP" else {}
        content = encode(PAGES[0], kind, save_all=True, append_images=PAGES[1:], **options)
        (folder / f"p.{suffix}").write_bytes(content)
    PAGES[0].save(folder / "single.tif")
    PAGES[0].save(folder / "single.png")


def _level(name: str | Path) -> int:
    return int(read_image(name).getpixel((0, 0))[0])


def test_all_pages_of_a_folder(tmp_path: Path) -> None:
    _write(tmp_path)
    found = [str(path) for path in find_images(tmp_path, pages="all")]
    assert len(found) == 4 * 3 + 2
    for name in ("p.tif", "p.gif", "p.webp", "p.TIFF"):
        named = [path for path in found if f"{name}#" in path]
        assert named == [f"{tmp_path / name}#page={number}" for number in range(3)]
        assert [_level(path) for path in named] == list(LEVELS)
        assert [str(path) for path in find_images(f"{tmp_path / name}#page=all")] == named
    assert len(find_images(tmp_path)) == 6


def test_smaller_copies_are_no_pages(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    file = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(file) as writer:
        writer.write(np.full((64, 64), 10, np.uint8), photometric="minisblack")
        writer.write(np.full((32, 32), 10, np.uint8), photometric="minisblack", subfiletype=1)
        writer.write(np.full((64, 64), 20, np.uint8), photometric="minisblack")
    assert [path.name for path in parts_of(file)] == ["pyramid.tif#page=0", "pyramid.tif#page=2"]  # type: ignore[union-attr]


def test_frames_of_dicom(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 8, 6, 3
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = b"".join(bytes([level]) * 48 for level in LEVELS)
    for name in ("cine.dcm", "IM000001"):
        dataset.save_as(tmp_path / name, enforce_file_format=True)
        named = find_images(tmp_path / name, pages="all")
        assert [path.name for path in named] == [f"{name}#frame={number}" for number in range(3)]  # type: ignore[union-attr]
        assert [_level(path) for path in named] == list(LEVELS)
        with pytest.raises(ImageReadError, match="holds 3 frames; name one"):
            read_image(tmp_path / name)
    dataset.NumberOfFrames = 10**9
    dataset.save_as(tmp_path / "cine.dcm", enforce_file_format=True)
    (many,) = parts_of(tmp_path / "cine.dcm")
    with pytest.raises(ImageReadError, match="too many images"):
        read_image(many)
    assert MOST_PARTS < 10**9


def test_slices_and_volumes_of_nifti(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    values = np.arange(2 * 3 * 4 * 2, dtype=np.int16).reshape(2, 3, 4, 2)
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "scan.nii.gz")
    found = find_images(tmp_path, pages="all")
    assert len(found) == 4 * 2
    assert found[-1].name == "scan.nii.gz#axis=2,slice=3,volume=1"  # type: ignore[union-attr]
    for path in found:
        read_image(path)
    one = find_images(f"{tmp_path}/scan.nii.gz#volume=1,slice=all")
    assert [path.name for path in one] == [path.name for path in found[4:]]  # type: ignore[union-attr]
    nibabel.Nifti1Image(values[..., 0], np.eye(4)).to_filename(tmp_path / "one.nii")
    with pytest.warns(ImageWarning, match="several slices, of which the middle one is read"):
        read_image(tmp_path / "one.nii")


def test_pages_in_buckets() -> None:
    fsspec = pytest.importorskip("fsspec")
    content = encode(PAGES[0], "TIFF", save_all=True, append_images=PAGES[1:])
    fsspec.filesystem("memory").pipe("/bucket/shots/p.tif", content)
    expected = [f"memory://bucket/shots/p.tif#page={number}" for number in range(3)]
    assert find_images("memory://bucket/shots", pages="all") == expected
    assert find_images("memory://bucket/shots/p.tif#page=all") == expected
    (second,) = find_images("memory://bucket/shots/p.tif#page=1")
    assert isinstance(second, RemoteFile)
    assert _level(second) == 120
    with pytest.raises(ImageReadError, match="there is no page 7"):
        read_image(RemoteFile("memory://bucket/shots/p.tif#page=7"))


def test_damaged_files_stay_and_tell_why(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0 damaged")
    (tmp_path / "b.gif").write_bytes(b"")
    found = find_images(tmp_path, pages="all")
    assert [path.name for path in found] == ["a.tif", "b.gif"]  # type: ignore[union-attr]


def test_the_note_comes_once_per_file(tmp_path: Path) -> None:
    _write(tmp_path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        read_image(tmp_path / "p.gif")
        read_image(tmp_path / "p.tif")
    assert [str(each.message).split(":")[0][-5:] for each in told] == ["p.gif", "p.tif"]


def test_pages_of_predict_iter(tmp_path: Path) -> None:
    import zsad

    _write(tmp_path)
    detector = zsad.load("clip_ac")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ImageWarning)
        found = list(detector.predict_iter(tmp_path, pages="all"))
    assert len(found) == 4 * 3 + 2
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        assert len(list(detector.predict_iter(str(tmp_path)))) == 6
    notes = [str(each.message) for each in told if issubclass(each.category, ImageWarning)]
    assert len(notes) == 4  # one for each file of several pages
    assert all("pages" in note for note in notes)
    with pytest.raises(ConfigError, match="pages"):
        next(detector.predict_iter(tmp_path, pages="some"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r'pages="all" takes a folder'):
        next(detector.predict_iter([tmp_path / "p.tif"], pages="all"))


@pytest.mark.parametrize("quiet", [[], ["-q"], ["--json"]])
def test_command_line(tmp_path: Path, quiet: list[str]) -> None:
    _write(tmp_path)
    out = tmp_path / "out"
    arguments = ["predict", str(tmp_path / "p.tif"), "--method", "clip_ac", "--out", str(out), *quiet]
    done = CliRunner().invoke(app, [*arguments, "--pages", "all"])
    assert done.exit_code == 0, done.output
    rows = (out / "results.jsonl").read_text().splitlines()
    assert len(rows) == 3
    assert "p.tif#page=2" in rows[2]
    assert len(list((out / "overlays").iterdir())) == 3
    assert read_json(out / "settings.json")
    again = CliRunner().invoke(app, arguments)
    assert "--pages all" in again.stderr
    assert CliRunner().invoke(app, [*arguments, "--pages", "some"]).exit_code == 2

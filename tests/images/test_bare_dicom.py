"""DICOM files without a suffix are found by their content."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.data.folder import open_datasets
from zsad.images.finding import find_images, images_in

pydicom = pytest.importorskip("pydicom", reason="the extra `medical` is not installed")

NAMES = ("IM000001", "1.2.840.113619.2.55.3", "I10")


def _export(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    """A folder as an archive exports it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number + 1}"
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.Rows = dataset.Columns = 32
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation = 7, 0
        dataset.PixelData = np.random.default_rng(number).integers(0, 256, 1024).astype(np.uint8).tobytes()
        dataset.save_as(folder / name, enforce_file_format=True)
    for name in ("DICOMDIR", "dicomdir", "readme.txt"):
        (folder / name).write_bytes((folder / names[0]).read_bytes())
    for name in ("LICENSE", "core.123", "empty"):
        (folder / name).write_bytes(b"" if name == "empty" else b"no image")
    return folder


def test_folders_and_patterns(tmp_path: Path) -> None:
    export = _export(tmp_path / "study" / "series")
    os.mkfifo(export / "pipe")
    expected = sorted(export / name for name in NAMES)
    assert sorted(find_images(tmp_path)) == expected
    assert sorted(find_images(f"{export}/*")) == expected
    assert images_in(export) == expected


def test_predict_calibrate_and_references(tmp_path: Path) -> None:
    export = _export(tmp_path / "series")
    run, weights = CliRunner().invoke, ("--method", "clip_ac", "-q")
    done = run(app, ["predict", str(export), *weights, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 3
    done = run(app, ["calibrate", str(export), *weights, "--rate", "0.4", "--out", str(tmp_path / "c.json")])
    assert done.exit_code == 0, done.output
    detector = zsad.load("winclip", references=export)
    assert len(detector.reference_fingerprints) == 3


def test_data_layouts(tmp_path: Path) -> None:
    _export(tmp_path / "test" / "good")
    _export(tmp_path / "test" / "crack")
    (dataset,) = open_datasets(tmp_path, "test")
    assert len(dataset.samples) == 6
    assert {sample.label for sample in dataset.samples} == {0, 1}


@pytest.mark.parametrize("quiet", [["-q"], ["--json"], ["-q", "--json"], []])
def test_quiet_users_learn_what_was_left_out(tmp_path: Path, quiet: list[str]) -> None:
    for name in ("good/1.png", "good/ground_truth/1_mask.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
        Image.fromarray(levels if "mask" not in name else (levels > 200).astype(np.uint8) * 255).save(path)
    arguments = [
        "predict",
        str(tmp_path / "in"),
        "--method",
        "winclip",
        "--out",
        str(tmp_path / "out"),
        *quiet,
    ]
    done = CliRunner().invoke(app, [*arguments, "--references", str(tmp_path / "in")])
    assert done.exit_code == 0, done.output
    line = "left out: 1 mask of images (--include-results takes them)"
    assert f"note: references: {line}" in done.stderr
    if quiet:
        assert f"note: {line}" in done.stderr
    else:
        assert line[1:] in done.stdout.replace("\n", " ")
    if quiet == ["-q"]:
        assert done.stdout == ""

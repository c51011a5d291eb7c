"""What a bundle holds: written and read again, and every damage refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from zsad.deploy.bundle import (
    BUNDLE_FILE,
    Bundle,
    Graphs,
    Parity,
    Promise,
    file_records,
    read_bundle,
    region_of,
    region_record,
    write_bundle,
)
from zsad.errors import ConfigError, DataError
from zsad.images.region import Region
from zsad.types import ScoreScale


@pytest.fixture
def folder(tmp_path):
    """A folder with a graph that nobody runs."""
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "model.onnx").write_bytes(b"graph" * 300_000)
    (path / "README.md").write_text("words", encoding="utf-8")
    return path


def bundle_in(folder, **changes):
    found = Bundle(
        runner="onnx",
        precision="fp32",
        method="auto",
        backbone="tiny",
        weights="0123456789abcdef",
        settings={"method": "auto", "config": {"sigma": 4.0}},
        image_size=224,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.1),
        bits=12,
        threshold=0.5,
        map_threshold=0.7,
        score_scale=ScoreScale(0.1, (0.3, 0.4)),
        promise=Promise(0.05, 0.95, ("It holds.",)),
        tile="auto",
        graphs=Graphs("model.onnx"),
        parity=Parity(8, "given images", (1, 4), 1e-7, 1e-6, 1e-5, 1e-4, {"whole": (1e-7, 1e-6)}),
        files=file_records(folder),
    )
    return replace(found, **changes)


def test_what_is_written_is_read_again(folder):
    bundle = bundle_in(folder)
    write_bundle(bundle, folder)
    again = read_bundle(folder)
    assert again == bundle
    assert again.preparation.size == 224
    assert again.preparation.bits == 12


def test_the_readme_may_be_edited(folder):
    write_bundle(bundle_in(folder), folder)
    (folder / "README.md").write_text("other words", encoding="utf-8")
    assert read_bundle(folder).method == "auto"


@pytest.mark.parametrize("region", [Region.of_box("10%,20,80%,300"), Region.of_mask(np.eye(37) > 0), None])
def test_the_region_comes_back(folder, region):
    record = None if region is None else region_record(region, folder)
    write_bundle(bundle_in(folder, roi=record, files=file_records(folder)), folder)
    assert region_of(read_bundle(folder), folder) == region


def test_no_bundle(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no bundle\.json"):
        read_bundle(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        read_bundle(tmp_path / "none")
    (tmp_path / "model.onnx").write_bytes(b"graph")
    with pytest.raises(ConfigError, match="is a file: give the folder"):
        read_bundle(tmp_path / "model.onnx")


def edited(folder, **changes):
    """Writes a bundle whose JSON has other values."""
    write_bundle(bundle_in(folder), folder)
    path = folder / BUNDLE_FILE
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zsad_bundle": 2, "version": "99"}, "zsad 99, which is newer"),
        ({"zsad_bundle": "1"}, "is not a bundle"),
        ({"image_size": 0}, "image_size must be"),
        ({"surprise": 1}, "surprise is unknown"),
        ({"graphs": {"whole": "../model.onnx"}}, "is no name of a file"),
        ({"graphs": {"whole": "/etc/passwd"}}, "is no name of a file"),
        ({"graphs": {"whole": "other.onnx"}}, "has no digest"),
        ({"files": {"..": {"bytes": 1, "sha256": ""}}}, "is no name of a file"),
    ],
)
def test_damaged_content_is_refused(folder, changes, message):
    edited(folder, **changes)
    with pytest.raises(DataError, match=message) as caught:
        read_bundle(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 0.1},
        {"image_size": 320},
        {"std": [0.0, 0.2, 0.1]},
        {"map_range": [1.0, 0.0]},
        {"promise": None},
        {"sha256": None},
        {"sha256": "0" * 64},
    ],
)
def test_edited_values_are_refused(folder, changes):
    edited(folder, **changes)
    with pytest.raises(DataError, match=r"was edited after the export.*export again") as caught:
        read_bundle(folder)
    assert "\n" not in str(caught.value)


def test_another_order_and_indentation_are_no_edit(folder):
    write_bundle(bundle_in(folder), folder)
    path = folder / BUNDLE_FILE
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(dict(reversed(values.items())), indent=7), encoding="utf-8")
    assert read_bundle(folder) == bundle_in(folder)


def test_changed_files_are_refused(folder):
    write_bundle(bundle_in(folder), folder)
    graph = folder / "model.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + b"!")
    with pytest.raises(DataError, match=r"model\.onnx is not the file"):
        read_bundle(folder)
    graph.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"model\.onnx is not the file"):
        read_bundle(folder)
    graph.unlink()
    with pytest.raises(DataError, match=r"model\.onnx is missing"):
        read_bundle(folder)


def test_reading_needs_no_torch():
    code = "import sys, zsad.deploy.bundle; print([m for m in ('torch', 'scipy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"

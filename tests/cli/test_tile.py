"""`--tile` of predict, calibrate and evaluate, end to end on a random backbone."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.detector.loading import load


@pytest.fixture
def run(monkeypatch, make_small_clip):
    monkeypatch.setenv("COLUMNS", "400")  # messages on one line

    def load_on_small(method=None, backbone=None, checkpoint=None, **arguments):
        if checkpoint is None and arguments.get("calibration") in (None, "none"):
            method = method or "clip_ac"
        return load(method, make_small_clip(), checkpoint, **arguments)

    monkeypatch.setattr(zsad, "load", load_on_small)
    monkeypatch.setattr("zsad.evaluation.run.load", load_on_small)

    def invoke(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def parts(tmp_path):
    """Four images above twice the network's input of 32 pixels, and one below; half of them with a spot."""
    generator = np.random.default_rng(11)
    folder = tmp_path / "set"
    for kind, sizes in {"good": [(60, 150), (60, 150), (60, 150)], "spot": [(60, 150), (40, 40)]}.items():
        (folder / "test" / kind).mkdir(parents=True)
        for number, size in enumerate(sizes):
            pixels = generator.integers(90, 160, (*size, 3), dtype=np.uint8)
            mask = np.zeros(size, np.uint8)
            if kind == "spot":
                pixels[4:12, 4:12], mask[4:12, 4:12] = 0, 255
                (folder / "ground_truth" / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(folder / "ground_truth" / kind / f"{number}_mask.png")
            Image.fromarray(pixels).save(folder / "test" / kind / f"{number}.png")
    return folder


def records_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_predict_says_what_was_cut_and_why(run, parts, tmp_path):
    result = run("predict", parts / "test", "--tile", "auto", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    why = "4 of 5 images cut into tiles of 60 pixels (auto: a side above 64 pixels, or 3 times the other one)"
    assert why in result.output
    records = records_of(tmp_path / "run")
    assert [record.get("tile") for record in records] == [60, 60, 60, 60, None]
    with (tmp_path / "run" / "results.csv").open() as table:
        assert [row["tile"] for row in csv.DictReader(table)] == ["60", "60", "60", "60", ""]
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["tile"] == "auto"

    result = run("predict", parts / "test", "--tile", "40", "--resume", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "tile" in result.output


def test_without_the_option_nothing_is_cut(run, parts, tmp_path):
    result = run("predict", parts / "test", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "tiles" not in result.output
    assert all("tile" not in record for record in records_of(tmp_path / "run"))


@pytest.mark.parametrize("wrong", ["half", "-3", "0", "2.5"])
def test_other_settings_are_wrong_usage(run, parts, tmp_path, wrong):
    result = run("predict", parts, f"--tile={wrong}", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "tile is a side in pixels above 0, auto or none" in result.output


def test_a_calibration_brings_its_tiles_along_and_refuses_others(run, parts, tmp_path):
    out = tmp_path / "mine.safetensors"
    good = parts / "test" / "good"
    result = run("calibrate", good, "--tile", "auto", "--rate", "0.3", "--out", out)
    assert result.exit_code == 0, result.output
    result = run("predict", parts / "test", "--checkpoint", out, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "4 of 5 images cut into tiles" in result.output
    for tile, shown in (("none", "none"), ("48", "48")):
        result = run("predict", good, "--checkpoint", out, "--tile", tile, "--out", tmp_path / "other")
        assert result.exit_code == 2
        assert f"made with tile 'auto', and this detector has {shown}" in result.output

    whole = tmp_path / "whole.json"
    assert run("calibrate", good, "--rate", "0.3", "--out", whole).exit_code == 0
    result = run("predict", good, "--calibration", whole, "--tile", "auto", "--out", tmp_path / "other")
    assert result.exit_code == 2
    assert "made with tile none, and this detector has 'auto'" in result.output


def test_evaluate_by_tiles_at_the_size_of_the_images(run, parts, tmp_path):
    (parts / "test" / "good" / "9.png").write_bytes(b"broken")
    arguments = ("--data", parts, "--method", "clip_ac", "--out", tmp_path / "run")
    result = run("evaluate", *arguments, "--tile", "auto")
    assert result.exit_code == 3, result.output
    (found,) = json.loads((tmp_path / "run" / "results.json").read_text())["runs"]
    assert found["tile"] == "auto"
    (category,) = found["categories"]
    assert (category["normal"], category["anomalous"]) == (3, 2)
    assert 0 <= category["metrics"]["pixel_auroc"] <= 1
    assert "9.png" in category["failed"][0]

    result = run("evaluate", *arguments, "--resume")
    assert result.exit_code == 2
    assert "tile" in result.output
